"""Histograms drawn with characters: counts on a logarithmic scale, and ranges below them."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from onnxq.numerics.moments import equal_bins
from onnxq.report.values import compact
from onnxq.types import Array

ROWS = 8
LABELS = 7  # characters left of the picture
NARROWEST = 20  # columns of it

Ends = tuple[float, float]


@dataclass(frozen=True)
class Ink:
    """The characters to draw with.

    Attributes:
        levels: A cell that is empty, ever fuller, full.
        corner: Where the axes meet.
        line: A horizontal line.
        side: A vertical line.
        left: Where a range begins.
        right: Where it ends.
    """

    levels: str
    corner: str
    line: str
    side: str
    left: str
    right: str


BLOCKS = Ink(" ▁▂▃▄▅▆▇█", "└", "─", "│", "├", "┤")
ASCII = Ink(" .:#", "+", "-", "|", "|", "|")


def drawn(
    points: tuple[Array, Array],
    across: Ends,
    ranges: Mapping[str, Ends],
    width: int,
    ink: Ink = BLOCKS,
    shades: Mapping[str, Callable[[Array], Array]] | None = None,
) -> Iterator[str]:
    """Yield a histogram and, below it, functions of the values, and what each range covers.

    Args:
        points: Values and counts, each ``(bins,)``.
        across: Interval to draw, zero within it.
        ranges: Name to interval; what lies beyond the picture is left out.
        width: Columns in all.
        ink: Characters to draw with.
        shades: Name to a function of values that gives numbers from 0 to 1.
    """
    shades = shades or {}
    if across[0] == across[1] or not points[0].size:
        yield "nothing to draw: there are no values but zero"
        return
    names = max(map(len, (*ranges, *shades)), default=0)
    columns = max(width - LABELS - 3 - names, NARROWEST)
    yield from _bars(equal_bins(points, *across, columns), ink)
    yield f"{0:>{LABELS - 1}} {ink.corner}{ink.line * columns}"
    yield f"{'':{LABELS}} {_scale(across, columns)}"
    for name, shade in shades.items():
        yield f"{'':{LABELS}} {_shaded(shade, across, columns, ink)}  {name}"
    for name, ends in ranges.items():
        yield f"{'':{LABELS}} {_span(ends, across, columns, ink)}  {name}"


def _bars(heights: Array, ink: Ink) -> Iterator[str]:
    """Yield the rows of a histogram, the uppermost first; a label is for the top of its row."""
    full = len(ink.levels) - 1
    most = int(heights.max())
    levels = [math.ceil(ROWS * full * math.log1p(n) / math.log1p(most)) for n in heights]
    labels = {ROWS - 1: compact(most), ROWS // 2 - 1: compact(round(math.sqrt(1 + most) - 1))}
    for row in reversed(range(ROWS)):
        cells = (ink.levels[min(max(level - row * full, 0), full)] for level in levels)
        yield f"{labels.get(row, ''):>{LABELS - 1}} {ink.side}{''.join(cells)}".rstrip()


def _scale(across: Ends, columns: int) -> str:
    """Write the ends of the axis below it, and its zero where there is room."""
    low, high = (f"{end:.4g}" for end in across)
    line = f"{low}{high:>{columns - len(low)}}"
    zero = _column(0.0, across, columns)
    room = len(low) < zero < columns - len(high) - 1
    return f"{line[:zero]}0{line[zero + 1 :]}" if room else line


def _shaded(shade: Callable[[Array], Array], across: Ends, columns: int, ink: Ink) -> str:
    """Draw a function by how full a cell is, at the middle of its column."""
    middles = across[0] + (np.arange(columns) + 0.5) / columns * (across[1] - across[0])
    full = len(ink.levels) - 1
    return "".join(ink.levels[round(full * value)] for value in shade(middles).tolist())


def _span(ends: Ends, across: Ends, columns: int, ink: Ink) -> str:
    """Draw what a range covers."""
    first, last = (_column(end, across, columns) for end in ends)
    if first == last:
        return f"{'':{first}}{ink.side}{'':{columns - first - 1}}"
    line = ink.line * (last - first - 1)
    return f"{'':{first}}{ink.left}{line}{ink.right}{'':{columns - last - 1}}"


def _column(value: float, across: Ends, columns: int) -> int:
    """Return the column a value falls into, the nearest one where it lies outside."""
    low, high = across
    return min(max(int((value - low) / (high - low) * columns), 0), columns - 1)
