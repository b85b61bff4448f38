"""Folding by hand: axes, types, no bias."""

import numpy as np
import pytest

from onnxq.numerics.fold import batchnorm_affine, fold_affine, fold_affine_before


def test_conv_weights_scale_along_the_first_axis() -> None:
    weight = np.ones((2, 3, 1, 1), np.float32)
    scale, shift = np.array([2.0, -3.0]), np.array([1.0, 0.5])
    folded, bias = fold_affine(weight, np.array([10.0, 20.0], np.float32), scale, shift, 0)
    assert folded[:, 0, 0, 0].tolist() == [2, -3]
    assert bias.tolist() == [21, -59.5]


def test_no_bias_is_a_bias_of_zero() -> None:
    _, bias = fold_affine(np.ones((2, 3), np.float32), None, np.ones(3), np.arange(3.0), 1)
    assert bias.tolist() == [0, 1, 2]


def test_in_front_of_a_depthwise_conv_every_filter_has_its_channel() -> None:
    weight = np.ones((4, 1, 1, 2), np.float32)
    scale, shift = np.array([2.0, -3.0]), np.array([1.0, 0.5])
    folded, bias = fold_affine_before(weight, None, scale, shift, 1, groups=2)
    assert folded[:, 0, 0, 0].tolist() == [2, 2, -3, -3]
    assert bias.tolist() == [2, 2, 1, 1]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_types_are_kept(dtype: type[np.floating]) -> None:
    weight = np.ones((2, 2), dtype)
    folded, bias = fold_affine(weight, weight[0], np.ones(2), np.ones(2), -1)
    assert folded.dtype == dtype
    assert bias.dtype == dtype
    assert (weight == 1).all()


def test_float64_in_between() -> None:
    weight = np.array([[1e-30]], np.float32)
    folded, _ = fold_affine(weight, None, np.array([1e60]), np.zeros(1), 0)
    assert folded[0, 0] == pytest.approx(1e30, rel=1e-6)


def test_batchnorm() -> None:
    one = np.ones(1, np.float32)
    scale, shift = batchnorm_affine(6 * one, 5 * one, 2 * one, 3 * one, 1.0)
    assert (scale, shift) == (3, -1)
    assert scale.dtype == np.float64
