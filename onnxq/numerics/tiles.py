"""One rule for every granularity: cut a tensor into tiles, one scale a tile.

Shapes: a tensor ``(d0, …, dn)`` with tile ``(t0, …, tn)`` has the grid
``(ceil(d0/t0), …, ceil(dn/tn))``; 0 in a tile stands for the whole axis, the empty tile for
the whole tensor, whose grid is ``()``. The last tile along an axis may be short.
"""

import math
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from onnxq.types import Array, Tile


def grid(shape: tuple[int, ...], tile: Tile) -> tuple[int, ...]:
    """Return how many tiles lie along each axis.

    Raises:
        ValueError: The tile has another rank than the tensor, or a negative entry.
    """
    if not tile:
        return ()
    if len(tile) != len(shape) or any(step < 0 for step in tile):
        raise ValueError(f"tile {tile} does not fit a tensor of shape {shape}")
    return tuple(
        math.ceil(size / step) if step else 1 for size, step in zip(shape, tile, strict=True)
    )


def expand(values: Array, shape: tuple[int, ...], tile: Tile) -> Array:
    """Repeat one value a tile over all elements of its tile, so that it broadcasts.

    Args:
        values: One entry a tile, shape ``grid(shape, tile)``.
        shape: Shape of the tensor.
        tile: Reach of one value.

    Returns:
        An array that broadcasts against ``shape``; axes with a single tile keep length 1.

    Raises:
        ValueError: ``values`` has another shape than the grid.
    """
    if values.shape != grid(shape, tile):
        raise ValueError(f"values of shape {values.shape} for a grid {grid(shape, tile)}")
    for axis, (size, step) in enumerate(zip(shape, tile, strict=False)):  # no tile, no axes
        if values.shape[axis] > 1 and step > 1:
            values = np.repeat(values, step, axis=axis)[(slice(None),) * axis + (slice(size),)]
    return values


def is_blocked(tile: Tile) -> bool:
    """Say whether a tile cuts both axes of a matrix."""
    return len(tile) == 2 and 0 not in tile


def iterate(array: Array, tile: Tile) -> Iterator[Array]:
    """Yield the tiles of an array as views, in C order of the grid."""
    if not tile:
        yield array
        return
    steps = [step or max(size, 1) for size, step in zip(array.shape, tile, strict=True)]
    counts = grid(array.shape, tile)
    for index in product(*map(range, counts)):
        yield array[tuple(slice(i * s, (i + 1) * s) for i, s in zip(index, steps, strict=True))]


def reduce(array: Array, tile: Tile, function: Callable[[Array], float]) -> Array:
    """Apply a function to every tile.

    Returns:
        float64, shape ``grid(array.shape, tile)``.
    """
    values = [function(part) for part in iterate(array, tile)]
    return np.array(values, np.float64).reshape(grid(array.shape, tile))


def channel_tile(rank: int, axis: int) -> Tile:
    """Return the tile of per-channel quantization along one axis.

    Raises:
        ValueError: The axis does not exist.
    """
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} does not exist in a tensor of rank {rank}")
    return tuple(1 if i == axis % rank else 0 for i in range(rank))
