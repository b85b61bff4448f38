"""A bias always fits its type, and its scale is never subnormal."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxq.numerics.affine import TINY, dequantize, quantize
from onnxq.numerics.bias import LARGEST, bias_params, fitting_scale
from onnxq.types import Array
from tests import strategies

SCALES = st.sampled_from([float(TINY), 1.0]) | st.floats(float(TINY), 2.0**20, width=32)
INPUT_SCALES = st.floats(2.0**-60, 2.0**20, width=32)
BIASES = strategies.MODERATE | st.sampled_from([0.0, 1e-45, -1e-40, float(TINY)])


@st.composite
def layers(draw: st.DrawFn) -> tuple[Array, Array, Array, Array]:
    """Draw weight scales, which of them are of zeros only, the input's scale and the bias."""
    channels = draw(st.integers(1, 6))
    count = draw(st.sampled_from([1, channels]))
    scale = draw(hnp.arrays(np.float32, count, elements=SCALES))
    empty = draw(hnp.arrays(np.bool_, count))
    bias = draw(hnp.arrays(np.float32, channels, elements=BIASES))
    return scale, empty, np.float32(draw(INPUT_SCALES)), bias


@given(layers())
def test_every_bias_fits(layer: tuple[Array, Array, Array, Array]) -> None:
    before, empty, input_scale, bias = layer
    scale = fitting_scale(before, empty, input_scale, bias)
    params = bias_params(scale, input_scale)
    assert (params.scale >= TINY).all()
    assert (np.abs(bias.astype(np.float64)) / params.scale <= 1.001 * LARGEST).all()
    error = np.abs(dequantize(quantize(bias, params), params).astype(np.float64) - bias)
    assert (error <= params.scale * 0.5 + np.abs(bias) * 2.0**-22).all()


@given(layers())
def test_scales_are_raised_only_as_far_as_needed(layer: tuple[Array, Array, Array, Array]) -> None:
    before, empty, input_scale, bias = layer
    scale = fitting_scale(before, empty, input_scale, bias)
    assert scale.dtype == np.float32
    assert scale.shape == before.shape
    assert (scale >= before)[~empty].all()
    changed = ~empty & (scale > before)
    largest = np.abs(bias) if before.size == bias.size else np.abs(bias).max(keepdims=True)
    codes = largest.astype(np.float64) / (scale.astype(np.float64) * input_scale)
    smallest = scale.astype(np.float64) * input_scale <= 5 * float(TINY)
    assert ((codes > 0.999 * LARGEST) | smallest)[changed].all()


@given(layers())
def test_a_channel_of_zeros_holds_its_bias_best(layer: tuple[Array, Array, Array, Array]) -> None:
    before, empty, input_scale, bias = layer
    scale = fitting_scale(before, empty, input_scale, bias)
    if before.size != bias.size:
        return
    product = scale.astype(np.float64) * input_scale
    codes = np.abs(bias.astype(np.float64)) / product
    used = (codes > 0.999 * LARGEST) | (product <= 5 * float(TINY)) | (bias == 0)
    assert used[empty].all()
