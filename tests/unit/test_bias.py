"""Bias scales by hand."""

import numpy as np

from onnxq.numerics.affine import TINY, quantize
from onnxq.numerics.bias import INT32, LARGEST, bias_params, fitting_scale

NONE = np.zeros(3, bool)


def float32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_ordinary_scales_stay() -> None:
    before = float32(0.01, 0.02, 0.5)
    scale = fitting_scale(before, NONE, np.float32(0.1), float32(1, -2, 3))
    assert scale.tolist() == before.tolist()


def test_a_large_bias_beside_tiny_weights_raises_its_channel_only() -> None:
    before = float32(1e-12, 1e-12, 0.5)
    bias = float32(1, 1e-9, 1)
    scale = fitting_scale(before, NONE, np.float32(1e-3), bias)
    assert scale[0] > before[0]
    assert scale[1:].tolist() == before[1:].tolist()
    codes = quantize(bias, bias_params(scale, np.float32(1e-3)))
    assert 0.99 * LARGEST < codes[0] < 1.01 * LARGEST


def test_one_scale_for_all_obeys_the_largest_bias() -> None:
    scale = fitting_scale(float32(1e-12), NONE[:1], np.float32(1), float32(1, -1000, 3))
    assert scale.shape == (1,)
    codes = quantize(float32(-1000), bias_params(scale, np.float32(1)))
    assert -1.01 * LARGEST < codes[0] < -0.99 * LARGEST


def test_a_bias_leaves_room_for_the_sum_of_products() -> None:
    """A dead channel: a bias far below what tiny weights can make; the sum must not wrap."""
    scale = fitting_scale(float32(1e-30), NONE[:1], np.float32(0.02), float32(-3))
    code = int(quantize(float32(-3), bias_params(scale, np.float32(0.02)))[0])
    sums = 255 * 127 * 3 * 3 * 512
    assert code - sums >= INT32.qmin
    assert code < -0.99 * LARGEST


def test_a_channel_of_zeros_takes_the_finest_scale() -> None:
    scale = fitting_scale(float32(1, 1), np.array([True, False]), np.float32(1), float32(5, 5))
    assert scale[0] < 1e-8
    assert scale[1] == 1


def test_a_channel_of_zeros_without_bias_keeps_its_scale() -> None:
    scale = fitting_scale(float32(1), np.array([True]), np.float32(1), float32(0))
    assert scale.tolist() == [1]


def test_products_stay_normal() -> None:
    before, input_scale = float32(1e-30, 1), np.float32(1e-20)
    scale = fitting_scale(before, NONE[:2], input_scale, float32(0, 0))
    assert (bias_params(scale, input_scale).scale >= TINY).all()
    assert scale[1] == 1


def test_params_of_one_scale_are_scalar() -> None:
    params = bias_params(float32(0.5), np.float32(0.25))
    assert (params.scale, params.scale.shape, params.tile) == (0.125, (), ())
    assert params.dtype == INT32


def test_params_of_channels() -> None:
    params = bias_params(float32(0.5, 1).reshape(2, 1), np.float32(0.25))
    assert params.scale.tolist() == [0.125, 0.25]
    assert params.zero_point.tolist() == [0, 0]
    assert params.tile == (1,)
