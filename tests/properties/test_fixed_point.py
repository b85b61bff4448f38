"""Positions: what every choice of a power of two keeps, and a slow oracle."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxq.numerics.affine import fake_quantize, params_of, quantize
from onnxq.numerics.errors import squared_errors
from onnxq.numerics.fixed_point import (
    BINS,
    Bins,
    beyond,
    candidates,
    divergences,
    ends_at,
    finest,
    position_of,
    positions,
    weight_curve,
)
from onnxq.ranges.adaptive_kl import AdaptiveKl
from onnxq.ranges.minmax import MinMax
from onnxq.ranges.mse import Mse
from onnxq.ranges.plain_kl import PlainKl
from onnxq.testing import statistics
from onnxq.types import Array, IntType, QuantSpec, Range, RangeAlgorithm
from tests import oracles

BITS = st.integers(2, 16)
VALUES = hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-100, 100, width=32)).map(
    lambda values: np.where(np.abs(values) < 1e-3, np.float32(0), values)
)
ALGORITHMS = (AdaptiveKl(), PlainKl(), Mse(), MinMax())


def spec_of(bits: int, algorithm: RangeAlgorithm | None = None) -> QuantSpec:
    return QuantSpec(
        dtype=IntType(bits, signed=True),
        symmetric=True,
        power_of_two=True,
        range=algorithm or MinMax(),
    )


def chosen(values: Array, spec: QuantSpec) -> int:
    params = params_of(spec.range(statistics(values, keep=4096), spec), spec)
    assert params.zero_point == 0
    return int(positions(params))


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.name)
@given(VALUES, BITS, st.integers(-40, 40))
def test_scaling_by_a_power_of_two_shifts_the_position_by_as_much(
    algorithm: RangeAlgorithm, values: Array, bits: int, k: int
) -> None:
    spec = spec_of(bits, algorithm)
    shifted = chosen(np.ldexp(values, k).astype(np.float32), spec)
    assert shifted == (chosen(values, spec) - k if values.any() else bits - 1)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.name)
@given(VALUES, BITS)
def test_a_position_is_one_of_the_candidates(
    algorithm: RangeAlgorithm, values: Array, bits: int
) -> None:
    spec = spec_of(bits, algorithm)
    lo, hi = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    assert chosen(values, spec) in candidates(lo, hi, spec)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.name)
def test_zeros_take_the_position_of_codes_below_one(algorithm: RangeAlgorithm) -> None:
    assert chosen(np.zeros(5, np.float32), spec_of(8, algorithm)) == 7


@given(st.floats(0, 1e6), st.floats(0, 1e6), BITS)
def test_the_finest_position_is_the_largest_that_clips_nothing(
    below: float, above: float, bits: int
) -> None:
    position = int(finest(np.array(-below), np.array(above), bits))
    if below == 0 and above == 0:
        assert position == bits - 1
        return
    half = 1 << (bits - 1)

    def clips(p: int) -> bool:
        return bool(np.rint(np.ldexp(above, p)) > half - 1 or np.rint(np.ldexp(-below, p)) < -half)

    assert not clips(position)
    assert position == 126 or clips(position + 1)


@given(st.integers(-100, 100), BITS, st.booleans())
def test_the_ends_of_a_position_give_it_back(position: int, bits: int, above: bool) -> None:
    low, high = ends_at(position, bits)
    whole = Range(low, high)
    assert position_of(whole, spec_of(bits)) == position
    one_sided = whole.within(0, np.inf) if above else whole.within(-np.inf, 0)
    assert position_of(one_sided, spec_of(bits)) == position


@given(VALUES, BITS)
def test_minmax_clips_nothing_and_codes_use_the_full_range(values: Array, bits: int) -> None:
    spec = spec_of(bits)
    params = params_of(MinMax()(statistics(values), spec), spec)
    step = float(params.scale)
    assert np.abs(fake_quantize(values, params) - values).max() <= step / 2
    codes = quantize(np.float32([-1e30, 1e30]), params)
    assert codes.tolist() == [-(1 << (bits - 1)), (1 << (bits - 1)) - 1]


def test_the_position_of_a_chip_is_the_nearest_it_has() -> None:
    chip = replace(spec_of(8), positions=(0, 7))
    for values, position, outside in (([0.001], 7, True), ([1e6], 0, True), ([0.9], 7, False)):
        stats = statistics(np.float32(values))
        full = Range.containing_zero(stats.lo, stats.hi)
        assert beyond(full, chip) == outside
        for algorithm in ALGORITHMS:
            assert chosen(np.float32(values), replace(chip, range=algorithm)) == position


@given(VALUES.filter(lambda values: values.any()), st.integers(2, 8))
def test_divergences_are_those_of_the_definition(values: Array, bits: int) -> None:
    stats = statistics(values, keep=4096)
    reach = max(-float(stats.lo), float(stats.hi), 0.0)
    bins = Bins.of(stats.histograms[0], reach, stats.ends[0])
    counts, _ = np.histogram(values[values != 0], BINS, (-reach, reach))
    assert bins.mass.sum() == pytest.approx(1)
    assert np.abs(bins.mass * np.count_nonzero(values) - counts).sum() <= 4  # at edges
    tried = candidates(-reach, reach, spec_of(bits))
    for curve in (weight_curve(bins, bits), None):
        slow = oracles.weight_curve(bins.centres, bins.mass, bits) if curve else [1.0] * BINS
        found = divergences(bins, tried, bits, curve)
        for p, each in zip(tried, found, strict=True):
            wanted = oracles.position_divergence(bins.centres, bins.mass, int(p), bits, slow)
            assert each >= 0
            assert each == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_the_curve_damps_what_is_near_zero() -> None:
    values = np.random.default_rng(0).laplace(size=100_000).astype(np.float32)
    stats = statistics(values, keep=1000)
    bins = Bins.of(stats.histograms[0], float(np.abs(values).max()), stats.ends[0])
    curve = weight_curve(bins, 8)(bins.centres)
    assert curve[BINS // 2] < 0.01
    assert curve[0] == pytest.approx(1)
    assert (np.diff(curve[BINS // 2 :]) >= 0).all()


def test_options_of_adaptive_kl_reach_the_curve_and_the_divergence() -> None:
    values = np.random.default_rng(0).laplace(size=100_000).astype(np.float32)
    stats = statistics(values, keep=1000)
    bins = Bins.of(stats.histograms[0], float(np.abs(values).max()), stats.ends[0])
    curves = [weight_curve(bins, 8, e) for e in (1.0, 0.0, -1.0)]
    assert curves[0].sharpness == pytest.approx(8 * curves[1].sharpness)
    assert curves[2].sharpness == pytest.approx(curves[1].sharpness / 8)
    tried = candidates(-float(np.abs(values).max()), 0.0, spec_of(8))
    for e, curve in zip((1.0, 0.0, -1.0), curves, strict=True):
        found = AdaptiveKl(sharpness=e, epsilon=1e-6).divergences(bins, tried, 8)
        assert (found == divergences(bins, tried, 8, curve, 1e-6)).all()
        assert (found < AdaptiveKl(sharpness=e).divergences(bins, tried, 8)).any()
    for bad in ({"epsilon": 0.0}, {"epsilon": 2.0}, {"sharpness": 9.0}, {"sharpness": np.nan}):
        with pytest.raises(ValueError, match="adaptive-kl needs"):
            AdaptiveKl(**bad)


def test_heavy_tails_are_clipped_less_than_by_plain_divergence() -> None:
    values = np.random.default_rng(0).standard_t(3, size=200_000).astype(np.float32)
    found = [chosen(values, spec_of(6, algorithm)) for algorithm in ALGORITHMS]
    assert found[0] <= found[1]
    assert found[3] <= min(found)


@given(VALUES, st.integers(2, 8))
def test_mse_takes_the_candidate_of_least_error(values: Array, bits: int) -> None:
    spec = spec_of(bits, Mse())
    lo, hi = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if lo == hi:
        return
    tried = candidates(lo, hi, spec)
    points = statistics(values).histograms[0].points()
    errors = squared_errors(points, *ends_at(tried, bits), spec)
    assert chosen(values, spec) == tried[np.argmin(errors)]


def test_powers_of_two_are_refused_for_what_they_are_not_defined_for() -> None:
    for bad in ({"symmetric": False}, {"dtype": IntType(8, signed=False)}):
        with pytest.raises(ValueError, match="powers of two go with"):
            replace(spec_of(8), **bad)
    with pytest.raises(ValueError, match="are not within"):
        replace(spec_of(8), positions=(5, 4))
