"""What the outlier-variance range keeps whatever the data and their order."""

from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxq.errors import CalibrationError
from onnxq.numerics.ends import ends
from onnxq.numerics.extremes import extremes
from onnxq.numerics.histogram import merge
from onnxq.numerics.tiles import iterate
from onnxq.ranges.minmax import MinMax
from onnxq.ranges.outlier_var import OutlierVar
from onnxq.testing import statistics
from onnxq.types import Array, IntType, QuantSpec, TensorStats, Tile
from tests import strategies
from tests.strategies import Drawn

SPEC = QuantSpec(dtype=IntType(8, signed=False), symmetric=False, range=MinMax())
INFINITE = float("inf")
NOT_FINITE = float("nan")
ROWS = hnp.arrays(np.float32, st.integers(1, 60), elements=strategies.MODERATE)
KS = st.none() | st.integers(1, 70) | st.floats(0.01, 0.99)
SHARP = st.floats(0, 50) | st.just(INFINITE)
KINDS = st.builds(
    OutlierVar,
    k1=KS,
    k2=KS,
    alpha=SHARP,
    beta=SHARP,
    variance=st.sampled_from(["stray", "relative", "raw"]),
    extremes=st.sampled_from(["signed", "all"]),
)


def chosen(algorithm: OutlierVar, stats: TensorStats) -> tuple[float, float]:
    found = algorithm(stats, SPEC)
    return float(found.lo), float(found.hi)


def widest(values: Array) -> tuple[float, float]:
    return min(0.0, float(values.min())), max(0.0, float(values.max()))


def of_weights(values: Array, tile: Tile = ()) -> TensorStats:
    return replace(extremes(values, tile), ends=ends(values, tile))


@given(ROWS, KS, KS)
def test_alpha_0_is_minmax(values: Array, k1: float | None, k2: float | None) -> None:
    algorithm = OutlierVar(k1=k1, k2=k2, alpha=0, beta=0)
    assert chosen(algorithm, statistics(values)) == widest(values)


@given(
    st.floats(2.0**-20, 2.0**20, width=32),
    st.floats(-(2.0**20), 0, width=32),
    ROWS,
    KINDS,
    st.data(),
)
def test_no_spread_at_the_ends_is_minmax(
    high: float, low: float, values: Array, algorithm: OutlierVar, data: st.DataObject
) -> None:
    plateau = data.draw(st.integers(1, 30))
    k = min(plateau, 30)
    ends_of_it = np.repeat(np.array([low, high], np.float32), plateau)
    flat = np.concatenate([np.clip(values, low, high), ends_of_it])
    found = chosen(replace(algorithm, k1=k, k2=k, extremes="signed"), statistics(flat))
    assert found == widest(flat)


@given(ROWS, st.integers(1, 70), st.integers(1, 70))
def test_infinite_alpha_is_the_kth_value(values: Array, k1: int, k2: int) -> None:
    algorithm = OutlierVar(k1=k1, k2=k2, alpha=INFINITE, beta=INFINITE)
    lo, hi = chosen(algorithm, statistics(values))
    positive, negative = np.sort(values[values > 0])[::-1], np.sort(values[values < 0])
    assert hi == (positive[:k1][-1] if positive.size else 0)
    assert lo == (negative[:k2][-1] if negative.size else 0)


@given(ROWS, KINDS)
def test_limits_lie_between_the_kth_value_and_the_extreme(
    values: Array, algorithm: OutlierVar
) -> None:
    stats = statistics(values)
    lo, hi = chosen(algorithm, stats)
    everything = replace(algorithm, alpha=INFINITE, beta=INFINITE)
    kth = chosen(everything, stats)
    most = widest(values)
    assert most[0] <= lo <= kth[0] <= 0 <= kth[1] <= hi <= most[1]
    for below, above in algorithm.limits(stats):
        assert below.value <= above.value
        assert 0 <= below.tendency <= 1
        assert 0 <= above.tendency <= 1


