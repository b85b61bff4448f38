"""Plots as SVG: axes, ticks, dots and lines as text, the colours left to the page."""

import html
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

WIDTH, HEIGHT = 760, 340
LEFT, TOP, ACROSS, DOWN = 72, 30, 520, 262  # the corner and the sides of what is plotted
LEGEND = LEFT + ACROSS + 22

SHAPES = {  # beside colours, so that marks differ without them
    "front": "m0-5l5 5l-5 5l-5-5z",
    "chosen": "m0-9l2.6 5.8l6.3.7l-4.7 4.3l1.3 6.2l-5.5-3.1l-5.5 3.1l1.3-6.2l-4.7-4.3l6.3-.7z",
    "default": "m-5-5h10v10h-10z",
    "same": "m0-6.5l6.5 11h-13z",
}
# What a page adds to its style; it gives the colours named here.
INK = """
svg{display:block;width:100%;height:auto;font-size:12px}
svg text{fill:var(--ink)}svg .tick{fill:var(--quiet)}.mid{text-anchor:middle}.end{text-anchor:end}
.grid{stroke:var(--rule);fill:none}.edge,.line{stroke:var(--quiet);fill:none}
circle{fill:currentColor}.dot{fill-opacity:.75}.early{fill:none;stroke:currentColor}
.tried{color:var(--random);fill-opacity:.35}.line{stroke:currentColor;stroke-width:1.6}
.mark{fill:currentColor;stroke:var(--paper);stroke-width:.8}.best,.front,.rank{color:var(--ink)}
.uniform,.same{color:var(--uniform)}.global{color:var(--global)}.probe{color:var(--probe)}
.screened,.default{color:var(--screened)}.scout{color:var(--scout)}.random{color:var(--random)}
.other{color:var(--quiet)}svg .chosen{color:var(--chosen)}
"""
UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """What an axis covers.

    Attributes:
        label: What it shows.
        low: Its lower end.
        high: Its upper end, above the lower one.
        log: Whether equal ratios take equal room; the ends are above zero then.
        whole: Whether it counts, so that fractions mean nothing.
    """

    label: str
    low: float
    high: float
    log: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Series:
    """Points that look alike.

    Attributes:
        kind: CSS classes; the last one may name a shape, dots are drawn without.
        points: Where they are, in the units of the axes.
        label: What the legend calls them; empty leaves them out of it.
        titles: What each point says when it is pointed at; empty for nothing.
        line: How the points are connected: not, ``straight``, or ``steps`` without marks.
    """

    kind: str
    points: Sequence[Point]
    label: str = ""
    titles: Sequence[str] = ()
    line: str = ""


def escaped(text: object) -> str:
    """Return text as HTML and XML can hold it."""
    return html.escape(UNWRITABLE.sub("\ufffd", str(text)))


def as_float(value: Any) -> float:
    """Return a number as JSON holds it, infinities as text; NaN for null."""
    return math.nan if value is None else float(value)


def placed(*values: Any) -> bool:
    """Say whether values can be plotted."""
    return all(math.isfinite(as_float(value)) for value in values)


def axis(label: str, values: Sequence[float], *, log: bool = False, whole: bool = False) -> Axis:
    """Return an axis that covers all values, with some room beside them.

    Args:
        label: What it shows.
        values: At least one; above zero where the axis is logarithmic.
        log: Whether equal ratios take equal room.
        whole: Whether the values are counts.
    """
    low, high = (math.log10(end) if log else end for end in (min(values), max(values)))
    most = max(abs(low), abs(high))
    near = high - low <= 1e-9 * most
    room = (0.1 * most or 1.0) if near else 0.04 * (high - low)
    low, high = (10**end if log else end for end in (low - room, high + room))
    return Axis(label, low, high, log=log, whole=whole)


def ticks(low: float, high: float, *, log: bool = False, whole: bool = False) -> list[float]:
    """Return 2 to 10 round numbers from low to high; the ends where there are not two.

    Args:
        low: The lower end, above zero where the axis is logarithmic.
        high: The upper end, above the lower one.
        log: Whether equal ratios take equal room.
        whole: Whether fractions mean nothing.
    """
    found = _decades(low, high) if log else []
    if len(found) < 3:
        found = _multiples(low, high, least=1.0 if whole else 0.0)
    return found if len(found) >= 2 else [low, high]


def _multiples(low: float, high: float, least: float) -> list[float]:
    """Return the multiples of 1, 2 or 5 times a power of ten that leave 2 to 6 spaces."""
    rough = max(high / 6 - low / 6, least)
    if rough < 1e-300:
        return []
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(size * unit for size in (1, 2, 5, 10, 20) if size * unit >= rough)
    first, last = math.ceil(low / step), math.floor(high / step)
    values = {count * step for count in range(first, min(last, first + 9) + 1)}
    return sorted(value for value in values if low <= value <= high)


