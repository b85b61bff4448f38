"""The search for a range by an error, and what samples agree on."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxq.numerics.affine import fake_quantize, params_of
from onnxq.numerics.range_fit import agreed, covered, fit_range, rounding_error, scaled
from onnxq.ranges.minmax import MinMax
from onnxq.types import Array, IntType, QuantParams, QuantSpec, Range
from tests.strategies import Drawn, drawn, specs

FACTORS = st.floats(0.1, 2)


def begin(values: Array, spec: QuantSpec) -> QuantParams:
    return params_of(Range.containing_zero(values.min(), values.max()), spec)


def squares(values: Array, params: QuantParams) -> Array:
    error = fake_quantize(values, params).astype(np.float64) - values
    return np.array([float((part**2).sum()) for part in np.array_split(error, 4)])


@given(of=drawn(), spec=specs(), factor=FACTORS)
def test_the_rounding_error_is_what_fake_quantizing_adds(
    of: Drawn, spec: QuantSpec, factor: float
) -> None:
    values = of.values()
    params = scaled(covered(begin(values, spec), spec), (factor, factor), spec)
    expected = fake_quantize(values, params) - values
    np.testing.assert_array_equal(rounding_error(values, params), expected)


@given(of=drawn(), spec=specs())
def test_parameters_cover_the_range_that_gives_them(of: Drawn, spec: QuantSpec) -> None:
    params = begin(of.values(), spec)
    again = scaled(covered(params, spec), (1.0, 1.0), spec)
    np.testing.assert_allclose(again.scale, params.scale, rtol=1e-6)
    assert abs(int(again.zero_point) - int(params.zero_point)) <= 1


@given(of=drawn(least=40), spec=specs(8))
def test_the_error_never_rises_and_is_that_of_what_is_returned(of: Drawn, spec: QuantSpec) -> None:
    values = of.values()
    start = begin(values, spec)
    fit = fit_range(start, spec, lambda params: squares(values, params))
    assert fit.after <= fit.before == squares(values, start).sum()
    assert fit.after == squares(values, fit.params).sum()
    assert fit.moved == (fit.params is not start)


@given(of=drawn(least=40), spec=specs(8), bound=st.floats(0.2, 0.9))
def test_no_candidate_leaves_the_bounds(of: Drawn, spec: QuantSpec, bound: float) -> None:
    values = of.values()
    low, high = (bound * float(end) for end in (values.min(), values.max()))
    spec = replace(spec, bounds=(low, high))
    seen: list[QuantParams] = []

    def errors(params: QuantParams) -> Array:
        seen.append(params)
        return squares(values, params)

    start = params_of(Range.containing_zero(low, high).within(low, high), spec)
    fit_range(start, spec, errors)
    widest = float(start.scale) * (1 + 1e-6)
    if not spec.symmetric or low == -high:
        assert all(float(params.scale) <= widest for params in seen)


@given(seed=st.integers(0, 2**16), count=st.integers(1, 9), gain=st.floats(1e-3, 1))
def test_samples_agree_on_what_all_of_them_gain_alike(seed: int, count: int, gain: float) -> None:
    before = np.random.default_rng(seed).uniform(1, 2, count)
    assert agreed(before, before - gain)
    assert not agreed(before, before)
    assert not agreed(before, before + gain)
    assert not agreed(before, np.append(before[1:] - gain, np.inf))


@given(count=st.integers(2, 9), gain=st.floats(0.1, 1))
def test_one_sample_alone_convinces_nobody(count: int, gain: float) -> None:
    before = np.ones(count)
    after = before.copy()
    after[0] -= gain
    assert after.sum() < before.sum()
    assert not agreed(before, after)


def test_a_lower_end_of_zero_stays() -> None:
    spec = QuantSpec(dtype=IntType(8, signed=False), symmetric=False, range=MinMax())
    values = np.append(np.random.default_rng(0).uniform(0, 1, 4000), 9).astype(np.float32)
    fit = fit_range(begin(values, spec), spec, lambda p: np.abs(squares(values[:-1], p)))
    assert fit.moved
    assert int(fit.params.zero_point) == 0
