"""The weights of a layer as matrices of n inputs × m outputs, and back.

Shapes: a weight ``(d0, …)`` with a view is ``(G, n, m)``: G groups that share nothing, n inputs,
m outputs, ``y[g, j] = Σ_i x[g, i] · W[g, i, j]``. Without a view everything stays what it is.

Rows and columns are *stored* in the order of the view: ``W[g, i, j]`` is what the natural order has
at row ``row_order[i]`` and column ``column_order[g·m + j] − g·m``.
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
        Shape ``(G, n, m)``, as stored.
    """
    if view is None:
        return array
    order = (*view.groups, *view.rows, *view.columns)
    stack = array.reshape(view.split).transpose(order).reshape(view.shape)
    if view.row_order:
        stack = stack[:, row_order(view)]
    if view.column_order:
        stack = np.take_along_axis(stack, column_order(view)[:, np.newaxis], axis=2)
    return stack


def restored(values: Array, view: MatrixView | None, shape: tuple[int, ...]) -> Array:
    """Return the weight whose matrices these are, the inverse of `matrices`.

    Args:
        values: The matrices as stored, ``(G, n, m)``.
        view: How they came from the weight; None leaves them as they are.
        shape: Shape of the weight.
    """
    if view is None:
        return values
    if view.column_order:
        back = np.argsort(column_order(view), axis=1)
        values = np.take_along_axis(values, back[:, np.newaxis], axis=2)
    if view.row_order:
        values = values[:, np.argsort(row_order(view))]
    order = (*view.groups, *view.rows, *view.columns)
    inside = [view.split[axis] for axis in order]
    return values.reshape(inside).transpose(np.argsort(order)).reshape(shape)


def row_order(view: MatrixView) -> Array:
    """Return the natural number of every stored row, ``(n,)``."""
    return np.array(view.row_order or range(view.shape[1]), np.int64)


def column_order(view: MatrixView) -> Array:
    """Return the natural number, inside its group, of every stored column, ``(G, m)``."""
    groups, _, columns = view.shape
    flat = np.array(view.column_order or range(groups * columns), np.int64)
    return flat.reshape(groups, columns) % columns


def index_bits(view: MatrixView) -> int:
    """Return how many bits the tables of a chip's index unit take: none for a natural order.

    That of the rows has n entries of ⌈log2 n⌉ bits, that of the columns G·m of ⌈log2 m⌉.
    """
    _, rows, columns = view.shape
    entries = len(view.row_order), len(view.column_order)
    widths = (rows - 1).bit_length(), (columns - 1).bit_length()
    return sum(count * width for count, width in zip(entries, widths, strict=True))


def stored_products(gram: Array, view: MatrixView) -> Array:
    """Bring sums of products of all pairs of inputs into the order of the stored rows.

    Args:
        gram: Rows in natural order, ``(G, n, n)``.
        view: The matrices.
    """
    if not view.row_order:
        return gram
    order = row_order(view)
    return gram[:, order[:, np.newaxis], order]


def utilisation(view: MatrixView, tile: Tile) -> tuple[int, int]:
    """Return how many cells of crossbar arrays hold a weight, and how many there are.

    Every tile takes an array of its own, however few of its cells it fills.

    Args:
        view: The matrices.
        tile: ``(1, R, C)``, in cells.
    """
    _, rows, columns = tile
    return math.prod(view.shape), math.prod(grid(view.shape, tile)) * rows * columns