@given(ROWS, KINDS, SHARP, SHARP)
def test_a_larger_alpha_never_widens(
    values: Array, algorithm: OutlierVar, one: float, other: float
) -> None:
    gentle = replace(algorithm, alpha=min(one, other), beta=min(one, other))
    sharp = replace(algorithm, alpha=max(one, other), beta=max(one, other))
    wide, narrow = chosen(gentle, statistics(values)), chosen(sharp, statistics(values))
    assert wide[0] <= narrow[0] <= 0 <= narrow[1] <= wide[1]


@given(ROWS, KINDS, st.sampled_from(["stray", "relative"]), st.integers(-40, 40))
def test_powers_of_two_scale_the_range_exactly(
    values: Array, algorithm: OutlierVar, variance: str, exponent: int
) -> None:
    algorithm, factor = replace(algorithm, variance=variance), 2.0**exponent
    lo, hi = chosen(algorithm, statistics(values))
    scaled = chosen(algorithm, statistics(values * np.float32(factor)))
    assert scaled == (lo * factor, hi * factor)


@given(strategies.drawn(least=300), st.floats(0.01, 100))
def test_any_factor_scales_the_range_nearly(drawn: Drawn, factor: float) -> None:
    algorithm = OutlierVar(k1=0.3, k2=0.3)
    values = drawn.values()
    lo, hi = chosen(algorithm, statistics(values, keep=values.size))
    scaled = (values * np.float32(factor)).astype(np.float32)
    found = chosen(algorithm, statistics(scaled, keep=values.size))
    # r·k may lie on the other side of a whole number after rounding: the next value then
    np.testing.assert_allclose(found, (lo * factor, hi * factor), rtol=0.05, atol=0)


@given(strategies.rows(strategies.ORDINARY), KINDS, st.integers(1, 50), st.data())
def test_batches_order_and_shards_do_not_matter(
    values: Array, algorithm: OutlierVar, keep: int, data: st.DataObject
) -> None:
    limit = st.integers(1, keep)
    algorithm = replace(algorithm, k1=data.draw(limit), k2=data.draw(limit))
    parts = data.draw(strategies.split(values))
    merged = reduce(merge, (statistics(part, keep=keep) for part in parts))
    assert algorithm.limits(merged) == algorithm.limits(statistics(values, keep=keep))


@given(ROWS, KINDS, st.integers(1, 100))
def test_a_larger_table_changes_nothing(values: Array, algorithm: OutlierVar, keep: int) -> None:
    algorithm = replace(algorithm, k1=min(keep, 5), k2=min(keep, 7))
    small, large = statistics(values, keep=keep), statistics(values, keep=1000)
    assert algorithm.limits(small) == algorithm.limits(large)


@given(strategies.tiled(strategies.MODERATE), KINDS)
def test_a_tile_is_a_tensor(tiled: tuple[Array, Tile], algorithm: OutlierVar) -> None:
    array, tile = tiled
    alone = [algorithm.limits(of_weights(part))[0] for part in iterate(array, tile)]
    assert algorithm.limits(of_weights(array, tile)) == alone


