"""Layers of every kind with weights on matrices, and what they compute in plain numpy, float64.

The wide ones have as many inputs as onnxruntime wants for MatMulNBits.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from onnxq.types import Array, MatrixView
from tests.graphs import build
from tests.oracles import layer_matrix, stored


def conv(x: Array, w: Array, groups: int = 1) -> Array:
    """Convolve without padding, one output channel after the other."""
    rank, inside = x.ndim - 2, x.shape[1] // groups
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=tuple(range(2, x.ndim)))
    planes = []
    for output in range(len(w)):
        first = output // (len(w) // groups) * inside
        part = windows[:, first : first + inside]
        weight = w[output].reshape(inside, *[1] * rank, *w.shape[2:])
        planes.append((part * weight).sum(axis=(1, *range(rank + 2, part.ndim))))
    return np.stack(planes, axis=1)


def conv_transpose(x: Array, w: Array, groups: int = 1) -> Array:
    """Add every input's kernel to where it goes; stride 2."""
    inside, outside = x.shape[1] // groups, w.shape[1]
    high, wide = ((size - 1) * 2 + k for size, k in zip(x.shape[2:], w.shape[2:], strict=True))
    y = np.zeros((len(x), outside * groups, high, wide))
    for i, row, column in np.ndindex(x.shape[1:]):
        channels = slice(i // inside * outside, (i // inside + 1) * outside)
        down, right = (
            slice(2 * row, 2 * row + w.shape[2]),
            slice(2 * column, 2 * column + w.shape[3]),
        )
        y[:, channels, down, right] += x[:, i, row, column].reshape(-1, 1, 1, 1) * w[i]
    return y


Layer = tuple[str, str, tuple[int, ...], Callable[[Array, Array], Array], dict[str, Any]]

LAYERS: dict[str, Layer] = {
    "conv": ("y = Conv(x, w)", "float[2, 5, 6, 6]", (7, 5, 3, 3), conv, {}),
    "conv, 1 x 1": ("y = Conv(x, w)", "float[2, 20, 3, 3]", (6, 20, 1, 1), conv, {}),
    "conv, one axis": ("y = Conv(x, w)", "float[2, 5, 9]", (6, 5, 4), conv, {}),
    "grouped conv": (
        "y = Conv<group = 3>(x, w)", "float[2, 6, 5, 5]", (9, 2, 3, 3),
        lambda x, w: conv(x, w, 3), {"groups": 3},
    ),
    "depthwise conv": (
        "y = Conv<group = 6>(x, w)", "float[2, 6, 5, 5]", (6, 1, 3, 3),
        lambda x, w: conv(x, w, 6), {"groups": 6},
    ),
    "conv transpose": (
        "y = ConvTranspose<strides = [2, 2]>(x, w)", "float[2, 5, 3, 3]", (5, 4, 3, 3),
        conv_transpose, {},
    ),
    "grouped conv transpose": (
        "y = ConvTranspose<strides = [2, 2], group = 2>(x, w)", "float[2, 6, 3, 3]", (6, 2, 3, 3),
        lambda x, w: conv_transpose(x, w, 2), {"groups": 2},
    ),
    "gemm": ("y = Gemm(x, w)", "float[4, 13]", (13, 7), lambda x, w: x @ w, {}),
    "gemm, transA": (
        "y = Gemm<transA = 1, alpha = 0.5>(x, w)", "float[13, 4]", (13, 7),
        lambda x, w: 0.5 * x.T @ w, {},
    ),
    "gemm, transB": (
        "y = Gemm<transB = 1>(x, w)", "float[4, 13]", (7, 13),
        lambda x, w: x @ w.T, {"outputs_first": True},
    ),
    "matmul": ("y = MatMul(x, w)", "float[3, 4, 13]", (13, 7), lambda x, w: x @ w, {}),
    "matmul, a stack": (
        "y = MatMul(x, w)", "float[3, 4, 13]", (3, 13, 7), lambda x, w: x @ w, {},
    ),
    "matmul, a vector": ("y = MatMul(x, w)", "float[4, 13]", (13,), lambda x, w: x @ w, {}),
    "matmul, left": (
        "y = MatMul(w, x)", "float[3, 13, 4]", (7, 13), lambda x, w: w @ x,
        {"outputs_first": True},
    ),
    "matmul, left, a stack": (
        "y = MatMul(w, x)", "float[3, 13, 4]", (3, 7, 13), lambda x, w: w @ x,
        {"outputs_first": True},
    ),
    "matmul, left, a vector": (
        "y = MatMul(w, x)", "float[3, 13, 4]", (13,), lambda x, w: w @ x, {},
    ),
    "matmul, wide": ("y = MatMul(x, w)", "float[3, 70]", (70, 24), lambda x, w: x @ w, {}),
    "matmul, left, wide": (
        "y = MatMul(w, x)", "float[70, 4]", (24, 70), lambda x, w: w @ x, {"outputs_first": True},
    ),
    "gemm, wide": ("y = Gemm(x, w)", "float[3, 64]", (64, 24), lambda x, w: x @ w, {}),
    "gemm, transB, wide": (
        "y = Gemm<transB = 1>(x, w)", "float[3, 64]", (24, 64), lambda x, w: x @ w.T,
        {"outputs_first": True},
    ),
}  # fmt: skip


def model(name: str) -> onnx.ModelProto:
    """Build a layer alone; a vector of weights leaves one axis less."""
    body, given, shape, _, _ = LAYERS[name]
    axes = given.count(",") + (0 if len(shape) == 1 else 1)
    open_shape = ", ".join(f"n{axis}" for axis in range(axes))
    return build(f"net ({given} x) => (float[{open_shape}] y) {{ {body} }}", {"w": shape}, seed=4)


def unfolded(
    name: str, stack: Array, view: MatrixView | None = None, *, kernel_major: bool
) -> Array:
    """Put matrices back into the shape of the weight, by where each index went."""
    shape = LAYERS[name][2]
    numbers = np.arange(np.prod(shape)).reshape(shape)
    where = matrices_of(name, numbers, view, kernel_major=kernel_major)
    flat = np.zeros(numbers.size, stack.dtype)
    flat[where.reshape(-1)] = stack.reshape(-1)
    return flat.reshape(shape)


def matrices_of(
    name: str, weight: Array, view: MatrixView | None = None, *, kernel_major: bool
) -> Array:
    """Return the matrices of the weight of a layer, in the orders of a view if there is one."""
    body, _, _, _, facts = LAYERS[name]
    op = body.split("= ", 1)[1].split("(")[0].split("<")[0]
    groups, outputs_first = facts.get("groups", 1), facts.get("outputs_first", False)
    stack = layer_matrix(op, weight, groups, kernel_major=kernel_major, outputs_first=outputs_first)
    return stack if view is None else stored(stack, view.row_order, view.column_order)
