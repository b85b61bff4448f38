"""Search for the order of channels with which the tiles of crossbar arrays lose least.

From the best of some orders, swaps of two channels that lie in different tiles are tried, and those
kept with which the predicted error of all layers falls. See `onnxq.numerics.tile_order`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxq.numerics.tile_cells import cells_of, fill, improve, lines_of
from onnxq.numerics.tile_order import Family, Orders, TiledMatrix, permuted, total
from onnxq.types import Array


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long to search.

    Attributes:
        rounds: Over all families, at most.
        tries: Swaps a family and round; a family with fewer pairs of channels tries each once.
        tiles: Tiles that the lines of these swaps cross, at most: blocks are many.
        gain: A round that lowers the total by a smaller part is the last.
    """

    rounds: int = 6
    tries: int = 30_000
    tiles: int = 4_000_000
    gain: float = 1e-4


def cluster_order(
    matrices: Sequence[TiledMatrix],
    families: Sequence[Family],
    starts: Sequence[Sequence[Array]],
    seed: int = 0,
    effort: Effort = Effort(),
    report: Callable[[int, float], None] = lambda _round, _total: None,
) -> Orders:
    """Put channels together that lose least in the same tiles.

    Args:
        matrices: The layers, every channel where it is in the model.
        families: What may change places.
        starts: Orders to begin with, each one a family: at least one; see `starting_orders`.
        seed: Of the swaps tried.
        effort: How long to search.
        report: Told the number of each round and the total behind it.

    Returns:
        One order a family. The total is no higher than with any of the starts.

    Raises:
        ValueError: A start is no order of all channels, or rows and columns of a layer can leave
            their groups.

    Source:
        docs/crossbar.md, "Order of the channels". Ours: the publication sorts by one number a
        channel.
    """
    orders = combined(matrices, families, starts)
    cells = cells_of(permuted(matrices, families, orders))
    fill(cells)
    lines = [lines_of(matrices, family) for family in families]
    rng, now = np.random.default_rng(seed), float(cells.errors.sum())
    for number in range(effort.rounds):
        before = now
        for own, order in zip(lines, orders, strict=True):
            crossed = 2 * int(own[0, :, 5].sum())
            tries = min(effort.tries, effort.tiles // crossed)
            improve(cells, own, order, _pairs(own, tries, rng))
        now = float(cells.errors.sum())
        report(number, now)
        if now >= before * (1 - effort.gain):
            break
    return orders


def combined(
    matrices: Sequence[TiledMatrix], families: Sequence[Family], starts: Sequence[Sequence[Array]]
) -> Orders:
    """Take the best of some orders, then for each family the best of theirs with it.

    Returns:
        One order a family, int64 copies. The total is no higher than with any of the starts.
    """
    totals = [total(permuted(matrices, families, start)) for start in starts]
    orders = [np.array(order, np.int64) for order in starts[int(np.argmin(totals))]]
    now = permuted(matrices, families, orders)
    for i, family in enumerate(families):
        incident = {place.matrix for place in family.places}
        for start in starts:
            change = np.argsort(orders[i])[start[i]]
            tried = permuted(now, [family], [change])
            if total([tried[j] for j in incident]) < total([now[j] for j in incident]):
                orders[i], now = orders[i][change], tried
    return orders


def _pairs(lines: Array, tries: int, rng: np.random.Generator) -> Array:
    """Return positions to swap that differ in their tiles, ``(at most tries, 2)``."""
    channels = len(lines)
    if channels * (channels - 1) // 2 <= tries:
        pairs = rng.permutation(np.stack(np.triu_indices(channels, 1), axis=1))
    else:
        pairs = rng.integers(channels, size=(tries, 2))
    tiles = lines[:, :, 4]
    differ: Array = (tiles[pairs[:, 0]] != tiles[pairs[:, 1]]).any(axis=1)
    return pairs[differ]