@pytest.mark.parametrize(
    ("kind", "clipped"),
    [("gauss", 5), ("laplace", 22), ("student", 530), ("ten at 30", 476), ("one at 300", 999)],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_million_values_clip_as_many_as_expected(kind: str, clipped: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = 10**6
    values = rng.laplace(size=size) if kind == "laplace" else rng.normal(size=size)
    if kind == "student":
        values = rng.standard_t(3, size=size)
    elif kind == "ten at 30":
        values[:10] = 30
    elif kind == "one at 300":
        values[0] = 300
    stats = statistics(values.astype(np.float32), keep=4096)
    above = OutlierVar(k1=1000, variance="relative").limits(stats)[0][1]
    spread = {"student": 0.5, "laplace": 0.2}.get(kind, 0.01)  # t(3): a few values make it up
    assert above.index == pytest.approx(clipped, rel=spread, abs=2)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("strays", "far"), [(1, 300), (5, 30), (10, 30), (10, 100)])
def test_a_few_stray_values_are_clipped(strays: int, far: float, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=10**6).astype(np.float32)
    values[:strays] = far
    assert 3 < chosen(OutlierVar(), statistics(values, keep=4096))[1] < 5.5


@pytest.mark.parametrize("share", [0.0005, 0.003])
def test_a_populated_tail_is_kept(share: float) -> None:
    values = np.random.default_rng(0).normal(size=10**6).astype(np.float32)
    values[: round(share * values.size)] *= 10
    stats = statistics(values, keep=4096)
    (kept,) = OutlierVar().limits(stats)
    (cut,) = OutlierVar(variance="relative").limits(stats)
    for mild, sharp in zip(kept, cut, strict=True):
        assert mild.index < 0.03 * mild.k
        assert sharp.index > 0.03 * sharp.k


def test_a_share_is_of_the_values_of_that_sign() -> None:
    values = np.concatenate([np.arange(1, 1001), -np.arange(1, 101), np.zeros(5000)])
    stats = statistics(values.astype(np.float32), keep=1000)
    ((below, above),) = OutlierVar(k1=0.1, k2=0.1).limits(stats)
    assert (below.k, above.k) == (10, 100)
    ((below, above),) = OutlierVar().limits(stats)
    assert (below.k, above.k) == (1, 1)
    ((below, above),) = OutlierVar(k1=0.1, k2=50, extremes="all").limits(stats)
    assert (below.k, above.k) == (50, 610)


def test_the_default_takes_no_more_than_is_held() -> None:
    stats = statistics(np.arange(1, 20001, dtype=np.float32), keep=7)
    assert OutlierVar().limits(stats)[0][1].k == 7


def test_the_published_reading_keeps_the_limits_apart() -> None:
    values = np.arange(1, 11, dtype=np.float32)
    ((below, above),) = OutlierVar(
        k1=10, k2=10, alpha=INFINITE, beta=INFINITE, extremes="all"
    ).limits(of_weights(values))
    assert (below.k, above.k) == (5, 5)
    assert (below.value, above.value) == (5, 6)


def test_a_relu_output_collapses_in_the_published_reading_only() -> None:
    values = np.zeros(1000, np.float32)
    values[:100] = np.linspace(1, 2, 100)
    stats = of_weights(values)
    sharp = OutlierVar(k1=0.3, alpha=INFINITE)
    assert chosen(sharp, stats)[1] > 1.7
    assert chosen(replace(sharp, variance="raw", extremes="all"), stats) == (0, 0)
    assert chosen(replace(sharp, extremes="all"), stats) == (0, 2)  # median 0: v = 0


@pytest.mark.parametrize(("side", "sign"), [("k1", 1), ("k2", -1)])
def test_more_than_is_held_names_the_flag(side: str, sign: int) -> None:
    stats = statistics(sign * np.arange(1, 101, dtype=np.float32), keep=20)
    for k, needed in ((50, 50), (0.3, 30), (1000, 100)):
        algorithm = OutlierVar(**{side: k})
        with pytest.raises(CalibrationError, match=rf"{side} .*--keep-extremes {needed}$"):
            algorithm.limits(stats)
    held = statistics(sign * np.arange(1, 101, dtype=np.float32), keep=100)
    assert OutlierVar(**{side: 1000}).limits(held)[0][sign > 0].k == 100


@pytest.mark.parametrize(
    "wrong",
    [
        {"k1": 0}, {"k2": -1}, {"k1": 1.5}, {"k2": NOT_FINITE}, {"k1": INFINITE},
        {"alpha": -1}, {"beta": NOT_FINITE}, {"variance": "rel"}, {"extremes": "both"},
    ],
    ids=str,
)  # fmt: skip
def test_options_out_of_bounds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OutlierVar(**wrong)  # type: ignore[arg-type]
