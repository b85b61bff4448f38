"""What every range algorithm must hold."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np

from onnxq.numerics.affine import params_of
from onnxq.numerics.ends import ends
from onnxq.numerics.histogram import HUGE, FloatHistogram, merge
from onnxq.numerics.observe import observe
from onnxq.numerics.tiles import iterate
from onnxq.ranges.minmax import MinMax
from onnxq.types import Array, IntType, QuantSpec, RangeAlgorithm, TensorStats, Tile

KEEP = 1024  # values at each end; fewer than the largest of the tensors has


@dataclass(frozen=True)
class RangeCase:
    """One question to a range algorithm.

    Attributes:
        name: What kind of data was seen, at which granularity, for which type.
        stats: What was seen.
        spec: What is asked.
    """

    name: str
    stats: TensorStats
    spec: QuantSpec

    def __str__(self) -> str:
        """Return the name, for the ids of parametrized tests."""
        return self.name


def range_cases() -> list[RangeCase]:
    """Return every kind of data, per tensor and in tiles, for every kind of type.

    The data: constant, all zero, one element, none at all, one-sided, denormal, ±1e29, both
    mixed, only NaN and infinities, and a few thousand normal values.
    """
    cases = []
    for what, array in _data().items():
        for tile in _tiles(array):
            stats = statistics(array, tile)
            for dtype, kind in _TYPES:
                spec = QuantSpec(
                    dtype=dtype,
                    symmetric=kind != "affine",
                    power_of_two=kind == "power of two",
                    tile=tile,
                    range=MinMax(),
                )
                reach = "×".join(map(str, tile)) or "tensor"
                cases.append(RangeCase(f"{what}, {reach}, {dtype.name} {kind}", stats, spec))
    return cases


def statistics(array: Array, tile: Tile = (), keep: int = KEEP) -> TensorStats:
    """Return all that statistics can hold of an array.

    Args:
        array: float values of any shape.
        tile: Reach of one entry.
        keep: How many values at each end.
    """
    ordinary = [part[np.abs(part) < HUGE] for part in iterate(array, tile)]
    held = tuple(ends(part, (), keep)[0] for part in ordinary)
    return replace(observe(array, tile), ends=held)


def check_range_fits_tiles(algorithm: RangeAlgorithm, case: RangeCase) -> None:
    """The range has one interval a tile; it is finite, never NaN, and contains zero."""
    chosen = algorithm(case.stats, case.spec)
    assert chosen.lo.shape == case.stats.lo.shape, "lo must have one entry a tile"
    assert chosen.hi.shape == case.stats.lo.shape, "hi must have one entry a tile"
    assert np.isfinite(chosen.lo).all(), "lo must be finite"
    assert np.isfinite(chosen.hi).all(), "hi must be finite"
    assert (chosen.lo <= 0).all(), "the range must contain zero: lo ≤ 0"
    assert (chosen.hi >= 0).all(), "the range must contain zero: hi ≥ 0"


def check_range_makes_parameters(algorithm: RangeAlgorithm, case: RangeCase) -> None:
    """The range turns into a positive finite scale and a zero point that is a code."""
    params = params_of(algorithm(case.stats, case.spec), case.spec)
    assert np.isfinite(params.scale).all(), "the scale must be finite"
    assert (params.scale > 0).all(), "the scale must be positive"


def check_range_keeps_statistics(algorithm: RangeAlgorithm, case: RangeCase) -> None:
    """The statistics are not changed by the call."""
    before = deepcopy(case.stats)
    algorithm(case.stats, case.spec)
    assert _flat(case.stats) == _flat(before), "the algorithm must not change its input"


def check_range_repeats(algorithm: RangeAlgorithm, case: RangeCase) -> None:
    """The same statistics give the same range, bit by bit, also from an equal algorithm."""
    first = algorithm(case.stats, case.spec)
    for again in (algorithm, deepcopy(algorithm)):
        chosen = again(deepcopy(case.stats), case.spec)
        assert chosen.lo.tobytes() == first.lo.tobytes(), "lo must repeat"
        assert chosen.hi.tobytes() == first.hi.tobytes(), "hi must repeat"


def check_range_ignores_empty_parts(algorithm: RangeAlgorithm, case: RangeCase) -> None:
    """Merging with statistics that saw nothing changes nothing."""
    nothing = TensorStats(
        count=np.zeros_like(case.stats.count),
        lo=np.full_like(case.stats.lo, np.inf),
        hi=np.full_like(case.stats.hi, -np.inf),
        histograms=tuple(_NOTHING for _ in case.stats.histograms),
        ends=tuple(ends(np.zeros(0, np.float32), (), held.keep)[0] for held in case.stats.ends),
    )
    first = algorithm(case.stats, case.spec)
    second = algorithm(merge(nothing, case.stats), case.spec)
    assert second.lo.tobytes() == first.lo.tobytes(), "lo must not depend on empty parts"
    assert second.hi.tobytes() == first.hi.tobytes(), "hi must not depend on empty parts"


RangeCheck = Callable[[RangeAlgorithm, RangeCase], None]

RANGE_CHECKS: tuple[RangeCheck, ...] = (
    check_range_fits_tiles,
    check_range_makes_parameters,
    check_range_keeps_statistics,
    check_range_repeats,
    check_range_ignores_empty_parts,
)

_TYPES = (
    (IntType(8, signed=False), "affine"),
    (IntType(8, signed=True), "symmetric"),
    (IntType(4, signed=True), "symmetric"),
    (IntType(16, signed=False), "affine"),
    (IntType(6, signed=True), "power of two"),
    (IntType(16, signed=True), "power of two"),
)

_NOTHING = FloatHistogram(0, 0, np.zeros(0, np.int64), 0, np.zeros(0, np.int64))


def _data() -> dict[str, Array]:
    """Return the tensors the statistics are taken of, float32."""
    rng = np.random.default_rng(0)
    signs = np.array([[1, -1, 1], [-1, 1, -1]])
    mixed = np.array([[1e29, 1e-40, 0], [-1e29, -1e-30, 1]])
    strange = np.array([[np.nan, np.inf, -np.inf], [1e30, -1e30, np.nan]])
    return {
        name: np.asarray(values, np.float32)
        for name, values in {
            "constant": np.full((2, 3), 0.75),
            "negative constant": np.full((2, 3), -0.75),
            "all zero": np.zeros((2, 3)),
            "one element": np.array([[-2.5]]),
            "empty": np.zeros((2, 0)),
            "denormal": 1e-40 * signs,
            "positive denormal": 1e-45 * np.abs(signs),
            "smallest normal": 2.0**-126 * signs,
            "±1e29": 1e29 * signs,
            "mixed magnitudes": mixed,
            "only NaN and infinities": strange,
            "some NaN and infinities": np.concatenate([strange, mixed], axis=1),
            "relu": np.maximum(rng.normal(size=(7, 300)), 0),
            "heavy tails": rng.standard_t(3, size=(7, 300)),
        }.items()
    }


def _tiles(array: Array) -> list[Tile]:
    """Return the granularities to ask for: tensor, channel, and blocks with short last ones."""
    if not array.size:
        return [(), (1, 0)]
    return [(), (1, 0), (2, 2) if array.size < 100 else (3, 128)]


def _flat(stats: TensorStats) -> list[object]:
    """Return all that statistics hold, as values that compare."""
    held: list[object] = [a.tobytes() for a in (stats.count, stats.lo, stats.hi)]
    held += [stats.nan, stats.infinite]
    for h in stats.histograms:
        held += [h.zeros, h.negative_start, h.negative.tobytes()]
        held += [h.positive_start, h.positive.tobytes()]
    for e in stats.ends:
        held += [e.keep, e.above, e.below, e.largest.tobytes(), e.smallest.tobytes()]
    return held
