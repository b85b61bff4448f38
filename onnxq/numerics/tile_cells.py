"""Tiles of many layers in flat arrays, and swaps of channels that make them lose less, compiled.

A line is a row or a column of a matrix; it crosses tiles, and what of it lies in one is a piece.
While the scale of a tile stays, a swap changes its error by that of the pieces alone: only tiles
whose largest weight comes or goes are looked at as a whole.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

from onnxq.numerics.affine import TINY
from onnxq.numerics.tile_order import Family, Lines, TiledMatrix
from onnxq.types import Array

GAIN = 1e-9  # of what was lost before; less is rounding


class Cells(NamedTuple):
    """All layers behind each other, changed in place.

    Attributes:
        values: Of all cells, float32.
        power: Of all rows.
        tiles: For each tile its first cell, its rows, its columns, how many cells it is from row
            to row, its first row; int64 ``(tiles, 5)``.
        rates: For each tile its largest code and the share of its layer, ``(tiles, 2)``.
        errors: Of each tile, times the share.
        peaks: The largest magnitude of each tile.
        marks: Number of the last swap that touched each tile; that of the swap last.
        seen: Tiles a swap touches, those of them with another scale, int64 ``(2, tiles)``.
        fresh: What is known of tiles a swap touches: change or new error, new peak, ``(2, tiles)``.
        room: For sums over the rows of a tile, ``(2, columns of the widest)``.
    """

    values: Array
    power: Array
    tiles: Array
    rates: Array
    errors: Array
    peaks: Array
    marks: Array
    seen: Array
    fresh: Array
    room: Array


def cells_of(matrices: Sequence[TiledMatrix]) -> Cells:
    """Copy layers into flat arrays; errors and peaks are still to be filled."""
    starts = _starts(matrices)
    tiles = [_tiles(*each) for each in zip(matrices, starts, strict=True)]
    rates = [(len(own), matrix) for own, matrix in zip(tiles, matrices, strict=True)]
    joined = np.concatenate(tiles).astype(np.int64)
    count, widest = len(joined), int(joined[:, 2].max(initial=0))
    return Cells(
        values=np.concatenate([matrix.values.reshape(-1) for matrix in matrices]),
        power=np.concatenate([matrix.power.reshape(-1) for matrix in matrices]).astype(np.float64),
        tiles=joined,
        rates=np.concatenate([np.tile((float(m.half), m.share), (n, 1)) for n, m in rates]),
        errors=np.zeros(count),
        peaks=np.zeros(count, np.float32),
        marks=np.zeros(count + 1, np.int64),
        seen=np.zeros((2, count), np.int64),
        fresh=np.zeros((2, count)),
        room=np.zeros((2, widest)),
    )


def lines_of(matrices: Sequence[TiledMatrix], family: Family) -> Array:
    """Return where the lines of channels lie in the flat arrays of `cells_of`.

    Returns:
        int64 ``(channels, lines of one, 7)``: first cell, cells, distance of two of them, power or
        −1 for columns, first tile, tiles, distance of two of them.
    """
    starts = _starts(matrices)
    found = [_lines(matrices[at.matrix], at, starts[at.matrix]) for at in family.places]
    return np.concatenate(found, axis=1).astype(np.int64)


def _starts(matrices: Sequence[TiledMatrix]) -> list[tuple[int, int, int]]:
    """Return the first cell, row and tile of each layer."""
    sizes = [(m.values.size, m.power.size, int(np.prod(m.grid))) for m in matrices]
    ends = np.cumsum([(0, 0, 0), *sizes], axis=0)
    return [(int(cell), int(row), int(tile)) for cell, row, tile in ends[:-1]]


def _tiles(matrix: TiledMatrix, start: tuple[int, int, int]) -> Array:
    """Return a layer's part of `Cells.tiles`."""
    (_, height, width), (rows, columns) = matrix.values.shape, matrix.steps
    group, down, across = np.indices(matrix.grid).reshape(3, -1)
    top, left = down * rows, across * columns
    row = group * height + top
    parts = (
        start[0] + row * width + left,
        np.minimum(rows, height - top),
        np.minimum(columns, width - left),
        np.full_like(row, width),
        start[1] + row,
    )
    return np.stack(parts, axis=1)


