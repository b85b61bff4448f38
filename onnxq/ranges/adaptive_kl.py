"""The position whose codes lose the least information, the tails weighted up."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxq.errors import CalibrationError
from onnxq.numerics.ends import Ends
from onnxq.numerics.fixed_point import (
    EPSILON,
    Bins,
    best,
    candidates,
    divergences,
    ends_at,
    weight_curve,
)
from onnxq.numerics.histogram import FloatHistogram
from onnxq.types import Array, QuantSpec, Range, TensorStats

Divergences = Callable[[Bins, Array, int], Array]  # a tensor, positions, bits: KL of each


@dataclass(frozen=True, kw_only=True)
class AdaptiveKl:
    """Choose the power of two of least KL divergence, with the mass around zero damped.

    ``argmin_p KL_p`` over the positions ``p0 … p0 + b − 1``, p0 the largest at which nothing clips;
    ``KL_p = Σ P' log(P'/Q')`` with ``P' ∝ y·P``, ``Q' ∝ y·Q_p`` and ``y(c) = 1 − exp(−A·(c/B)²)``,
    on 2048 linear bins without zeros; `onnxq.numerics.fixed_point` defines them all. Ties go to
    the smaller position. The result is the range from the smallest to the largest value of the
    position; where powers of two are not asked for, it is cut at the extremes.

    Attributes:
        sharpness: The e of ``A = b^e·ρ``.
        epsilon: Share of the mass that Q_p has in a bin beyond the clipping limit.

    Shapes:
        One entry a tile, ``(t0, …)``, in and out.

    Raises:
        ValueError: An option is out of its bounds.
        CalibrationError: The statistics hold no histogram.

    Source:
        The published adaptive-KL method gives the idea of a curve that is 0 at the peak and 1 in
        the tails. Differs: the form of y, its reach and its sharpness ``A = b·ρ`` are
        reconstructed; the position never goes below p0; clipped mass is not folded.
        `docs/ranges.md` tells how much A and ε matter.
    """

    name: ClassVar[str] = "adaptive-kl"
    needs_histogram: ClassVar[bool] = True
    needs_ends: ClassVar[bool] = True  # where they are missing, tails are spread over two bins

    sharpness: float = 1.0
    epsilon: float = EPSILON

    def __post_init__(self) -> None:
        """Check the bounds."""
        if not -2 <= self.sharpness <= 2 or not 0 < self.epsilon <= 1:
            raise ValueError("adaptive-kl needs sharpness within [-2, 2] and epsilon within (0, 1]")

    def __call__(self, stats: TensorStats, spec: QuantSpec) -> Range:
        """Return the range of the best position of every tile."""
        if not stats.histograms:
            raise CalibrationError("adaptive-kl needs a histogram; calibrate with histograms")
        return least_divergence(stats, spec, self.divergences)

    def divergences(self, bins: Bins, tried: Array, bits: int) -> Array:
        """Return the divergence of every position tried, in nats."""
        curve = weight_curve(bins, bits, self.sharpness)
        return divergences(bins, tried, bits, curve, self.epsilon)


def least_divergence(stats: TensorStats, spec: QuantSpec, measure: Divergences) -> Range:
    """Return the range of the position of least divergence, one a tile.

    Args:
        stats: Statistics with histograms.
        spec: The width and the positions there are.
        measure: Gives the divergence of positions.
    """
    full = Range.containing_zero(stats.lo, stats.hi)
    known = stats.ends or (None,) * len(stats.histograms)
    tiles = zip(stats.histograms, known, full.lo.flat, full.hi.flat, strict=True)
    ends = [_ends(*tile, spec, measure) for tile in tiles]
    lows, highs = np.array(ends, np.float64).T.reshape(2, *stats.lo.shape)
    return Range(lows, highs)


def _ends(
    histogram: FloatHistogram,
    known: Ends | None,
    lo: float,
    hi: float,
    spec: QuantSpec,
    measure: Divergences,
) -> tuple[float, float]:
    """Return the best range for one histogram; nothing but zeros gives an empty one."""
    if histogram.total == histogram.zeros:
        return 0.0, 0.0
    bits, tried = spec.dtype.bits, candidates(lo, hi, spec)
    bins = Bins.of(histogram, max(-lo, hi), known)
    low, high = ends_at(tried[best(measure(bins, tried, bits))], bits)
    return (
        (float(low), float(high))
        if spec.power_of_two
        else (max(float(low), lo), min(float(high), hi))
    )
