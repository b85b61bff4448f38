"""The range that leaves out a fixed share of the values at each end."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxq.errors import CalibrationError
from onnxq.types import Array, QuantSpec, Range, TensorStats


@dataclass(frozen=True, kw_only=True)
class Percentile:
    """Clip all but ``percentile`` per cent of the values at each end.

    A symmetric spec takes the percentile of the magnitudes, an affine one the percentiles
    ``100 − percentile`` and ``percentile`` of the values. Zeros count as values.

    Attributes:
        percentile: Share kept at each end, in per cent, above 50 and at most 100; 100 is
            exactly minmax.

    Shapes:
        One entry a tile, ``(t0, …)``, in and out.

    Raises:
        ValueError: ``percentile`` is out of its bounds.
        CalibrationError: The statistics hold no histogram.

    Source:
        Wu et al., "Integer Quantization for Deep Learning Inference", 2020, section 3.3.
        Differs: read off bins 2⁻⁹ wide relative to the value, so a limit is exact to 0.1 %.

    Example:
        >>> from onnxq.numerics.observe import observe
        >>> from onnxq.types import IntType
        >>> spec = QuantSpec(dtype=IntType(8, False), symmetric=False, range=Percentile())
        >>> float(Percentile(percentile=100)(observe(np.array([-1.0, 3.0])), spec).hi)
        3.0
    """

    name: ClassVar[str] = "percentile"
    needs_histogram: ClassVar[bool] = True
    needs_ends: ClassVar[bool] = False
    percentile: float = 99.99

    def __post_init__(self) -> None:
        """Check the bounds."""
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile must be above 50 and at most 100, not {self.percentile}")

    def __call__(self, stats: TensorStats, spec: QuantSpec) -> Range:
        """Return the percentiles of the histograms, never beyond the extremes."""
        if not stats.histograms:
            raise CalibrationError("percentile needs a histogram; calibrate with histograms")
        ends = [self._ends(*h.points(), symmetric=spec.symmetric) for h in stats.histograms]
        lo, hi = np.array(ends, np.float64).T.reshape(2, *stats.lo.shape)
        return Range.containing_zero(np.maximum(lo, stats.lo), np.minimum(hi, stats.hi))

    def _ends(self, values: Array, counts: Array, *, symmetric: bool) -> tuple[float, float]:
        """Return the limits of one histogram; the outermost bins mean the extremes."""
        if not values.size:
            return 0.0, 0.0
        if symmetric:
            order = np.argsort(np.abs(values), kind="stable")
            limit = self._upper(np.abs(values)[order], counts[order])
            return -limit, limit
        return -self._upper(-values[::-1], counts[::-1]), self._upper(values, counts)

    def _upper(self, values: Array, counts: Array) -> float:
        """Return the smallest bin below or in which ``percentile`` of the counts lie."""
        below = np.cumsum(counts)
        wanted = self.percentile / 100 * below[-1]
        index = int(np.searchsorted(below, wanted))
        return np.inf if index >= values.size - 1 else float(values[index])
