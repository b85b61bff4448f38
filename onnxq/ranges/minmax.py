"""The range of everything seen."""

from dataclasses import dataclass
from typing import ClassVar

from onnxq.types import QuantSpec, Range, TensorStats


@dataclass(frozen=True, kw_only=True)
class MinMax:
    """Cover all ordinary values, widened to contain zero.

    Shapes:
        One entry a tile, ``(t0, …)``, in and out.

    Source:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", 2018, section 3.
    """

    name: ClassVar[str] = "minmax"
    needs_histogram: ClassVar[bool] = False
    needs_ends: ClassVar[bool] = False

    def __call__(self, stats: TensorStats, spec: QuantSpec) -> Range:  # noqa: ARG002
        """Return the extremes."""
        return Range.containing_zero(stats.lo, stats.hi)
