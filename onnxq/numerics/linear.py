"""Float-bits histograms resampled to bins of equal width, as KL divergences want them.

A float-bits bin is 2⁻⁹ wide relative to its value: near the largest value it covers two linear
bins of a 2048-bin histogram, so its values are spread over them in proportion. Counts stay whole
(the *cumulative* count is rounded), for an empty bin means something to a divergence. The ends
need no spreading: they are known exactly, and it is there that a clipping limit falls.

Zeros are counted nowhere: every range represents them exactly.
"""

import numpy as np

from onnxq.numerics.ends import Ends
from onnxq.numerics.histogram import SHIFT, FloatHistogram
from onnxq.types import Array


def sides(
    histogram: FloatHistogram, limits: tuple[float, float], bins: int, ends: Ends | None = None
) -> Array:
    """Resample each sign to its own linear bins.

    Args:
        histogram: Counts by sign and magnitude.
        limits: Largest magnitude of the negative and of the positive values; what lies beyond
            counts into the last bin.
        bins: Linear bins a side, over ``[0, limit]``.
        ends: The exact ends of the same values; None spreads them too.

    Returns:
        Negative and positive counts by rising magnitude, int64, shape ``(2, bins)``.
    """
    nothing = np.zeros(0, np.float32)
    largest, smallest = (ends.largest, ends.smallest) if ends else (nothing, nothing)
    parts = (
        (histogram.negative_start, histogram.negative, -smallest[smallest < 0]),
        (histogram.positive_start, histogram.positive, largest[largest > 0]),
    )
    return np.stack([_side(*part, limit, bins) for part, limit in zip(parts, limits, strict=True)])


def magnitudes(
    histogram: FloatHistogram, limit: float, bins: int, ends: Ends | None = None
) -> Array:
    """Resample |x| to linear bins over ``[0, limit]``, int64, shape ``(bins,)``."""
    counts: Array = sides(histogram, (limit, limit), bins, ends).sum(axis=0)
    return counts


def centred(histogram: FloatHistogram, limit: float, bins: int, ends: Ends | None = None) -> Array:
    """Resample x to an even number of linear bins over ``[−limit, limit]``, int64."""
    negative, positive = sides(histogram, (limit, limit), bins // 2, ends)
    return np.concatenate([negative[::-1], positive])


def _side(start: int, counts: Array, known: Array, limit: float, bins: int) -> Array:
    """Resample one sign.

    Args:
        start: Index of the first float-bits bin.
        counts: Its counts and those that follow.
        known: Magnitudes of values among them that are known exactly, float32.
        limit: Upper edge of the last linear bin.
        bins: How many linear bins.
    """
    if not counts.size or not limit > 0:
        return np.zeros(bins, np.int64)
    exact, _ = np.histogram(np.minimum(known.astype(np.float64), limit), bins, (0.0, limit))
    at = (known.view(np.uint32) >> SHIFT).astype(np.int64) - start
    unknown = counts - np.bincount(at, minlength=counts.size)
    bits = np.arange(start, start + counts.size + 1, dtype=np.int64) << SHIFT
    edges = np.minimum(bits.astype(np.uint32).view(np.float32).astype(np.float64), limit)
    below = np.concatenate([[0.0], np.cumsum(unknown, dtype=np.float64)])
    reached = np.rint(np.interp(limit * np.arange(bins + 1) / bins, edges, below))
    reached[-1] = below[-1]
    resampled: Array = exact + np.diff(reached).astype(np.int64)
    return resampled
