"""Observing by known values: bins, zeros, subnormals, huge values, NaN, block borders."""

import numpy as np
import pytest

from onnxq.numerics.histogram import EMPTY, FloatHistogram, centres, merge
from onnxq.numerics.observe import BLOCK, Observer, Scratch, observe
from onnxq.types import TensorStats


def values_of(histogram: FloatHistogram) -> dict[float, int]:
    points, counts = histogram.points()
    return dict(zip(points.tolist(), counts.tolist(), strict=True))


def test_a_bin_is_a_512th_of_its_value() -> None:
    inside = [1.0, 1 + 2**-10, np.nextafter(np.float32(1 + 2**-9), np.float32(0))]
    (histogram,) = observe(np.array([*inside, 1 + 2**-9])).histograms
    assert values_of(histogram) == {1 + 2**-10: 3, 1 + 3 * 2**-10: 1}


def test_signs_and_zeros() -> None:
    stats = observe(np.array([-1, -1, 0, -0.0, 1e-45, -1e-40, 3], np.float32))
    middle = 1 + 2.0**-10
    assert values_of(stats.histograms[0]) == {-middle: 2, 0: 4, 3 + 2.0**-9: 1}
    assert (stats.lo, stats.hi) == (-1, 3)


def test_subnormals_count_as_zero() -> None:
    tiny = np.float32(1e-40)
    stats = observe(np.array([-tiny, tiny]))
    assert (stats.lo, stats.hi) == (0, 0)
    assert stats.histograms[0].zeros == 2


def test_odd_values_are_counted_apart() -> None:
    below = np.nextafter(np.float32(1e30), np.float32(0))
    odd = np.array([np.nan, -np.nan, np.inf, -np.inf, 1e30, -3e38, below, -2], np.float32)
    stats = observe(odd)
    assert (stats.count, stats.nan, stats.infinite) == (8, 2, 4)
    assert (stats.lo, stats.hi) == (-2, below)
    assert stats.histograms[0].total == 2


@pytest.mark.parametrize("odd", [np.nan, np.inf, -1e30])
def test_nothing_ordinary(odd: float) -> None:
    stats = observe(np.full(5, odd, np.float32))
    assert (stats.count, stats.lo, stats.hi) == (5, np.inf, -np.inf)
    assert stats.histograms == (EMPTY,)


def test_nothing_at_all() -> None:
    stats = observe(np.zeros((0, 3), np.float32))
    assert (stats.count, stats.lo, stats.hi, stats.nan) == (0, np.inf, -np.inf, 0)
    assert stats.histograms == (EMPTY,)
    assert EMPTY.points()[0].size == 0


def test_minus_zero_comes_back_as_zero() -> None:
    stats = observe(np.array([-0.0], np.float32))
    assert str(stats.lo) == "0.0"
    assert str(stats.hi) == "0.0"


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_an_odd_value_anywhere_spoils_no_block(size: int) -> None:
    values = np.linspace(-1, 2, size, dtype=np.float32)
    clean = observe(values)
    for place in (0, BLOCK - 1, size - 1):
        spoiled = np.insert(values, min(place, size), np.float32(np.nan))
        stats = observe(spoiled)
        assert (stats.nan, stats.infinite, stats.count) == (1, 0, size + 1)
        assert (stats.lo, stats.hi) == (clean.lo, clean.hi)
        assert values_of(stats.histograms[0]) == values_of(clean.histograms[0])


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_seen_as_float32(dtype: type[np.floating]) -> None:
    values = np.array([-1.5, 0.25, np.nan, np.inf], dtype)
    stats, expected = observe(values), observe(values.astype(np.float32))
    assert (stats.lo, stats.hi, stats.nan, stats.infinite) == (-1.5, 0.25, 1, 1)
    assert values_of(stats.histograms[0]) == values_of(expected.histograms[0])


def test_a_float64_beyond_float32_is_infinite() -> None:
    assert observe(np.array([1.0, 1e300, -1e300])).infinite == 2


