"""The position whose codes lose the least information, all values weighted alike."""

from dataclasses import dataclass
from typing import ClassVar

from onnxq.errors import CalibrationError
from onnxq.numerics.fixed_point import Bins, divergences
from onnxq.ranges.adaptive_kl import least_divergence
from onnxq.types import Array, QuantSpec, Range, TensorStats


@dataclass(frozen=True, kw_only=True)
class PlainKl:
    """Choose the power of two of least KL divergence.

    It is ``adaptive-kl`` with ``y ≡ 1``: what that is to be compared with.

    Shapes:
        One entry a tile, ``(t0, …)``, in and out.

    Raises:
        CalibrationError: The statistics hold no histogram.
    """

    name: ClassVar[str] = "plain-kl"
    needs_histogram: ClassVar[bool] = True
    needs_ends: ClassVar[bool] = True  # where they are missing, tails are spread over two bins

    def __call__(self, stats: TensorStats, spec: QuantSpec) -> Range:
        """Return the range of the best position of every tile."""
        if not stats.histograms:
            raise CalibrationError("plain-kl needs a histogram; calibrate with histograms")
        return least_divergence(stats, spec, plain_divergences)


def plain_divergences(bins: Bins, tried: Array, bits: int) -> Array:
    """Return the divergence of every position tried, in nats, all bins weighted alike."""
    return divergences(bins, tried, bits, None)
