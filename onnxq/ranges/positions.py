"""What choosing a position looks like: every candidate with its divergences, and who takes it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from onnxq.numerics.fixed_point import Bins, Curve, candidates, position_of, weight_curve
from onnxq.ranges.adaptive_kl import AdaptiveKl
from onnxq.ranges.minmax import MinMax
from onnxq.ranges.mse import Mse
from onnxq.ranges.plain_kl import PlainKl, plain_divergences
from onnxq.types import Array, IntType, QuantSpec, Range, RangeAlgorithm, TensorStats

WIDTHS = range(2, 17)  # bits


@dataclass(frozen=True, kw_only=True)
class Positions:
    """The candidates for the position of one tensor.

    Attributes:
        spec: Width and positions, asked for with `AdaptiveKl`.
        tried: The candidates, ascending, int64 ``(candidates,)``.
        adaptive: Divergence of each, weighted by the curve, in nats, ``(candidates,)``.
        plain: Divergence of each, all values weighted alike, in nats, same shape.
        curve: The weight of a value.
        chosen: Name of a range algorithm to the position it takes.
    """

    spec: QuantSpec
    tried: Array
    adaptive: Array
    plain: Array
    curve: Curve
    chosen: Mapping[str, int]


def positions_for(
    stats: TensorStats, bits: int, adaptive: AdaptiveKl, *, chip: bool = False
) -> Positions | None:
    """Compare the positions of one tensor.

    Args:
        stats: Its statistics, per tensor.
        bits: Width of the codes.
        adaptive: The algorithm with its options.
        chip: Whether there are only the positions 0 … bits − 1.

    Returns:
        The comparison, or None where there is none: without a histogram, of zeros alone, and for
        widths that fixed point does not have.
    """
    histogram = stats.histograms[0] if stats.histograms else None
    if histogram is None or histogram.total == histogram.zeros or bits not in WIDTHS:
        return None
    spec = QuantSpec(
        dtype=IntType(bits, signed=True), symmetric=True, power_of_two=True, range=adaptive
    )
    spec = replace(spec, positions=(0, bits - 1)) if chip else spec
    full = Range.containing_zero(stats.lo, stats.hi)
    lo, hi = full.lo.item(), full.hi.item()
    tried = candidates(lo, hi, spec)
    bins = Bins.of(histogram, max(-lo, hi), stats.ends[0] if stats.ends else None)
    everyone: tuple[RangeAlgorithm, ...] = (adaptive, PlainKl(), Mse(), MinMax())
    return Positions(
        spec=spec,
        tried=tried,
        adaptive=adaptive.divergences(bins, tried, bits),
        plain=plain_divergences(bins, tried, bits),
        curve=weight_curve(bins, bits, adaptive.sharpness),
        chosen={each.name: int(position_of(each(stats, spec), spec)) for each in everyone},
    )
