"""Ranges to parameters and values to codes, by hand-computed numbers."""

import numpy as np
import pytest

from onnxq.numerics.affine import (
    TINY,
    dequantize,
    fake_quantize,
    params_of,
    quantize,
    storage,
)
from onnxq.ranges.minmax import MinMax
from onnxq.types import IntType, QuantParams, QuantSpec, Range, Tile

UINT8, INT8 = IntType(8, signed=False), IntType(8, signed=True)


def spec(dtype: IntType, *, symmetric: bool = False, tile: Tile = ()) -> QuantSpec:
    return QuantSpec(dtype=dtype, symmetric=symmetric, tile=tile, range=MinMax())


@pytest.mark.parametrize(
    ("lo", "hi", "dtype", "symmetric", "scale", "zero_point"),
    [
        (0, 255, "uint8", False, 1, 0),
        (-1, 254, "uint8", False, 1, 1),
        (-255, 0, "uint8", False, 1, 255),
        (-1.25, 253.75, "uint8", False, 1, 1),
        (-1.75, 253.25, "uint8", False, 1, 2),
        (0, 255, "int8", False, 1, -128),
        (-64, 63.5, "int8", False, 0.5, 0),
        (-127, 64, "int8", True, 1, 0),
        (-1, 127, "int8", True, 1, 0),
        (-1, 127, "uint8", True, 1, 128),
        (-7, 7, "int4", True, 1, 0),
        (0, 30, "uint4", False, 2, 0),
        (-1, 1, "int2", True, 1, 0),
        (0, 65535, "uint16", False, 1, 0),
    ],
)
def test_params(
    lo: float, hi: float, dtype: str, symmetric: bool, scale: float, zero_point: int
) -> None:
    params = params_of(Range(lo, hi), spec(IntType.parse(dtype), symmetric=symmetric))
    assert (params.scale, params.zero_point) == (scale, zero_point)
    assert params.scale.dtype == np.float32


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("dtype", [UINT8, INT8])
def test_an_empty_range_has_scale_1(dtype: IntType, symmetric: bool) -> None:
    params = params_of(Range(0, 0), spec(dtype, symmetric=symmetric))
    assert params.scale == 1
    assert fake_quantize(np.zeros(3), params).tolist() == [0, 0, 0]


@pytest.mark.parametrize("hi", [6.0, 1.0, 0.1, 0.7, 3.3, 1e-3, 5.9604645e-08, 1e29])
def test_relu_ranges_are_not_left(hi: float) -> None:
    end = np.float32(hi)
    params = params_of(Range(0, end), spec(UINT8))
    assert params.scale * np.float32(255) <= end
    assert params.zero_point == 0


def test_a_range_too_small_gets_the_smallest_scale() -> None:
    params = params_of(Range([0, 0], [1e-45, 1e-38]), spec(UINT8, tile=(1,)))
    assert (params.scale == TINY).all()


def test_a_range_too_large_gets_the_largest_scale() -> None:
    assert params_of(Range(0, 1e300), spec(UINT8)).scale == np.finfo(np.float32).max


def test_half_to_even() -> None:
    params = QuantParams(dtype=INT8, scale=np.float32(2), zero_point=np.int64(1))
    real = np.array([1, 3, 5, -1, -3, -5, 4.99, 5.01])
    assert quantize(real, params).tolist() == [1, 3, 3, 1, -1, -1, 3, 4]


def test_out_of_range_is_clipped() -> None:
    params = QuantParams(dtype=INT8, scale=np.float32(1), zero_point=np.int64(5))
    real = np.array([1e30, -1e30, np.inf, -np.inf, 122, 123, -133, -134])
    assert quantize(real, params).tolist() == [127, -128, 127, -128, 127, 127, -128, -128]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("int2", np.int8),
        ("uint4", np.uint8),
        ("int8", np.int8),
        ("uint9", np.uint16),
        ("int16", np.int16),
        ("uint17", np.uint32),
        ("int32", np.int32),
    ],
)
def test_storage(name: str, dtype: type[np.integer]) -> None:
    assert storage(IntType.parse(name)) == dtype
    codes = quantize(np.zeros(2), params_of(Range(-1, 1), spec(IntType.parse(name))))
    assert codes.dtype == dtype


def test_dequantize_does_not_wrap() -> None:
    params = QuantParams(dtype=UINT8, scale=np.float32(1), zero_point=np.int64(200))
    assert dequantize(np.array([0, 255], np.uint8), params).tolist() == [-200, 55]


def test_one_scale_a_channel() -> None:
    real = np.array([[1.0, 2.0], [10.0, 20.0]])
    params = params_of(Range([[0], [0]], [[2], [20]]), spec(IntType(2, signed=False), tile=(1, 0)))
    assert params.scale.shape == (2, 1)
    assert quantize(real, params).tolist() == [[2, 3], [2, 3]]