def _decades(low: float, high: float) -> list[float]:
    """Return powers of ten, every few where there are many; of few, 2 and 5 times them too."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside = [value for power in powers if low <= (value := float(f"1e{power}")) <= high]
    if len(inside) >= 3:
        return inside[:: math.ceil(len(inside) / 8)]
    finer = [float(f"{size}e{power}") for power in powers for size in (1, 2, 5)]
    return [value for value in finer if low <= value <= high]


def spelled_ticks(values: Sequence[float]) -> list[str]:
    """Spell numbers with as many digits as tell them apart."""
    step = min(after - before for before, after in pairwise(values))
    texts: list[str] = []
    for digits in range(6, 18):
        texts = [f"{value:.{digits}g}" for value in values]
        if all(abs(float(t) - v) <= 1e-3 * step for t, v in zip(texts, values, strict=True)):
            break
    return [_raised(text) for text in texts]


def _raised(text: str) -> str:
    """Spell a number as people write it, e.g. ``2·10⁻⁵``."""
    mantissa, mark, power = text.replace("-", "−").partition("e")
    if not mark:
        return mantissa
    tens = f"10{str(int(power.replace('−', '-'))).translate(RAISED)}"
    return f"{mantissa[:-1]}{tens}" if mantissa in {"1", "−1"} else f"{mantissa}·{tens}"


def chart(label: str, axes: tuple[Axis, Axis], series: Sequence[Series]) -> str:
    """Return a plot as one SVG element, the last series uppermost.

    Args:
        label: What it is called by those who cannot see it.
        axes: The horizontal and the vertical one.
        series: What it shows.
    """
    parts = [*_frame(axes)]
    for each in series:
        parts.extend(_drawn(each, axes))
    parts.extend(_legend([each for each in series if each.label]))
    begin = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="{escaped(label)}">'
    )
    return "\n".join((begin, *parts, "</svg>"))


def _frame(axes: tuple[Axis, Axis]) -> Iterator[str]:
    """Yield the lines across the plot, their numbers, and what the axes show."""
    across, up = axes
    bottom = TOP + DOWN
    values = ticks(across.low, across.high, log=across.log, whole=across.whole)
    for value, text in zip(values, spelled_ticks(values), strict=True):
        x = _pixels((value, up.low), axes)[0]
        yield f'<path class="grid" d="M{x:.1f} {TOP}V{bottom}"/>'
        yield f'<text class="tick mid" x="{x:.1f}" y="{bottom + 17}">{text}</text>'
    values = ticks(up.low, up.high, log=up.log, whole=up.whole)
    for value, text in zip(values, spelled_ticks(values), strict=True):
        y = _pixels((across.low, value), axes)[1]
        yield f'<path class="grid" d="M{LEFT} {y:.1f}h{ACROSS}"/>'
        yield f'<text class="tick end" x="{LEFT - 8}" y="{y + 4:.1f}">{text}</text>'
    yield f'<path class="edge" d="M{LEFT} {TOP}v{DOWN}h{ACROSS}"/>'
    yield f'<text x="{LEFT}" y="{TOP - 12}">{escaped(up.label)}</text>'
    middle = LEFT + ACROSS // 2
    yield f'<text class="mid" x="{middle}" y="{bottom + 38}">{escaped(across.label)}</text>'


def _drawn(series: Series, axes: tuple[Axis, Axis]) -> Iterator[str]:
    """Yield the line and the marks of a series."""
    places = [_pixels(point, axes) for point in series.points]
    if series.line and places:
        yield f'<path class="line {series.kind}" d="{_path(places, series.line)}"/>'
    if series.line != "steps":
        titles = series.titles or [""] * len(places)
        for place, title in zip(places, titles, strict=True):
            yield _mark(series.kind, place, title)


def _path(places: Sequence[Point], line: str) -> str:
    """Return what connects the points."""
    join = "H{:.1f}V{:.1f}" if line == "steps" else "L{:.1f} {:.1f}"
    first, *rest = places
    return "M{:.1f} {:.1f}".format(*first) + "".join(join.format(*place) for place in rest)


def _mark(kind: str, place: Point, title: str = "") -> str:
    """Draw one point."""
    x, y = place
    inner = f"<title>{escaped(title)}</title>" if title else ""
    shape = SHAPES.get(kind.rsplit(maxsplit=1)[-1])
    if shape:
        return f'<path class="mark {kind}" d="M{x:.1f} {y:.1f}{shape}">{inner}</path>'
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.6">{inner}</circle>'


def _legend(series: Sequence[Series]) -> Iterator[str]:
    """Yield what each series is called, right of the plot."""
    for place, each in enumerate(series):
        y = TOP + 10 + 20 * place
        if each.line:
            yield f'<path class="line {each.kind}" d="M{LEGEND - 9} {y}h18"/>'
        if each.line != "steps":
            yield _mark(f"key {each.kind}", (LEGEND, y))
        yield f'<text x="{LEGEND + 16}" y="{y + 4}">{escaped(each.label)}</text>'


def _pixels(point: Point, axes: tuple[Axis, Axis]) -> Point:
    """Return where a point is drawn."""
    across, up = (_share(value, each) for value, each in zip(point, axes, strict=True))
    return LEFT + ACROSS * across, TOP + DOWN * (1 - up)


def _share(value: float, along: Axis) -> float:
    """Return how far along an axis a value is, from 0 to 1."""
    if along.log:
        return math.log(value / along.low) / math.log(along.high / along.low)
    return (value - along.low) / (along.high - along.low)