def _lines(matrix: TiledMatrix, place: Lines, start: tuple[int, int, int]) -> Array:
    """Return one place's part of `lines_of`."""
    (_, height, width), (rows, columns) = matrix.values.shape, matrix.steps
    _, down, across = matrix.grid
    cell, row, tile = start
    parts: tuple[Array | int, ...]
    if place.side == "rows":
        group, number = np.divmod(place.lines, height)
        strip = group * down + number // rows
        parts = (cell + place.lines * width, width, 1, row + place.lines)
        parts += (tile + strip * across, across, 1)
    else:
        group, number = np.divmod(place.lines, width)
        strip = group * down * across + number // columns
        parts = (cell + group * height * width + number, height, width, -1)
        parts += (tile + strip, down, across)
    return np.stack([np.broadcast_to(part, place.lines.shape) for part in parts], axis=-1)


@njit(cache=True, nogil=True)
def fill(cells: Cells) -> None:
    """Fill in errors and peaks of all tiles."""
    for tile in range(len(cells.tiles)):
        cells.errors[tile], cells.peaks[tile] = _look(cells, tile)


@njit(cache=True, nogil=True)
def improve(cells: Cells, lines: Array, order: Array, pairs: Array) -> int:
    """Try swaps of two channels one after another and keep each with which less is lost.

    Args:
        cells: All layers, errors and peaks filled in; changed.
        lines: Those of the family, as `lines_of` returns them.
        order: That of the family, int64; changed.
        pairs: Positions to swap, ``(swaps, 2)``.

    Returns:
        How many were kept.
    """
    kept = 0
    for pair in range(len(pairs)):
        p, q = pairs[pair]
        touched, changed, bound = _screen(cells, lines, p, q)
        if touched == 0 or bound >= 0:
            continue
        _swap(cells, lines, p, q)
        for i in range(changed):
            bound += _look(cells, cells.seen[1, i])[0]
            if bound >= 0:
                break
        if bound < 0 and _settle(cells, touched):
            order[p], order[q] = order[q], order[p]
            kept += 1
        else:
            _swap(cells, lines, p, q)
    return kept


@njit(cache=True, nogil=True)
def _look(cells: Cells, tile: int) -> tuple[float, float]:
    """Return what a tile loses, and its largest magnitude; inner loops become vectors."""
    first, rows, columns, pitch, source = cells.tiles[tile]
    most, sums = cells.room[0, :columns], cells.room[1, :columns]
    most[:] = 0
    for r in range(rows):
        row = cells.values[first + r * pitch : first + r * pitch + columns]
        for c in range(columns):
            most[c] = max(most[c], abs(row[c]))
    peak = np.float32(most.max())
    if peak == 0:
        return 0.0, 0.0
    step = max(peak / np.float32(cells.rates[tile, 0]), TINY)
    sums[:] = 0
    for r in range(rows):
        row = cells.values[first + r * pitch : first + r * pitch + columns]
        power = cells.power[source + r]
        for c in range(columns):
            error = np.float64(row[c] - np.rint(row[c] / step) * step)
            sums[c] += error * error * power
    return float(sums.sum() * cells.rates[tile, 1]), float(peak)


