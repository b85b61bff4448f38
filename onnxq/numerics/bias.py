"""Biases on integer kernels: int32 at the accumulator's scale ``s_x · s_w``.

The kernel adds the bias to the sum of products in int32 and does not check for overflow, so a
bias may fill only half of the type. The other half holds sums of 2³⁰/(255·127) = 33 156 products.
"""

import numpy as np

from onnxq.numerics.affine import TINY
from onnxq.types import Array, IntType, QuantParams

INT32 = IntType(32, signed=True)
LARGEST = 2**30  # code of a bias


def fitting_scale(weight_scale: Array, empty: Array, input_scale: Array, bias: Array) -> Array:
    """Return weight scales with which the bias fits: ``|b|/(s_x·s_w) ≤ 2³⁰``.

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
    needed = magnitude / (float(input_scale) * LARGEST)
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


def channel_means(values: Array, axis: int = 1) -> Array:
    """Return the mean of every channel.

    Args:
        values: Any shape.
        axis: Which axis counts the channels.

    Returns:
        float64, shape ``(C,)``.
    """
    axis %= values.ndim
    others = tuple(other for other in range(values.ndim) if other != axis)
    means: Array = values.mean(axis=others, dtype=np.float64)
    return means


def shifted(values: Array, shift: Array, axis: int = 1) -> Array:
    """Return what a layer writes once its bias takes up a shift.

    Args:
        values: What it writes before.
        shift: One a channel, ``(C,)``.
        axis: Which axis counts the channels.

    Returns:
        Shape and dtype of ``values``.
    """
    shape = [1] * values.ndim
    shape[axis] = -1
    after: Array = values + shift.reshape(shape).astype(values.dtype)
    return after


def likely_shift(errors: Array) -> Array:
    """Return the mean of the errors of few samples, shrunk as far as it may be chance.

    The mean m of a channel has the variance ``e² = s²/n``. Over the channels of a layer the true
    means have about the variance ``t² = max(0, mean(m²) − mean(e²))``; the likeliest value of one
    is then ``m · t² / (t² + e²)``.

    Args:
        errors: What each sample lacks in each channel, ``(n, C)``; what is not finite counts as
            nothing.

    Returns:
        float64, ``(C,)``; the mean itself for one sample, of which nothing more is known.

    Source:
        Efron and Morris, "Stein's Estimation Rule and Its Competitors: An Empirical Bayes
        Approach", 1973, with a variance for each channel.
    """
    errors = np.where(np.isfinite(errors), errors, 0.0)
    mean: Array = errors.mean(axis=0, dtype=np.float64)
    count = len(errors)
    if count < 2:
        return mean
    noise = errors.var(axis=0, ddof=1, dtype=np.float64) / count
    spread = max(0.0, float((mean**2).mean() - noise.mean()))
    total = spread + noise
    share: Array = np.where(total > 0, spread / np.where(total > 0, total, 1.0), 1.0)
    return mean * share


def mean_shift(
    weight: Array, quantized: Array, mean: Array, quantized_mean: Array, group: int
) -> Array:
    """Return what a linear layer's output means lose to quantization: ``E[W x] − E[Ŵ x̂]``.

    Away from padded borders the mean of an output channel depends on the means of the input
    channels only, ``Σ_i E[x_i] Σ_k W_oik``, so adding the difference to the bias removes the
    part of the error that is the same everywhere.

    Args:
        weight: Float weights ``(O, I/group, …)``.
        quantized: The same weights after quantizing and dequantizing.
        mean: Means of the input channels, ``(I,)``.
        quantized_mean: Means of the quantized input channels, ``(I,)``.
        group: Number of groups.

    Returns:
        float64, shape ``(O,)``.

    Source:
        Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
        2019, section 4.2. Differs: the input's own quantization error is corrected too, with
        means measured on calibration samples.
    """
    outputs, inputs = weight.shape[:2]
    channels = np.arange(outputs)[:, None] // (outputs // group) * inputs + np.arange(inputs)
    kernel = tuple(range(2, weight.ndim))
    before = weight.sum(axis=kernel, dtype=np.float64) * mean[channels]
    after = quantized.sum(axis=kernel, dtype=np.float64) * quantized_mean[channels]
    shift: Array = (before - after).sum(axis=1)
    return shift
