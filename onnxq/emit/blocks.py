"""Tile scales as DequantizeLinear can say them: blocks along one axis, one scale an output each.

    codes (G·m, n) ─► DequantizeLinear(axis=1, block_size=R) ─► Gather(axis=1), Gather(axis=0)
                   ─► Reshape, Transpose, Reshape ─► W

The scale of a tile is repeated for each of its outputs. The steps behind bring rows and columns
back from the order they are stored in and restore the shape the operator reads; those that would do
nothing are left out. Where none is left, a Max of one tensor stands there: onnxruntime takes a
DequantizeLinear in front of an operator into it without looking at its blocks, and that fails at
run time or, as MatMulNBits, rounds once more.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from onnxq.numerics.matrices import matrices
from onnxq.numerics.tiles import expand, is_blocked
from onnxq.types import Array, MatrixView, QuantParams


class Step(NamedTuple):
    """An operator on dequantized blocks.

    Attributes:
        op: ``Gather``, ``Reshape`` or ``Transpose``.
        to: Where each row or column is found, the shape, or the axes.
        axis: What Gather moves in `block_codes`: 1 the inputs, 0 the outputs.
    """

    op: str
    to: tuple[int, ...]
    axis: int = 0


def block_codes(codes: Array, view: MatrixView) -> Array:
    """Return the codes of a weight with one row an output, in the order they are stored in.

    Args:
        codes: In the shape of the weight.
        view: How it becomes matrices.

    Returns:
        Shape ``(G·m, n)``.
    """
    stack = matrices(codes, view)
    return stack.transpose(0, 2, 1).reshape(-1, stack.shape[1])


def block_values(values: Array, params: QuantParams, view: MatrixView) -> Array:
    """Return one value for each of the blocks of `block_codes`, ``(G·m, ⌈n/R⌉)``.

    Args:
        values: Scales or zero points, one a tile.
        params: The parameters they are of.
        view: How the weight becomes matrices.
    """
    groups, _, outputs = view.shape
    width, rows = params.tile[2], values.shape[1]
    wide = expand(values, (groups, rows, outputs), (1, 1, width))
    wide = np.broadcast_to(wide, (groups, rows, outputs))
    return wide.transpose(0, 2, 1).reshape(-1, rows)


def attributes(params: QuantParams, shape: Sequence[Any] | None) -> dict[str, int]:
    """Return the attributes of DequantizeLinear.

    Args:
        params: Parameters.
        shape: Of the tensor they are of.
    """
    if params.matrix is not None:
        return {"axis": 1, "block_size": min(params.tile[1], params.matrix.shape[1])}
    if is_blocked(params.tile) and shape is not None:
        return {"axis": 0, "block_size": min(params.tile[0], shape[0])}
    return {"axis": params.tile.index(1)} if params.tile else {}


def block_steps(view: MatrixView, shape: tuple[int, ...]) -> Iterator[Step]:
    """Yield the operators from `block_codes` to the weight.

    Args:
        view: How the weight becomes matrices.
        shape: Shape of the weight.
    """
    for axis, stored in ((1, view.row_order), (0, view.column_order)):
        if stored:
            yield Step("Gather", tuple(np.argsort(stored).tolist()), axis)
    order = (*view.groups, *view.columns, *view.rows)
    groups, rows, columns = view.shape
    now: tuple[int, ...] = (groups * columns, rows)
    inside = tuple(view.split[axis] for axis in order)
    turned = tuple(np.argsort(order).tolist())
    if turned != tuple(range(len(turned))):
        if inside != now:
            yield Step("Reshape", inside)
        yield Step("Transpose", turned)
        now = view.split
    if now != shape:
        yield Step("Reshape", shape)
