"""One tensor of a calibration table as lines, with a picture, and as plain values."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from onnxq.numerics.fixed_point import ends_at
from onnxq.numerics.moments import points_of
from onnxq.ranges.positions import Positions
from onnxq.report.drawing import ASCII, BLOCKS, drawn
from onnxq.report.table_overview import seen_dict
from onnxq.report.values import number
from onnxq.table_inspection import Choice, Closeup, Seen
from onnxq.types import Array, QuantSpec, Range, TensorStats

SHOWN = 6  # values of an end
WEIGHT = "weight y"  # of adaptive-kl, below the histogram


def closeup_lines(found: Closeup, width: int = 100, *, unicode: bool = True) -> Iterator[str]:
    """Yield what was seen of a tensor, its histogram, and what can be chosen for it.

    Args:
        found: The tensor.
        width: Columns of the picture.
        unicode: Whether it may be drawn with more than ASCII.
    """
    yield from _seen(found.seen)
    yield from _ends(found.seen)
    if found.seen.channels is not None:
        yield from _channels(found.seen.channels)
    yield from ("", "histogram: values to the right, counts upwards on a logarithmic scale", "")
    stats, ink = found.seen.stats, BLOCKS if unicode else ASCII
    ranges = {_name(choice): _interval(choice.range) for choice in found.choices}
    across = _interval(Range.containing_zero(stats.lo, stats.hi))
    shades = {WEIGHT: found.positions.curve} if found.positions else {}
    yield from drawn(points_of(stats), across, ranges, width, ink, shades)
    yield ""
    yield from _choices(found)
    if found.positions:
        yield from _positions(found.positions)


def _name(choice: Choice) -> str:
    """Return the name of an algorithm."""
    return choice.spec.range.name


def _interval(covered: Range) -> tuple[float, float]:
    """Return the ends of the range of one tile."""
    return covered.lo.item(), covered.hi.item()


def _seen(seen: Seen) -> Iterator[str]:
    """Yield count, range, moments and odd values."""
    stats, moments = seen.stats, seen.moments
    yield f"{seen.name}: {stats.count.item()} values"
    if stats.nan or stats.infinite:
        yield (
            f"{stats.nan} are NaN, {stats.infinite} infinite or huge and left out of all below; "
            "quantize keeps such a tensor float"
        )
    if np.isnan(moments.mean):
        yield "no ordinary value was seen"
        return
    yield (
        f"from {stats.lo.item():.6g} to {stats.hi.item():.6g}, mean {moments.mean:.4g}, "
        f"standard deviation {moments.std:.4g}, {100 * moments.zeros:.2f} % zeros"
    )


def _ends(seen: Seen) -> Iterator[str]:
    """Yield the extreme values, and how outlier-var clips them."""
    for ends in seen.stats.ends:
        held = ends.largest.size
        yield f"{ends.above} values above zero, {ends.below} below; {held} held at each end"
        yield f"largest:  {_some(ends.largest)}"
        yield f"smallest: {_some(ends.smallest)}"
    if seen.limits:
        yield ""
        yield f"outlier-var {'k':>10}{'variance v':>14}{'tendency r':>14}{'index':>9}{'limit':>14}"
        for which, limit in zip(("lower", "upper"), seen.limits, strict=True):
            yield (
                f"  {which} end {limit.k:>10}{limit.variance:>14.4g}{limit.tendency:>14.4f}"
                f"{limit.index:>9}{limit.value:>14.5g}"
            )


def _some(values: Array) -> str:
    """Return the first few values."""
    shown = " ".join(f"{value:.5g}" for value in values[:SHOWN])
    return f"{shown} ..." if values.size > SHOWN else shown


def _channels(channels: TensorStats) -> Iterator[str]:
    """Yield how much the ranges of the channels differ."""
    covered = Range.containing_zero(channels.lo, channels.hi)
    lows, highs = covered.lo.reshape(-1), covered.hi.reshape(-1)
    order = np.argsort(highs - lows, kind="stable")
    yield ""
    yield f"{order.size} channels, counted from 0"
    which = {"widest": order[-1], "median": order[order.size // 2], "narrowest": order[0]}
    for how, index in which.items():
        yield f"  {how:<10}{lows[index]:>12.4g} to {highs[index]:<12.4g} channel {index}"


def _choices(found: Closeup) -> Iterator[str]:
    """Yield what every algorithm chooses, a line each."""
    used = found.spec.range.name
    yield f"ranges for {_kind(found.spec)}; * is what was asked for, or what the target takes"
    yield (
        f"  {'range':<14}{'lo':>12}{'hi':>12}{'scale':>14}{'zero point':>12}{'SQNR dB':>10}"
        f"{'clipped %':>12}"
    )
    for choice in found.choices:
        params = choice.params
        yield (
            f"{'*' if _name(choice) == used else ' '} {_name(choice):<14}"
            f"{choice.range.lo.item():>12.5g}{choice.range.hi.item():>12.5g}"
            f"{params.scale.item():>14.6g}{params.zero_point.item():>12}"
            f"{choice.sqnr:>10.2f}{100 * choice.clipped:>12.3g}"
        )
    for name, reason in found.refused.items():
        yield f"{'*' if name == used else ' '} {name:<14}none: {reason}"
    yield "SQNR, clipped: of this tensor alone, from its histogram"


def _positions(found: Positions) -> Iterator[str]:
    """Yield the positions to choose among, a line each."""
    bits = found.spec.dtype.bits
    yield ""
    yield f"positions for int{bits}, where scales are powers of two; KL in nats"
    yield f"  {'position':>8}{'scale':>14}{'hi':>12}{'adaptive KL':>14}{'plain KL':>14}  chosen by"
    for position, adaptive, plain in zip(found.tried, found.adaptive, found.plain, strict=True):
        names = ", ".join(name for name, taken in found.chosen.items() if taken == position)
        scale, high = np.ldexp(1.0, -position), ends_at(position, bits)[1]
        yield (
            f"  {position:>8}{scale:>14.6g}{high:>12.5g}{adaptive:>14.4g}{plain:>14.4g}  {names}"
        ).rstrip()
    yield (
        f"adaptive KL is weighted by y = 1 - exp(-A (c/B)^2), A = {found.curve.sharpness:.4g}, "
        f"B = {found.curve.reach:.4g}"
    )


def _kind(spec: QuantSpec) -> str:
    """Return element type and zero point in words."""
    return f"{spec.dtype.name} {'symmetric' if spec.symmetric else 'affine'}"


def closeup_dict(found: Closeup) -> dict[str, Any]:
    """Return all of it as plain values, with the occupied bins of the histogram."""
    values, counts = points_of(found.seen.stats)
    channels = found.seen.channels
    spec = found.spec
    return {
        **seen_dict(found.seen),
        "ends": [
            {
                "keep": ends.keep,
                "above": ends.above,
                "below": ends.below,
                "largest": ends.largest.tolist(),
                "smallest": ends.smallest.tolist(),
            }
            for ends in found.seen.stats.ends
        ],
        "channel_ranges": None
        if channels is None
        else {
            "lo": [number(value) for value in channels.lo.flat],
            "hi": [number(value) for value in channels.hi.flat],
        },
        "spec": {"dtype": spec.dtype.name, "symmetric": spec.symmetric, "range": spec.range.name},
        "ranges": [_choice_dict(choice) for choice in found.choices],
        "refused": dict(found.refused),
        "histogram": {"values": values.tolist(), "counts": counts.tolist()},
        "positions": _positions_dict(found.positions, values) if found.positions else None,
    }


def _positions_dict(found: Positions, values: Array) -> dict[str, Any]:
    """Return the positions to choose among as plain values, with the weight of every bin."""
    bits = found.spec.dtype.bits
    rows = zip(found.tried, found.adaptive, found.plain, strict=True)
    return {
        "bits": bits,
        "curve": {"sharpness": found.curve.sharpness, "reach": found.curve.reach},
        "weights": found.curve(values).tolist(),
        "candidates": [
            {
                "position": int(position),
                "scale": float(np.ldexp(1.0, -position)),
                "lo": float(ends_at(position, bits)[0]),
                "hi": float(ends_at(position, bits)[1]),
                "adaptive_kl": float(adaptive),
                "plain_kl": float(plain),
            }
            for position, adaptive, plain in rows
        ],
        "chosen": dict(found.chosen),
    }


def _choice_dict(choice: Choice) -> dict[str, Any]:
    """Return what an algorithm chooses as plain values."""
    options = asdict(choice.spec.range)  # type: ignore[call-overload]
    return {
        "name": _name(choice),
        "options": {k: number(v) if isinstance(v, float) else v for k, v in options.items()},
        "lo": choice.range.lo.item(),
        "hi": choice.range.hi.item(),
        "scale": choice.params.scale.item(),
        "zero_point": choice.params.zero_point.item(),
        "sqnr_db": number(choice.sqnr),
        "clipped": number(choice.clipped),
    }
