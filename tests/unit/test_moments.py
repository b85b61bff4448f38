"""Sums over histograms against numpy on the values themselves."""

import numpy as np
import pytest

from onnxq.numerics.extremes import extremes
from onnxq.numerics.moments import energy, equal_bins, moments, outside, points_of
from onnxq.numerics.observe import observe
from onnxq.types import Array


def values(kind: str) -> Array:
    rng = np.random.default_rng(3)
    drawn = {
        "normal": rng.normal(0.3, 2.0, 50_000),
        "far": rng.normal(1000.0, 3.0, 50_000),
        "relu": np.maximum(rng.normal(0.0, 1.0, 50_000), 0),
        "tails": rng.standard_t(3, 50_000),
        "tiny": rng.normal(0.0, 1e-20, 50_000),
    }
    return drawn[kind].astype(np.float32)


@pytest.mark.parametrize("kind", ["normal", "far", "relu", "tails", "tiny"])
def test_moments_are_those_of_the_values(kind: str) -> None:
    data = values(kind)
    exact = data.astype(np.float64)
    found = moments(points_of(observe(data)))
    width = 2.0**-9 * np.abs(exact).mean()
    assert found.mean == pytest.approx(exact.mean(), abs=width)
    assert found.std == pytest.approx(exact.std(), abs=width)
    assert found.zeros == (data == 0).mean()
    assert energy(points_of(observe(data))) == pytest.approx((exact**2).sum(), rel=1e-3)


def test_no_point_lies_beyond_the_extremes() -> None:
    data = np.array([-3.0, -1.001, 0.0, 2.003], np.float32)
    points, counts = points_of(observe(data))
    assert data.min() <= points[0] < points[-1] <= data.max()
    assert counts.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("data", [[], [np.nan, np.inf, 3e38]])
def test_nothing_ordinary_has_no_moments(data: list[float]) -> None:
    points = points_of(observe(np.array(data, np.float32)))
    found = moments(points)
    assert np.isnan([found.mean, found.std, found.zeros, outside(points, -1, 1)]).all()
    assert energy(points) == 0


def test_statistics_without_a_histogram_have_no_points() -> None:
    points, counts = points_of(extremes(np.ones(3, np.float32)))
    assert points.size == counts.size == 0


def test_the_ends_of_an_interval_belong_to_it() -> None:
    points = np.array([-2.0, -1.0, 0.0, 5.0]), np.array([1, 2, 3, 4])
    assert outside(points, -2, 5) == 0
    assert outside(points, -1, 5) == 0.1
    assert outside(points, -1, 4) == 0.5


def test_equal_bins_count_what_numpy_counts() -> None:
    data = values("tails")
    points = points_of(observe(data))
    lo, hi = float(data.min()), float(data.max())
    expected, _ = np.histogram(points[0], 40, (lo, hi), weights=points[1])
    found = equal_bins(points, lo, hi, 40)
    assert found.sum() == data.size
    assert np.abs(np.cumsum(found) - np.cumsum(expected)).max() <= points[1].max()
    assert equal_bins(points, lo / 2, hi / 2, 7).sum() == data.size
