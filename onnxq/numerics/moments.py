"""Sums over a histogram: mean, spread, energy, and the share of values a range leaves out."""

from dataclasses import dataclass

import numpy as np

from onnxq.types import Array, TensorStats


@dataclass(frozen=True)
class Moments:
    """Moments of the ordinary values of a tensor.

    Attributes:
        mean: ``Σ n x / Σ n``; NaN where there are no values.
        std: Standard deviation of the population; NaN likewise.
        zeros: Share of zeros (and subnormals), within [0, 1]; NaN likewise.
    """

    mean: float
    std: float
    zeros: float


def points_of(stats: TensorStats) -> tuple[Array, Array]:
    """Return the bins of a histogram as values and counts, none beyond the exact extremes.

    Args:
        stats: Statistics of one tile.

    Returns:
        Values, float64, ascending, and counts, int64, both of shape ``(occupied,)``; empty
        where the statistics hold no histogram.
    """
    if not stats.histograms:
        return np.zeros(0), np.zeros(0, np.int64)
    values, counts = stats.histograms[0].points()
    return np.clip(values, stats.lo.item(), stats.hi.item()), counts


def moments(points: tuple[Array, Array]) -> Moments:
    """Return the moments of a histogram.

    Bins are 2⁻⁹ wide relative to their values, so the mean is within 0.1 % of the mean
    magnitude.

    Args:
        points: Values and counts, each ``(bins,)``.
    """
    values, counts = points
    total = counts.sum()
    if not total:
        return Moments(np.nan, np.nan, np.nan)
    mean = np.dot(values, counts) / total
    variance = np.dot((values - mean) ** 2, counts) / total
    return Moments(float(mean), float(np.sqrt(variance)), float(counts[values == 0].sum() / total))


def energy(points: tuple[Array, Array]) -> float:
    """Return ``Σ n x²``."""
    values, counts = points
    return float(np.dot(values**2, counts))


def outside(points: tuple[Array, Array], lo: float, hi: float) -> float:
    """Return the share of values outside of ``[lo, hi]``; NaN where there are none."""
    values, counts = points
    total = counts.sum()
    return float(counts[(values < lo) | (values > hi)].sum() / total) if total else np.nan


def equal_bins(points: tuple[Array, Array], lo: float, hi: float, bins: int) -> Array:
    """Count a histogram into bins of equal width over ``[lo, hi]``, lo < hi, int64 ``(bins,)``.

    For looking at; `onnxq.numerics.linear` spreads bins that lie in several.
    """
    values, counts = points
    at = np.clip(((values - lo) / (hi - lo) * bins).astype(np.int64), 0, bins - 1)
    found = np.zeros(bins, np.int64)
    np.add.at(found, at, counts)
    return found
