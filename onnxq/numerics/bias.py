"""Biases on integer kernels: int32 at the accumulator's scale ``s_x · s_w``."""

import numpy as np

from onnxq.numerics.affine import TINY
from onnxq.types import Array, IntType, QuantParams

INT32 = IntType(32, signed=True)


def fitting_scale(weight_scale: Array, empty: Array, input_scale: Array, bias: Array) -> Array:
    """Return weight scales with which the bias fits its type: ``|b|/(s_x·s_w) ≤ 2³¹ − 1``.

    A channel of tiny weights beside a large bias would overflow: its scale is raised, its
    weights lose levels they hardly use. The scale of a channel of zeros is free, so it becomes
    the one that holds the bias best.

    Args:
        weight_scale: One scale an output channel, or a single one, shape ``(C,)`` or ``(1,)``.
        empty: Whether all weights of a scale are zero, same shape.
        input_scale: The scale of the layer's input, shape ``()``.
        bias: Shape ``(C,)``.

    Returns:
        float32, shape of ``weight_scale``.
    """
    magnitude = np.abs(bias.astype(np.float64))
    if weight_scale.size == 1:
        magnitude = magnitude.max(keepdims=True, initial=0.0)
    needed = magnitude / (float(input_scale) * (INT32.qmax - 1024))  # room for float32 rounding
    needed = np.maximum(needed, 4 * TINY / float(input_scale))  # the product stays normal
    free = empty & (magnitude > 0)
    return np.where(free, needed, np.maximum(weight_scale, needed)).astype(np.float32)


def bias_params(weight_scale: Array, input_scale: Array) -> QuantParams:
    """Return the parameters of a bias: one scale, or one an output channel.

    Args:
        weight_scale: Shape ``(C,)``, or ``(1,)`` for weights with a single scale.
        input_scale: The scale of the layer's input, shape ``()``.
    """
    scale = weight_scale.reshape(-1) * np.float32(input_scale)
    shape, tile = ((), ()) if scale.size == 1 else (scale.shape, (1,))
    zero_point = np.zeros(shape, np.int64)
    return QuantParams(dtype=INT32, scale=scale.reshape(shape), zero_point=zero_point, tile=tile)
