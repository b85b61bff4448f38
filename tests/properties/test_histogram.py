"""Observing and merging: any split in any order is as good as seeing everything at once."""

from functools import reduce

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxq.numerics.ends import ends
from onnxq.numerics.extremes import extremes
from onnxq.numerics.histogram import HUGE, FloatHistogram, centres, merge
from onnxq.numerics.observe import Observer, Scratch, observe
from onnxq.types import Array, TensorStats, Tile
from tests import oracles, strategies


def runs(histogram: FloatHistogram) -> tuple[object, ...]:
    """Return all a histogram holds, as values that compare."""
    h = histogram
    sides = (h.negative_start, h.negative.tolist(), h.positive_start, h.positive.tolist())
    return (h.zeros, *sides)


def held(stats: TensorStats) -> tuple[object, ...]:
    """Return all that statistics hold, as values that compare."""
    arrays = tuple((a.shape, a.tobytes()) for a in (stats.count, stats.lo, stats.hi))
    ends = tuple(
        (e.keep, e.above, e.below, e.largest.tolist(), e.smallest.tolist()) for e in stats.ends
    )
    return (*arrays, stats.nan, stats.infinite, tuple(map(runs, stats.histograms)), ends)


@given(strategies.tensors(strategies.ANYTHING, least=0))
def test_observe_equals_the_loop(array: Array) -> None:
    stats = observe(array)
    expected = oracles.seen(array.reshape(-1).tolist())
    found = int(stats.count), float(stats.lo), float(stats.hi), stats.nan, stats.infinite
    assert found == expected
    assert stats.histograms[0].total == expected[0] - expected[3] - expected[4]


@given(strategies.tiled(strategies.ANYTHING))
def test_tiles_are_observed_one_by_one(tiled: tuple[Array, Tile]) -> None:
    array, tile = tiled
    stats = observe(array, tile)
    members = oracles.tile_members(array.shape, tile)
    for where, histogram in zip(sorted(members), stats.histograms, strict=True):
        alone = observe(np.array([array[index] for index in members[where]], np.float32))
        assert (stats.count[where], stats.lo[where], stats.hi[where]) == (
            alone.count,
            alone.lo,
            alone.hi,
        )
        assert runs(histogram) == runs(alone.histograms[0])


@given(strategies.tiled())
def test_extremes_equal_observe(tiled: tuple[Array, Tile]) -> None:
    found, expected = extremes(*tiled), observe(*tiled, histogram=False)
    for one, other in zip(
        (found.count, found.lo, found.hi), (expected.count, expected.lo, expected.hi), strict=True
    ):
        np.testing.assert_array_equal(one, other, strict=True)


@given(strategies.rows(), st.data(), st.integers(1, 9))
def test_merging_any_split_equals_the_whole(values: Array, data: st.DataObject, keep: int) -> None:
    parts = [observe(part, keep=keep) for part in data.draw(strategies.split(values))]
    assert held(reduce(merge, parts)) == held(observe(values, keep=keep))


@given(strategies.rows(), st.data(), st.integers(1, 9))
def test_folding_any_split_equals_the_whole(values: Array, data: st.DataObject, keep: int) -> None:
    observer, scratch = Observer(keep), Scratch()
    for part in data.draw(strategies.split(values)):
        observer.see(part, scratch)
    assert held(observer.stats()) == held(observe(values, keep=keep))


@given(strategies.tensors(strategies.ANYTHING, least=0), st.integers(1, 9))
def test_ends_equal_sorting(array: Array, keep: int) -> None:
    ordinary = array[np.abs(array) < HUGE]
    (expected,), (found,) = ends(ordinary, (), keep), observe(array, keep=keep).ends
    assert (found.above, found.below) == (expected.above, expected.below)
    np.testing.assert_array_equal(found.largest, expected.largest, strict=True)
    np.testing.assert_array_equal(found.smallest, expected.smallest, strict=True)


@given(strategies.rows(), strategies.rows(), strategies.rows())
def test_merge_is_commutative_and_associative(a: Array, b: Array, c: Array) -> None:
    x, y, z = observe(a), observe(b), observe(c)
    assert held(merge(x, y)) == held(merge(y, x))
    assert held(merge(merge(x, y), z)) == held(merge(x, merge(y, z)))


@given(strategies.rows(), strategies.rows())
def test_merge_leaves_its_arguments_alone(a: Array, b: Array) -> None:
    x, y = observe(a), observe(b)
    before = held(x), held(y)
    merge(x, y)
    assert (held(x), held(y)) == before


@given(strategies.drawn())
def test_points_are_near_the_values(drawn: strategies.Drawn) -> None:
    values = np.sort(drawn.values())
    points, counts = observe(values).histograms[0].points()
    assert (np.diff(points) > 0).all()
    assert (counts > 0).all()
    spread = np.repeat(points, counts)
    assert spread.size == values.size
    assert (np.abs(spread - values) <= np.abs(values.astype(np.float64)) * 2.0**-10).all()


@given(strategies.ORDINARY.filter(lambda x: x >= strategies.TINY))
def test_a_value_lies_in_its_bin(value: float) -> None:
    (point,), (count,) = observe(np.array([value])).histograms[0].points()
    assert count == 1
    assert abs(point - value) <= value * 2.0**-10
    start = observe(np.array([value])).histograms[0].positive_start
    assert centres(start, 1)[0] == point