@njit(cache=True, nogil=True)
def _piece(cells: Cells, tile: int, line: Array, number: int) -> tuple[float, float]:
    """Return what a line's piece would lose with the scale of a tile, and its largest magnitude.

    Args:
        cells: All layers.
        tile: The tile, which the line need not cross.
        line: The line, as in `lines_of`.
        number: Which of the line's tiles the piece is in.
    """
    _, rows, columns, _, source = cells.tiles[tile]
    start, _, stride, row = line[:4]
    count, long = (
        (columns, cells.tiles[line[4], 2]) if row >= 0 else (rows, cells.tiles[line[4], 1])
    )
    start += number * long * stride
    step = max(cells.peaks[tile] / np.float32(cells.rates[tile, 0]), TINY)
    peak, lost = np.float32(0), 0.0
    for i in range(count):
        value = cells.values[start + i * stride]
        peak = max(peak, abs(value))
        error = np.float64(value - np.rint(value / step) * step)
        lost += error * error * cells.power[row if row >= 0 else source + i]
    return float(lost * cells.rates[tile, 1]), float(peak)


@njit(cache=True, nogil=True)
def _screen(cells: Cells, lines: Array, p: int, q: int) -> tuple[int, int, float]:
    """Say what a swap does: tiles touched, those with another scale, and a bound of the change.

    The bound is the change of the tiles that keep their scale, less all that the others lose. It
    is none where a tile has rows and columns of the same channels; who keeps the swap looks again.
    """
    touched = 0
    cells.marks[-1] += 1
    for k in range(lines.shape[1]):
        if lines[p, k, 4] == lines[q, k, 4]:
            continue
        for going, coming in ((lines[p, k], lines[q, k]), (lines[q, k], lines[p, k])):
            for i in range(going[5]):
                tile = going[4] + i * going[6]
                if cells.marks[tile] != cells.marks[-1]:
                    cells.marks[tile] = cells.marks[-1]
                    cells.seen[0, touched], cells.fresh[0, tile] = tile, 0
                    touched += 1
                if cells.fresh[0, tile] > -np.inf:
                    less, gone = _piece(cells, tile, going, i)
                    more, come = _piece(cells, tile, coming, i)
                    stays = gone < cells.peaks[tile] and come <= cells.peaks[tile]
                    cells.fresh[0, tile] += more - less if stays else -np.inf
    changed, bound = _bound(cells, touched)
    return touched, changed, bound


@njit(cache=True, nogil=True)
def _bound(cells: Cells, touched: int) -> tuple[int, float]:
    """Collect the tiles with another scale and add up the bound of `_screen`."""
    changed, bound = 0, 0.0
    for i in range(touched):
        tile = cells.seen[0, i]
        if cells.fresh[0, tile] == -np.inf:
            cells.seen[1, changed] = tile
            changed += 1
            bound -= cells.errors[tile]
        else:
            bound += cells.fresh[0, tile]
    return changed, bound


@njit(cache=True, nogil=True)
def _swap(cells: Cells, lines: Array, p: int, q: int) -> None:
    """Let the lines of two channels change places, the power of rows with them."""
    for k in range(lines.shape[1]):
        a, count, stride, row = lines[p, k, :4]
        b, other = lines[q, k, 0], lines[q, k, 3]
        for i in range(0, count * stride, stride):
            value = cells.values[a + i]
            cells.values[a + i], cells.values[b + i] = cells.values[b + i], value
        if row >= 0:
            power = cells.power[row]
            cells.power[row], cells.power[other] = cells.power[other], power


@njit(cache=True, nogil=True)
def _settle(cells: Cells, touched: int) -> bool:
    """Look again at all tiles a swap touched; say whether they lose less, and if so note it."""
    before, after = 0.0, 0.0
    for i in range(touched):
        tile = cells.seen[0, i]
        cells.fresh[0, tile], cells.fresh[1, tile] = _look(cells, tile)
        before += cells.errors[tile]
        after += cells.fresh[0, tile]
    if not after < before * (1 - GAIN):
        return False
    for i in range(touched):
        tile = cells.seen[0, i]
        cells.errors[tile], cells.peaks[tile] = cells.fresh[0, tile], cells.fresh[1, tile]
    return True
