"""What a layer can write at most, given what it can read at most: interval arithmetic."""

import numpy as np

from onnxq.types import Array

MARGIN = 1e-4  # of the sum of magnitudes: what adding up in float32 may cost, generously

Interval = tuple[Array, Array]  # lowest and highest value of each channel


def linear_interval(weight: Array, bias: Array | None, read: Interval) -> Interval:
    """Return the ends of what a layer writes, channel by channel; zeros may be padded.

    Args:
        weight: (groups, outputs, inputs, kernel).
        bias: (groups · outputs,), or None.
        read: Ends of its inputs, (groups · inputs,) each; they may be infinite.
    """
    groups, _, inputs, _ = weight.shape
    above = np.maximum(weight, 0).sum(axis=3, dtype=np.float64)
    below = np.minimum(weight, 0).sum(axis=3, dtype=np.float64)
    low, high = (end.reshape(groups, 1, inputs) for end in _with_zero(read))
    least = (_times(above, low) + _times(below, high)).sum(axis=2).ravel()
    most = (_times(above, high) + _times(below, low)).sum(axis=2).ravel()
    shift = 0.0 if bias is None else bias.astype(np.float64)
    slack = MARGIN * (np.abs(least) + np.abs(most) + np.abs(shift))
    return least + shift - slack, most + shift + slack


def _with_zero(read: Interval) -> Interval:
    """Let zero be among the values."""
    return np.minimum(read[0], 0), np.maximum(read[1], 0)


def _times(weight: Array, end: Array) -> Array:
    """Multiply; zero times infinity is zero."""
    with np.errstate(invalid="ignore"):
        return np.where(weight == 0, 0.0, weight * end)
