"""Search for the order of channels with which tiles lose least, compiled."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

from onnxq.numerics.affine import TINY
from onnxq.numerics.tile_order import Family, TiledMatrix, permuted
from onnxq.types import Array


import os

MODE = int(os.environ.get("MODE", "0"))


class _Arrays(NamedTuple):
    """All layers behind each other, changed in place.

    Attributes:
        cells: Values of all layers, float32.
        power: Of all rows.
        tiles: For each tile its first cell, rows, columns, cells from row to row, first power.
        rates: For each tile its largest code and the share of its layer.
        errors: Of each tile, times the share.
        peaks: Its largest magnitude.
    """

    cells: Array
    power: Array
    tiles: Array
    rates: Array
    errors: Array


def flat(matrices: Sequence[TiledMatrix]) -> tuple[_Arrays, list[tuple[int, int, int]]]:
    tiles, rates, starts = [], [], []
    cell = power = tile = 0
    for matrix in matrices:
        starts.append((cell, power, tile))
        groups, n, m = matrix.values.shape
        rows, columns = matrix.steps
        g, top, left = (
            each.reshape(-1)
            for each in np.meshgrid(
                np.arange(groups), np.arange(0, n, rows), np.arange(0, m, columns), indexing="ij"
            )
        )
        tiles.append(
            np.stack(
                [
                    cell + (g * n + top) * m + left,
                    np.minimum(rows, n - top),
                    np.minimum(columns, m - left),
                    np.full_like(g, m),
                    power + g * n + top,
                ],
                axis=1,
            )
        )
        rates.append(np.tile([matrix.half, matrix.share], (g.size, 1)))
        cell += matrix.values.size
        power += matrix.power.size
        tile += g.size
    arrays = _Arrays(
        cells=np.concatenate([matrix.values.reshape(-1) for matrix in matrices]),
        power=np.concatenate([matrix.power.reshape(-1) for matrix in matrices]).astype(np.float64),
        tiles=np.concatenate(tiles),
        rates=np.concatenate(rates),
        errors=np.zeros(tile),
    )
    return arrays, starts


def lines_of(family: Family, matrices, starts) -> Array:
    """(channels, K, 7): first cell, cells, stride, power or -1, first tile, tiles, their stride."""
    found = []
    for place in family.places:
        matrix = matrices[place.matrix]
        cell, power, tile = starts[place.matrix]
        _, n, m = matrix.values.shape
        rows, columns = matrix.steps
        down, across = -(-n // rows), -(-m // columns)
        g, i = np.divmod(place.lines, n if place.side == "rows" else m)
        if place.side == "rows":
            parts = (
                cell + place.lines * m,
                m,
                1,
                power + place.lines,
                tile + (g * down + i // rows) * across,
                across,
                1,
            )
        else:
            parts = (
                cell + g * n * m + i,
                n,
                m,
                -1,
                tile + g * down * across + i // columns,
                down,
                across,
            )
        found.append(np.stack([np.broadcast_to(p, place.lines.shape) for p in parts], axis=-1))
    return np.concatenate(found, axis=1).astype(np.int64)


@njit(nogil=True)
def tile_error(arrays, tile, most, sums):
    first, rows, columns, pitch, source = arrays.tiles[tile]
    half, share = arrays.rates[tile]
    most, sums = most[:columns], sums[:columns]
    most[:] = 0
    for r in range(rows):
        row = arrays.cells[first + r * pitch : first + r * pitch + columns]
        for c in range(columns):
            most[c] = max(most[c], abs(row[c]))
    peak = most.max()
    if peak == 0:
        return 0.0
    step = max(peak / np.float32(half), TINY)
    sums[:] = 0
    for r in range(rows):
        row = arrays.cells[first + r * pitch : first + r * pitch + columns]
        power = arrays.power[source + r]
        for c in range(columns):
            error = np.float64(row[c] - np.rint(row[c] / step) * step)
            sums[c] += error * error * power
    if MODE:
        return (
            power * 0
            + arrays.power[source : source + rows].sum() * columns * step * step / 12 * share
        )
    return sums.sum() * share


@njit(nogil=True)
def fill(arrays, most, sums):
    for t in range(len(arrays.tiles)):
        arrays.errors[t] = tile_error(arrays, t, most, sums)


@njit(nogil=True)
def swap(arrays, lines, p, q):
    for k in range(lines.shape[1]):
        a, count, stride, a_power = lines[p, k, :4]
        b, b_power = lines[q, k, 0], lines[q, k, 3]
        for i in range(count):
            x, y = a + i * stride, b + i * stride
            arrays.cells[x], arrays.cells[y] = arrays.cells[y], arrays.cells[x]
        if a_power >= 0:
            arrays.power[a_power], arrays.power[b_power] = (
                arrays.power[b_power],
                arrays.power[a_power],
            )


@njit(nogil=True)
def attempt(arrays, lines, order, pairs, stamps, touched, fresh, most, sums):
    """Keep those swaps of a list that gain something; say how many."""
    kept = 0
    for each in range(len(pairs)):
        p, q = pairs[each]
        count, before = 0, 0.0
        stamps[0] += 1
        for k in range(lines.shape[1]):
            if lines[p, k, 4] == lines[q, k, 4]:
                continue
            for c in (p, q):
                first, number, stride = lines[c, k, 4:]
                for i in range(number):
                    t = first + i * stride
                    if stamps[t + 1] != stamps[0]:
                        stamps[t + 1] = stamps[0]
                        touched[count] = t
                        before += arrays.errors[t]
                        count += 1
        swap(arrays, lines, p, q)
        after = 0.0
        for i in range(count):
            fresh[i] = tile_error(arrays, touched[i], most, sums)
            after += fresh[i]
            if after >= before:
                break
        if after < before * (1 - 1e-9):
            kept += 1
            order[p], order[q] = order[q], order[p]
            for i in range(count):
                arrays.errors[touched[i]] = fresh[i]
        else:
            swap(arrays, lines, p, q)
    return kept


def search(matrices, families, orders, seed, rounds, limit=10**9):
    arrays, starts = flat(permuted(matrices, families, orders))
    own = [lines_of(f, matrices, starts) for f in families]
    widest = int(arrays.tiles[:, 2].max())
    most, sums = np.zeros(widest, np.float32), np.zeros(widest)
    nt = len(arrays.tiles)
    stamps, touched, fresh = np.zeros(nt + 1, np.int64), np.zeros(nt, np.int64), np.zeros(nt)
    orders = [np.array(o, np.int64) for o in orders]
    fill(arrays, most, sums)
    rng = np.random.default_rng(seed)
    for r in range(rounds):
        was = arrays.errors.sum()
        kept = tried = 0
        for lines, order in zip(own, orders):
            _, cls = np.unique(lines[:, :, 4], axis=0, return_inverse=True)
            cls = cls.reshape(-1)
            p, q = np.triu_indices(len(order), 1)
            ok = cls[p] != cls[q]
            pairs = np.stack([p[ok], q[ok]], 1)
            pairs = pairs[rng.permutation(len(pairs))[:limit]]
            tried += len(pairs)
            if len(pairs):
                kept += attempt(arrays, lines, order, pairs, stamps, touched, fresh, most, sums)
        print("   round", r, tried, kept, arrays.errors.sum())
        if arrays.errors.sum() > was * (1 - 1e-4):
            break
    return orders
