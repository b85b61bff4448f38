"""A range that is asked for, tensor by tensor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxq.errors import RecipeError
from onnxq.numerics.fixed_point import ends_at
from onnxq.types import ANY_POSITION, Array, QuantSpec, Range, TensorStats

Ends = float | Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Given:
    """Take the range the recipe gives, whatever was seen.

    Either both ends, or the position of a power of two: the range from its smallest to its
    largest value. A list has one entry a channel or tile.

    Attributes:
        lo: Lower end, ≤ 0.
        hi: Upper end, ≥ 0.
        position: The decimal position.

    Raises:
        ValueError: Neither or both ways are used, an end is on the wrong side of 0, or there is
            no such position.
        RecipeError: When called: as many entries as the tensor has channels are wanted.
    """

    name: ClassVar[str] = "given"
    needs_histogram: ClassVar[bool] = False
    needs_ends: ClassVar[bool] = False

    lo: Ends | None = None
    hi: Ends | None = None
    position: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Check the options, and freeze lists."""
        if (self.lo is None, self.hi is None) not in ((True, True), (False, False)) or (
            (self.lo is None) == (self.position is None)
        ):
            raise ValueError("give lo and hi, or position")
        for name in ("lo", "hi", "position"):
            value = getattr(self, name)
            if isinstance(value, Sequence):
                object.__setattr__(self, name, tuple(value))
        if self.position is not None:
            least, most = ANY_POSITION
            asked = np.array(self.position)
            if asked.dtype.kind != "i" or asked.min() < least or asked.max() > most:
                raise ValueError(f"position must be whole and within {least} … {most}")
            return
        lo, hi = np.array(self.lo, np.float64), np.array(self.hi, np.float64)
        if not (np.isfinite(lo).all() and np.isfinite(hi).all()):
            raise ValueError("lo and hi must be finite")
        if (lo > 0).any() or (hi < 0).any():
            raise ValueError("0 must be within lo and hi")

    def __call__(self, stats: TensorStats, spec: QuantSpec) -> Range:
        """Return the range, one for each tile.

        Args:
            stats: Only their shape matters.
            spec: Its width says which values a position has.
        """
        if self.position is None:
            return Range(_shaped(self.lo, stats), _shaped(self.hi, stats))
        return Range(*ends_at(_shaped(self.position, stats).astype(np.int64), spec.dtype.bits))


def _shaped(values: object, stats: TensorStats) -> Array:
    """Return one value a tile."""
    given, shape = np.asarray(values), stats.lo.shape
    if given.size not in (1, stats.lo.size):
        raise RecipeError(
            f"range 'given' has {given.size} entries for a tensor of {stats.lo.size} scales"
        )
    return np.broadcast_to(given.reshape(-1), stats.lo.size).reshape(shape)
