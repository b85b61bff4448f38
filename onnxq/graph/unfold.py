"""What a layer multiplies with each row of its matrix, by running the layer itself.

A layer whose matrix is the identity writes what it reads, row by row: padding, strides and
dilations included. Rows come in their natural order, whatever order they are stored in.
"""

from dataclasses import replace

import numpy as np
import onnx

from onnxq.graph.io import Model, Node, message_of
from onnxq.numerics.matrices import restored
from onnxq.types import Array, MatrixView

CONVOLUTIONS = ("Conv", "ConvTranspose")


def unfolding(model: Model, node: Node, index: int, view: MatrixView) -> onnx.ModelProto:
    """Return a model of one node with the identity for weights.

    Args:
        model: The model the node is in.
        node: A Conv, ConvTranspose, Gemm or MatMul.
        index: Which input its weight is.
        view: The matrices of that weight, of a MatMul one only.
    """
    message = message_of(node)
    read, weight = message.input[1 - index], message.input[index]
    del message.input[2:]  # the bias
    message.output[:] = ["y"]
    unit = onnx.numpy_helper.from_array(_identity(node, view), weight)
    graph = onnx.helper.make_graph(
        [message],
        "unfolding",
        [onnx.helper.make_tensor_value_info(read, onnx.TensorProto.FLOAT, None)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [unit],
    )
    return onnx.helper.make_model(
        graph, ir_version=model.proto.ir_version, opset_imports=model.proto.opset_import
    )


def _identity(node: Node, view: MatrixView) -> Array:
    """Return weights whose matrices are all the identity."""
    groups, rows, _ = view.shape
    unit = np.eye(rows, dtype=np.float32)
    if node.op not in CONVOLUTIONS:
        return unit
    sizes = enumerate(view.split)
    split = tuple(rows if a in view.columns else size for a, size in sizes)
    wide = replace(view, split=split, row_order=(), column_order=())
    first, *others = wide.split
    shape = (first * others.pop(0), *others) if view.groups else wide.split
    return restored(np.broadcast_to(unit, (groups, rows, rows)), wide, shape)


def by_row(node: Node, index: int, written: Array, groups: int) -> Array:
    """Sort what an unfolding wrote.

    Args:
        node: The node.
        index: Which input its weight is.
        written: Output of the model.
        groups: Number of matrices.

    Returns:
        Shape ``(G, n, samples and places)``, rows in natural order.
    """
    if node.op in CONVOLUTIONS:
        count, channels = written.shape[:2]
        planes = written.reshape(count, groups, channels // groups, -1)
        return planes.transpose(1, 2, 0, 3).reshape(groups, channels // groups, -1)
    axis = -1 if index else written.ndim - 2
    return np.moveaxis(written, axis, 0).reshape(1, written.shape[axis], -1)
