"""Random data: to try a model out, never to calibrate it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from calib_readers._common import Feed, Input
from calib_readers._options import Option, integer


class RandomReader:
    """Make feeds of noise, the same for the same seed.

    Floats are standard normal; integers are 0 or 1, inside any table of ids; booleans are even.

    Attributes:
        stackable: True when every input has an open first axis.
        notes: Says that a model is not calibrated by this.
    """

    name: ClassVar[str] = "random"
    stackable: bool

    def __init__(
        self,
        source: Path | None,
        inputs: Sequence[Input],
        *,
        samples: Option = 32,
        seed: Option = 0,
        size: Option = 1,
    ) -> None:
        """Resolve the shapes.

        Args:
            source: Not used.
            inputs: The model's inputs.
            samples: Number of feeds.
            seed: Of the random numbers.
            size: Length of open axes but the first, which has length 1.

        Raises:
            ValueError: An option is wrong, or an input has no rank or no type to make up.
        """
        del source
        self._samples = integer("samples", samples, least=1)
        self._seed = integer("seed", seed, least=0)
        length = integer("size", size, least=1)
        self._specs = {item.name: (_dtype(item), _shape(item, length)) for item in inputs}
        self.stackable = all(item.shape and item.shape[0] is None for item in inputs)
        what = f"{self._samples} samples of noise, seed {self._seed}"
        self.notes: tuple[str, ...] = (f"random: {what}: the result is not calibrated",)

    @staticmethod
    def accepts(path: Path) -> bool:
        """Take no path: random data are asked for by name only."""
        del path
        return False

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._samples

    def __iter__(self) -> Iterator[Feed]:
        """Yield one sample a feed, from the seed on."""
        rng = np.random.default_rng(self._seed)
        for _ in range(self._samples):
            yield {name: _noise(rng, *spec) for name, spec in self._specs.items()}


def _dtype(item: Input) -> np.dtype[Any]:
    try:
        dtype = np.dtype(item.dtype)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in "fiub":
        raise ValueError(f"reader 'random' makes no {item.dtype} for input {item.name!r}")
    return dtype


def _shape(item: Input, length: int) -> tuple[int, ...]:
    if item.shape is None:
        raise ValueError(f"reader 'random': input {item.name!r} has no shape; give data instead")
    opened = (1, *(length for _ in item.shape[1:]))
    return tuple(o if axis is None else axis for axis, o in zip(item.shape, opened, strict=False))


def _noise(
    rng: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    values = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
    return np.asarray(values).astype(dtype)
