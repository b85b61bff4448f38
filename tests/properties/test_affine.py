"""Codes, steps and rounding, for any type, range and tile."""

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from onnxq.numerics.affine import TINY, dequantize, fake_quantize, params_of, quantize
from onnxq.numerics.extremes import extremes
from onnxq.ranges.minmax import MinMax
from onnxq.types import Array, IntType, QuantParams, QuantSpec, Range, Tile
from tests import oracles, strategies


def tile_params(array: Array, tile: Tile, spec: QuantSpec) -> QuantParams:
    """Return min–max parameters of an array, one entry a tile."""
    spec = QuantSpec(dtype=spec.dtype, symmetric=spec.symmetric, tile=tile, range=MinMax())
    return params_of(MinMax()(extremes(array, tile), spec), spec)


def step(array: Array, params: QuantParams) -> Array:
    """Return the scale of every element, by looking each tile up."""
    steps = np.zeros(array.shape, np.float64)
    for where, members in oracles.tile_members(array.shape, params.tile).items():
        for index in members:
            steps[index] = params.scale[where]
    return steps


@given(strategies.tiled(), strategies.specs())
def test_codes_equal_the_loop(tiled: tuple[Array, Tile], spec: QuantSpec) -> None:
    array, tile = tiled
    params = tile_params(array, tile, spec)
    np.testing.assert_array_equal(quantize(array, params), oracles.quantize(array, params))


@given(strategies.tensors(), strategies.ranges(), strategies.specs(most=32))
def test_codes_are_codes_of_the_type(array: Array, chosen: Range, spec: QuantSpec) -> None:
    codes = quantize(array, params_of(chosen, spec)).astype(np.int64)
    assert codes.shape == array.shape
    assert codes.min() >= spec.dtype.qmin
    assert codes.max() <= spec.dtype.qmax


@given(strategies.tensors(), strategies.ranges(), strategies.specs())
def test_fake_quantizing_twice_is_once(array: Array, chosen: Range, spec: QuantSpec) -> None:
    params = params_of(chosen, spec)
    once = fake_quantize(array, params)
    assert once.dtype == np.float32
    np.testing.assert_array_equal(fake_quantize(once, params), once)


@given(strategies.tiled(), strategies.specs())
def test_error_is_at_most_half_a_step_inside(tiled: tuple[Array, Tile], spec: QuantSpec) -> None:
    array, tile = tiled
    params = tile_params(array, tile, spec)
    codes = quantize(array, params).astype(np.int64)
    inside = (codes > spec.dtype.qmin) & (codes < spec.dtype.qmax)
    error = np.abs(dequantize(codes, params).astype(np.float64) - array)
    half = step(array, params) * 0.5 * (1 + 1e-6) + np.abs(array) * 2.0**-22  # float32 arithmetic
    assert (error <= half)[inside].all()


@given(strategies.tiled(), strategies.specs())
def test_minmax_clips_by_at_most_a_step(tiled: tuple[Array, Tile], spec: QuantSpec) -> None:
    array, tile = tiled
    params = tile_params(array, tile, spec)
    error = np.abs(fake_quantize(array, params).astype(np.float64) - array)
    slack = np.abs(array) * 2.0**-22
    assert (error <= step(array, params) * (1 + 1e-6) + slack).all()


@given(strategies.ranges(), strategies.specs(most=32), strategies.shapes())
def test_zero_is_exact(chosen: Range, spec: QuantSpec, shape: tuple[int, ...]) -> None:
    params = params_of(chosen, spec)
    zeros = np.zeros(shape, np.float32)
    assert (quantize(zeros, params) == params.zero_point).all()
    assert (fake_quantize(zeros, params) == 0).all()


@given(strategies.tensors(), strategies.specs())
def test_one_tile_is_per_tensor(array: Array, spec: QuantSpec) -> None:
    whole = tile_params(array, (), spec)
    for tile in (array.shape, (0,) * array.ndim):
        tiled = tile_params(array, tile, spec)
        assert tiled.scale.reshape(()) == whole.scale
        assert tiled.zero_point.reshape(()) == whole.zero_point
        np.testing.assert_array_equal(quantize(array, tiled), quantize(array, whole))


@given(strategies.ranges(), strategies.int_types(32))
def test_a_symmetric_zero_point_is_the_middle(chosen: Range, dtype: IntType) -> None:
    params = params_of(chosen, QuantSpec(dtype=dtype, symmetric=True, range=MinMax()))
    assert params.zero_point == (0 if dtype.signed else 1 << (dtype.bits - 1))


@given(strategies.ORDINARY.map(abs), strategies.int_types(16), st.booleans())
def test_the_scale_never_leaves_a_range_that_begins_at_zero(
    end: float, dtype: IntType, negative: bool
) -> None:
    steps = dtype.qmax - dtype.qmin
    assume(end == 0 or end >= steps * float(TINY))
    chosen = Range(np.float64(-end), np.float64(0)) if negative else Range(0.0, end)
    params = params_of(chosen, QuantSpec(dtype=dtype, symmetric=False, range=MinMax()))
    if end == 0:
        assert params.scale == 1
        return
    assert params.zero_point == (dtype.qmax if negative else dtype.qmin)
    assert params.scale * np.float32(steps) <= np.float32(end)
    assert params.scale * np.float32(steps) >= np.float32(end) * (1 - 2.0**-22)
    reached = dequantize(np.array([dtype.qmin, dtype.qmax]), params)
    assert np.abs(reached).max() <= np.float32(end)


@given(strategies.ranges(), strategies.specs(most=32))
def test_parameters_are_always_usable(chosen: Range, spec: QuantSpec) -> None:
    params = params_of(chosen, spec)  # the constructor checks that scales are positive and finite
    assert params.scale >= TINY
    if chosen.lo == chosen.hi:
        assert params.scale == 1


@given(strategies.drawn(), strategies.specs())
def test_the_ends_of_a_range_are_represented(drawn: strategies.Drawn, spec: QuantSpec) -> None:
    data = drawn.values()
    chosen = MinMax()(extremes(data), spec)
    params = params_of(chosen, spec)
    ends = np.array([chosen.lo, chosen.hi], np.float32)
    assert np.abs(fake_quantize(ends, params) - ends).max() <= params.scale * (1 + 1e-4)


@given(strategies.tiled(), strategies.specs(most=32))
def test_fake_quantizing_is_codes_and_back(tiled: tuple[Array, Tile], spec: QuantSpec) -> None:
    array, tile = tiled
    params = tile_params(array, tile, spec)
    np.testing.assert_array_equal(
        fake_quantize(array, params), dequantize(quantize(array, params), params)
    )
