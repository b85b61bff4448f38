"""Fold a per-channel scale and shift into the weights of the linear layer beside it."""

import numpy as np

from onnxq.types import Array


def fold_affine(
    weight: Array, bias: Array | None, scale: Array, shift: Array, axis: int
) -> tuple[Array, Array]:
    """Return weights and bias of one layer that equals ``scale · layer(x) + shift``.

    ``W' = W · scale`` along the output channels and ``b' = b · scale + shift``, computed in
    float64 and returned in the weight's element type.

    Args:
        weight: Weights, any shape, ``C`` output channels along ``axis``.
        bias: Shape ``(C,)``, or None for no bias.
        scale: Shape ``(C,)``.
        shift: Shape ``(C,)``.
        axis: Axis of the output channels.

    Source:
        Jacob et al., 2018, section 3.2 (eq. 14).
    """
    factors = scale.astype(np.float64)
    along = [1] * weight.ndim
    along[axis] = -1
    folded = weight.astype(np.float64) * factors.reshape(along)
    start = 0.0 if bias is None else bias.astype(np.float64)
    return folded.astype(weight.dtype), (start * factors + shift).astype(weight.dtype)


def fold_affine_before(
    weight: Array, bias: Array | None, scale: Array, shift: Array, axis: int, groups: int = 1
) -> tuple[Array, Array]:
    """Return weights and bias of one layer that equals ``layer(scale · x + shift)``.

    ``W' = W · scale`` along the input channels and ``b' = b + Σ W · shift`` over input channels and
    kernel, computed in float64 and returned in the weight's element type.

    Args:
        weight: Weights ``(O, C/groups, …)`` with ``axis`` 1, ``(C, O/groups, …)`` with 0.
        bias: Shape ``(O,)``, or None for no bias.
        scale: Shape ``(C,)``.
        shift: Shape ``(C,)``.
        axis: Axis of the input channels.
        groups: How many groups of input channels have outputs of their own, one after the other.
    """
    split = weight.astype(np.float64).reshape(groups, -1, *weight.shape[1:])
    split = split if axis == 1 else split.swapaxes(1, 2)  # (groups, O/groups, C/groups, …)
    along = (groups, 1, split.shape[2], *[1] * (split.ndim - 3))
    folded = split * scale.astype(np.float64).reshape(along)
    added = split * shift.astype(np.float64).reshape(along)
    sums = added.reshape(*split.shape[:2], -1).sum(axis=2).reshape(-1)
    start = 0.0 if bias is None else bias.astype(np.float64)
    folded = folded if axis == 1 else folded.swapaxes(1, 2)
    return folded.reshape(weight.shape).astype(weight.dtype), (start + sums).astype(weight.dtype)


def batchnorm_affine(
    gamma: Array, beta: Array, mean: Array, variance: Array, epsilon: float
) -> tuple[Array, Array]:
    """Return the scale ``γ/√(σ² + ε)`` and shift ``β − μ·scale`` of a BatchNormalization.

    Args:
        gamma: Shape ``(C,)``, like ``beta``, ``mean`` and ``variance``.
        beta: Added after scaling.
        mean: Running mean μ.
        variance: Running variance σ².
        epsilon: ε.

    Returns:
        float64 arrays of shape ``(C,)``.
    """
    scale = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    return scale, beta.astype(np.float64) - mean.astype(np.float64) * scale
