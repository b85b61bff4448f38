"""The weights of a layer as matrices of n inputs × m outputs, and back.

Shapes: a weight ``(d0, …)`` with a view is ``(G, n, m)``: G groups that share nothing, n inputs,
m outputs, ``y[g, j] = Σ_i x[g, i] · W[g, i, j]``. Without a view everything stays what it is.
"""

import math

import numpy as np

from onnxq.numerics.tiles import grid
from onnxq.types import Array, MatrixView, Tile


def matrices(array: Array, view: MatrixView | None) -> Array:
    """Return the matrices of a weight.

    Args:
        array: The weight, in the shape its operator reads.
        view: How it becomes matrices; None leaves it as it is.

    Returns:
        Shape ``(G, n, m)``.
    """
    if view is None:
        return array
    order = (*view.groups, *view.rows, *view.columns)
    return array.reshape(view.split).transpose(order).reshape(view.shape)


def restored(values: Array, view: MatrixView | None, shape: tuple[int, ...]) -> Array:
    """Return the weight whose matrices these are, the inverse of `matrices`.

    Args:
        values: The matrices, ``(G, n, m)``.
        view: How they came from the weight; None leaves them as they are.
        shape: Shape of the weight.
    """
    if view is None:
        return values
    order = (*view.groups, *view.rows, *view.columns)
    inside = [view.split[axis] for axis in order]
    return values.reshape(inside).transpose(np.argsort(order)).reshape(shape)


def utilisation(view: MatrixView, tile: Tile) -> tuple[int, int]:
    """Return how many cells of crossbar arrays hold a weight, and how many there are.

    Every tile takes an array of its own, however few of its cells it fills.

    Args:
        view: The matrices.
        tile: ``(1, R, C)``, in cells.
    """
    _, rows, columns = tile
    return math.prod(view.shape), math.prod(grid(view.shape, tile)) * rows * columns
