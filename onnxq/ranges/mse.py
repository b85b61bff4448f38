"""The range with the least mean squared error."""

from dataclasses import dataclass
from operator import index
from typing import ClassVar

import numpy as np

from onnxq.errors import CalibrationError
from onnxq.numerics.fixed_point import candidates, ends_at
from onnxq.types import Array, QuantSpec, Range, TensorStats


@dataclass(frozen=True, kw_only=True)
class Mse:
    """Shrink the min–max range until rounding and clipping error together are least.

    Minimises ``Σ_i n_i (x_i − x̂_i)²`` over the histogram's bins (centre x_i, count n_i) and
    over the ranges ``[f·lo, f·hi]``, f evenly spaced in ``[smallest, 1]``; then, for affine
    specs with values on both sides, over each end alone. Ties go to the wider range, so the
    result is never worse than minmax on its own histogram.

    Specs with powers of two try the positions ``p0 … p0 + b − 1`` instead, p0 the largest at
    which nothing clips; ties go to the smaller one.

    Attributes:
        candidates: How many factors f are tried.
        smallest: The smallest of them.

    Shapes:
        One entry a tile, ``(t0, …)``, in and out.

    Raises:
        ValueError: An option is out of its bounds.
        TypeError: ``candidates`` is no whole number.
        CalibrationError: The statistics hold no histogram.

    Source:
        The search over clipping ranges of e.g. Choukroun et al., "Low-bit Quantization of
        Neural Networks for Efficient Inference", 2019. Differs: works on a histogram.
    """

    name: ClassVar[str] = "mse"
    needs_histogram: ClassVar[bool] = True
    needs_ends: ClassVar[bool] = False
    candidates: int = 100
    smallest: float = 0.1

    def __post_init__(self) -> None:
        """Check the bounds."""
        if index(self.candidates) < 1 or not 0 < self.smallest <= 1:
            raise ValueError("mse needs candidates of at least 1 and smallest within (0, 1]")

    def __call__(self, stats: TensorStats, spec: QuantSpec) -> Range:
        """Return the best range of every tile."""
        if not stats.histograms:
            raise CalibrationError("mse needs a histogram; calibrate with histograms")
        full = Range.containing_zero(stats.lo, stats.hi)
        ends = [
            self._search(histogram.points(), lo, hi, spec)
            for histogram, lo, hi in zip(
                stats.histograms, full.lo.reshape(-1), full.hi.reshape(-1), strict=True
            )
        ]
        lows, highs = np.array(ends, np.float64).T.reshape(2, *stats.lo.shape)
        return Range(lows, highs)

    def _search(
        self, points: tuple[Array, Array], lo: float, hi: float, spec: QuantSpec
    ) -> tuple[float, float]:
        """Return the best ends for one histogram."""
        from onnxq.numerics.errors import squared_errors  # noqa: PLC0415  the compiler is slow to load

        if lo == hi:
            return lo, hi
        if spec.power_of_two:
            lows, highs = ends_at(candidates(lo, hi, spec), spec.dtype.bits)
            least = np.argmin(squared_errors(points, lows, highs, spec))
            return float(lows[least]), float(highs[least])
        factors = np.linspace(1.0, self.smallest, self.candidates)
        best = factors[np.argmin(squared_errors(points, factors * lo, factors * hi, spec))]
        lo, hi = float(best * lo), float(best * hi)
        if spec.symmetric or lo == 0 or hi == 0:
            return lo, hi
        ends = factors * lo
        lo = float(ends[np.argmin(squared_errors(points, ends, np.full_like(ends, hi), spec))])
        ends = factors * hi
        return lo, float(
            ends[np.argmin(squared_errors(points, np.full_like(ends, lo), ends, spec))]
        )
