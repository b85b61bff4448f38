"""Fold a per-channel scale and shift into the weights of the linear layer before it."""

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
