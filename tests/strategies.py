"""What hypothesis draws: arrays with odd values, types, specs, ranges, tiles, statistics' inputs.

Strategies give plain arrays and values only; nothing here runs the code under test but the
constructors of the value types.
"""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxq.ranges.minmax import MinMax
from onnxq.types import Array, IntType, QuantSpec, Range, Tile

LARGEST = float(np.nextafter(np.float32(1e30), np.float32(0)))  # still ordinary
TINY = 2.0**-126  # smallest normal float32
ODD = (0.0, -0.0, 1e-45, -1e-45, 1e-40, TINY, -TINY, 1e-30, -1e-30, 1.0, -1.0, LARGEST, -LARGEST)
STRANGE = (float("nan"), -float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 3e38, -3e38)


def as_float32(value: float) -> float:
    return float(np.float32(value))


_near = st.floats(-8, 8, width=32)
_wide = st.floats(-LARGEST, LARGEST, width=32)
_size = st.floats(2.0**-20, 2.0**20, width=32)

ORDINARY = _near | st.sampled_from(ODD).map(as_float32) | _wide
"""Floats that take part in statistics: |x| < 1e30, any magnitude."""

ANYTHING = ORDINARY | st.sampled_from(STRANGE).map(as_float32)
"""Ordinary floats, and masks, infinities and NaN."""

MODERATE = st.just(0.0) | _size | _size.map(lambda x: -x)
"""Zero, or a magnitude within 2⁻²⁰ … 2²⁰: scaling by 2^±40 leaves it ordinary and normal."""

Floats = st.SearchStrategy[float]


def shapes(*, least: int = 1, rank: int = 3, side: int = 7) -> st.SearchStrategy[tuple[int, ...]]:
    return hnp.array_shapes(min_dims=0, max_dims=rank, min_side=least, max_side=side)


def tensors(elements: Floats = ORDINARY, *, least: int = 1) -> st.SearchStrategy[Array]:
    """float32 arrays of up to three axes."""
    return hnp.arrays(np.float32, shapes(least=least), elements=elements)


def rows(elements: Floats = ANYTHING) -> st.SearchStrategy[Array]:
    """float32 vectors, possibly empty."""
    return hnp.arrays(np.float32, st.integers(0, 40), elements=elements)


KINDS = ("normal", "relu", "laplace", "heavy", "shifted", "negative", "bimodal", "outliers")


@dataclass(frozen=True)
class Drawn:
    """Many values from a seed; shrinks to a small seed and says what it is."""

    kind: str
    seed: int
    size: int
    exponent: int

    def values(self) -> Array:
        rng = np.random.default_rng(self.seed)
        made = {
            "normal": lambda: rng.normal(size=self.size),
            "relu": lambda: np.maximum(rng.normal(size=self.size), 0),
            "laplace": lambda: rng.laplace(size=self.size),
            "heavy": lambda: rng.standard_t(3, size=self.size),
            "shifted": lambda: rng.normal(3, 1, size=self.size),
            "negative": lambda: -rng.exponential(size=self.size),
            "bimodal": lambda: rng.normal(size=self.size) / 2 + 4 * rng.integers(2, size=self.size),
            "outliers": lambda: (
                rng.normal(size=self.size) * np.where(np.arange(self.size) % 997 == 5, 30, 1)
            ),
        }[self.kind]()
        return (made * 2.0**self.exponent).astype(np.float32)


def drawn(least: int = 1, most: int = 3000) -> st.SearchStrategy[Drawn]:
    """Samples of the distributions that tensors have."""
    return st.builds(
        Drawn,
        kind=st.sampled_from(KINDS),
        seed=st.integers(0, 10**6),
        size=st.integers(least, most),
        exponent=st.integers(-20, 20),
    )


def int_types(most: int = 16) -> st.SearchStrategy[IntType]:
    return st.builds(IntType, st.integers(2, most), st.booleans())


def specs(most: int = 16) -> st.SearchStrategy[QuantSpec]:
    """Per-tensor specs; the range algorithm in them plays no part."""
    return st.builds(
        QuantSpec,
        dtype=int_types(most),
        symmetric=st.booleans(),
        range=st.just(MinMax()),
    )


def ranges() -> st.SearchStrategy[Range]:
    """One interval, its ends float32 and of any magnitude."""
    end = ORDINARY.map(abs)
    return st.builds(lambda lo, hi: Range(np.float64(-lo), np.float64(hi)), end, end)


@st.composite
def tiled(draw: st.DrawFn, elements: Floats = ORDINARY) -> tuple[Array, Tile]:
    """An array with a tile that fits its rank: short last tiles, whole axes, the empty tile."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=6))
    array = draw(hnp.arrays(np.float32, shape, elements=elements))
    tile = tuple(draw(st.integers(0, size + 1)) for size in shape)
    return array, draw(st.sampled_from([tile, tile, tile, ()]))


@st.composite
def split(draw: st.DrawFn, values: Array) -> list[Array]:
    """A vector, shuffled and cut into parts, some of them empty."""
    order = draw(st.permutations(range(values.size)))
    cuts = sorted(draw(st.lists(st.integers(0, values.size), max_size=4)))
    return np.split(values[np.array(order, dtype=np.intp)], cuts)
