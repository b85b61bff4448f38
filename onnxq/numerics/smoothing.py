"""Smoothing: outlier channels of an activation move into the weights that read it.

With X the input of a product X·W and j its channels (Xiao et al. 2023, "SmoothQuant", eq. 4),

    s_j = max |X_j|^α / max |W_j|^(1−α),   (X/s)·(s·W) = X·W

An α of 1 makes all channels of X alike and leaves all to W, 0 the other way round.
"""

import numpy as np

from onnxq.types import Array

WIDEST = 2.0**10  # ratio of the largest factor to their geometric mean, and back


def smoothing(activation: Array, weight: Array, alpha: float) -> Array:
    """Return what each channel of an activation is divided by.

    Args:
        activation: Largest magnitude of each channel, (channels,).
        weight: Largest magnitude of the weights that each channel is multiplied by.
        alpha: How much of the outliers goes into the weights, 0 … 1.

    Returns:
        Positive float64 factors with geometric mean 1; 1 for channels that are 0 on either side.
    """
    there = (activation > 0) & (weight > 0)
    if not there.any():
        return np.ones(activation.shape)
    one = np.where(there, activation, 1.0).astype(np.float64)
    other = np.where(there, weight, 1.0).astype(np.float64)
    logs = alpha * np.log(one) - (1 - alpha) * np.log(other)
    logs -= logs[there].mean()
    limit = np.log(WIDEST)
    return np.where(there, np.exp(np.clip(logs, -limit, limit)), 1.0)