def test_scattered_and_reversed_views() -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    stats = observe(values[::-2, ::3])
    assert (stats.count, stats.lo, stats.hi) == (4, 6, 21)
    assert stats.histograms[0].total == 4


def test_a_scalar() -> None:
    stats = observe(np.float32(2.5).reshape(()))
    assert (stats.count.shape, stats.lo, stats.hi) == ((), 2.5, 2.5)


def test_without_histogram() -> None:
    stats = observe(np.array([1.0, 2.0]), histogram=False)
    assert stats.histograms == ()
    assert stats.hi == 2


def test_merge_joins_runs_that_do_not_touch() -> None:
    near, far = observe(np.array([1.0])), observe(np.array([-1000.0, 1000.0]))
    histogram = merge(near, far).histograms[0]
    found = values_of(histogram)
    assert list(found.values()) == [1, 1, 1]
    assert histogram.positive.size == 9 * 512 + 488 + 1  # 1000 = 2⁹ · (1 + 488/512)
    assert histogram.total == 3


def test_unlike_statistics_do_not_merge() -> None:
    a = TensorStats(count=[1], lo=[0], hi=[1])
    b = TensorStats(count=1, lo=0, hi=1)
    with pytest.raises(ValueError, match="do not merge"):
        merge(a, b)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        merge(observe(np.zeros(1)), observe(np.zeros(1), histogram=False))


def test_centres() -> None:
    one = int(np.float32(1).view(np.int32)) >> 14
    assert centres(one, 2).tolist() == [1 + 2**-10, 1 + 3 * 2**-10]
    assert centres(one, 0).size == 0


def test_counts_of_many_batches_add_up_to_those_of_one() -> None:
    random = np.random.default_rng(5)
    parts = [random.normal(size=size) * 10.0**power for size, power in ((9, -9), (7000, 0), (5, 8))]
    together = observe(np.concatenate(parts), keep=20)
    observer, scratch = Observer(20), Scratch()
    for part in parts:
        observer.see(part, scratch)
    stats = observer.stats()
    assert values_of(stats.histograms[0]) == values_of(together.histograms[0])
    assert stats.ends[0].largest.tolist() == together.ends[0].largest.tolist()


def test_the_scratch_is_left_clean() -> None:
    scratch = Scratch()
    odd = np.array([np.nan, np.inf, 1e30, 1e-40, -0.0, 0, -5, 7e20], np.float32)
    Observer(4).see(np.tile(odd, BLOCK), scratch)
    observer = Observer(4)
    observer.see(odd, scratch)
    stats = observer.stats()
    assert values_of(stats.histograms[0]) == values_of(observe(odd).histograms[0])
    assert stats.ends[0].smallest.tolist() == [-5, 0, 0, 0]


def test_odd_values_among_many_leave_the_others_as_they_are() -> None:
    odd = np.array([np.nan, np.inf, 1e30, 1e-40, -0.0, 0, -5, 7e20], np.float32)
    observer, scratch = Observer(4), Scratch()
    for part in (np.ones(BLOCK), np.tile(odd, BLOCK), odd):
        observer.see(part, scratch)
    stats, times = observer.stats(), BLOCK + 1
    assert (stats.nan, stats.infinite) == (times, 2 * times)
    assert stats.histograms[0].zeros == 3 * times
    assert stats.histograms[0].total == BLOCK + 5 * times
    assert stats.ends[0].largest.tolist() == [np.float32(7e20)] * 4
    assert stats.ends[0].smallest.tolist() == [-5] * 4


def test_more_values_than_32_bits_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxq.numerics.observe.MOST", 100)
    random = np.random.default_rng(6)
    parts = [np.append(random.normal(size=90) * 10.0**power, [0, np.nan]) for power in range(5)]
    observer, scratch = Observer(4), Scratch()
    for part in parts:
        observer.see(part, scratch)
    found, expected = (s.histograms[0] for s in (observer.stats(), observe(np.concatenate(parts))))
    assert values_of(found) == values_of(expected)
    assert found.zeros == expected.zeros == 5
