"""What a layer multiplies with each row of its matrix, by running the layer itself.

A layer whose matrix is the identity writes what it reads, row by row: padding, strides and
dilations included. Rows come in their natural order, whatever order they are stored in.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import onnx

from onnxq.graph.io import Model, Node, message_of
from onnxq.graph.session import Runtime, Session
from onnxq.numerics.matrices import restored
from onnxq.types import Array, MatrixView

CONVOLUTIONS = ("Conv", "ConvTranspose")
OPTIONAL_BIAS = 13  # no older operator set is needed, and before 11 a Gemm must have its bias


def row_reader(
    model: Model, node: Node, index: int, view: MatrixView, runtime: Runtime
) -> Callable[[Array], Array]:
    """Return what turns values that a layer reads into rows, see `by_row`.

    Args:
        model: The model the node is in.
        node: A Conv, ConvTranspose, Gemm or MatMul.
        index: Which input its weight is.
        view: The matrices of that weight, of a MatMul one only.
        runtime: How to run the layer, where that takes more than sorting.
    """
    groups = view.shape[0]
    if is_plain(node):
        return lambda values: by_row(node, index, values, groups)
    read, session = (
        node.inputs[1 - index].name,
        Session(unfolding(model, node, index, view), runtime),
    )
    return lambda values: by_row(node, index, session.run({read: values})[0], groups)


def is_plain(node: Node) -> bool:
    """Say whether a layer whose matrix is the identity writes just what it reads."""
    attrs = node.attrs
    if node.op == "Gemm":
        return attrs.get("alpha", 1.0) == 1.0 and not attrs.get("transA", 0)
    if node.op == "Conv":
        kernel = [*node.inputs[1].shape[2:], *(attrs.get("strides") or [])]
        padded = any(attrs.get("pads") or []) or attrs.get("group", 1) > 1
        return all(size == 1 for size in kernel) and not padded
    return bool(node.op == "MatMul")


def unfolding(model: Model, node: Node, index: int, view: MatrixView) -> onnx.ModelProto:
    """Return a model of one node with the identity for weights.

    Args:
        model: The model the node is in.
        node: A Conv, ConvTranspose, Gemm or MatMul.
        index: Which input its weight is.
        view: The matrices of that weight, of a MatMul one only.
    """
    return alone(model, node, {node.inputs[index].name: _identity(node, view)})


def alone(model: Model, node: Node, constants: Mapping[str, Array]) -> onnx.ModelProto:
    """Return a model of one layer, ``y`` its output, without its bias.

    Args:
        model: The model the node is in.
        node: A Conv, ConvTranspose, Gemm or MatMul.
        constants: Values of those of its first two inputs that are not given at run time.
    """
    message = message_of(node)
    del message.input[2:]  # the bias
    message.output[:] = ["y"]
    read = [name for name in dict.fromkeys(message.input) if name not in constants]
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [message],
        "layer",
        [onnx.helper.make_tensor_value_info(name, kind, None) for name in read],
        [onnx.helper.make_tensor_value_info("y", kind, None)],
        [onnx.numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return onnx.helper.make_model(
        graph,
        ir_version=max(model.proto.ir_version, 7),
        opset_imports=[onnx.helper.make_opsetid("", max(model.opset, OPTIONAL_BIAS))],
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
