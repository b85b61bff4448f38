"""Questions about a model that several rooms ask."""

from contextlib import suppress
from dataclasses import dataclass, field

import onnx
import onnx_graphsurgeon as gs

from onnxq.graph.io import Model, array_of, sync
from onnxq.graph.weightless import weightless


@dataclass(frozen=True)
class TensorType:
    """Element type and shape, as far as the model tells.

    Attributes:
        dtype: Name as in ONNX, lower case, e.g. ``float`` or ``int64``.
        shape: One entry an axis, None where open; None for unknown rank.
        names: What open axes are called; those of the same name are of the same size.
    """

    dtype: str
    shape: tuple[int | None, ...] | None
    names: tuple[str, ...] = field(default=(), compare=False)


def label(node: gs.Node) -> str:
    """Return a node's name, or its type and first output where it has none."""
    return node.name or f"{node.op}({node.outputs[0].name if node.outputs else ''})"


def is_standard(node: gs.Node) -> bool:
    """Say whether a node is of the standard operator set."""
    return (node.domain or "") in ("", "ai.onnx")


def tensor_types(model: Model) -> dict[str, TensorType]:
    """Infer element types and shapes of the main graph; what cannot be inferred is missing."""
    light = weightless(sync(model))
    graph = _inferred(light).graph
    found = {}
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.HasField("tensor_type") and value.type.tensor_type.elem_type:
            found[value.name] = _tensor_type(value.type.tensor_type)
    for tensor in model.proto.graph.initializer:
        found[tensor.name] = TensorType(_name(tensor.data_type), tuple(tensor.dims))
    for sparse in model.proto.graph.sparse_initializer:
        kind = f"sparse {_name(sparse.values.data_type)}"
        found[sparse.values.name] = TensorType(kind, tuple(sparse.dims))
    return found


def _inferred(light: onnx.ModelProto) -> onnx.ModelProto:
    """Infer shapes, through what a model computes of shapes too if that works."""
    for through in (True, False):
        with suppress(onnx.shape_inference.InferenceError, RuntimeError):
            return onnx.shape_inference.infer_shapes(light, data_prop=through)
    return light  # contradicting shapes only tell less


def _tensor_type(proto: onnx.TypeProto.Tensor) -> TensorType:
    """Translate the message of a type."""
    if not proto.HasField("shape"):
        return TensorType(_name(proto.elem_type), None)
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in proto.shape.dim)
    return TensorType(_name(proto.elem_type), shape, tuple(d.dim_param for d in proto.shape.dim))


def _name(elem_type: int) -> str:
    """Return the lower-case ONNX name of an element type."""
    return str(onnx.TensorProto.DataType.Name(elem_type)).lower()


def output_channel_axis(node: gs.Node, index: int, rank: int) -> int | None:
    """Return the axis of a weight along which its output channels lie.

    Args:
        node: A node with weights.
        index: Which input the weight is.
        rank: Rank of the weight.

    Returns:
        The axis; None where the operator has none or mixes channels of several groups on it.
    """
    if node.op == "Conv" and index == 1:
        return 0
    if node.op == "ConvTranspose" and index == 1:
        return 1 if node.attrs.get("group", 1) == 1 else None
    if node.op == "Gemm" and index == 1:
        return 0 if node.attrs.get("transB", 0) else 1
    if node.op == "MatMul" and index == 1 and rank == 2:
        return 1
    return None


def activation_bounds(node: gs.Node) -> tuple[float, float]:
    """Return the interval a Relu or Clip keeps its output in; infinite for other nodes."""
    infinite = float("inf")
    if node.op == "Relu":
        return 0.0, infinite
    if node.op != "Clip":
        return -infinite, infinite
    bounds = [node.attrs.get("min", -infinite), node.attrs.get("max", infinite)]
    for position, tensor in enumerate(node.inputs[1:3]):
        if isinstance(tensor, gs.Constant):
            bounds[position] = float(array_of(tensor))
    return bounds[0], bounds[1]


def gate_bound(tensor: gs.Tensor) -> float:
    """Return the value below which no reader of a tensor tells its values apart.

    A hard swish, ``x · HardSigmoid(x)``, is 0 for all x ≤ −β/α. Minus infinity where something
    else reads the tensor.
    """
    gates = [node for node in tensor.outputs if node.op == "HardSigmoid"]
    others = [node for node in tensor.outputs if node.op != "HardSigmoid"]
    if len(gates) != 1 or not others:
        return -float("inf")
    gate = gates[0].outputs[0]
    products = all(node.op == "Mul" and any(t is gate for t in node.inputs) for node in others)
    alpha, beta = gates[0].attrs.get("alpha", 0.2), gates[0].attrs.get("beta", 0.5)
    return -float(beta / alpha) if products and alpha > 0 else -float("inf")


SPATIAL = {"Conv", "ConvTranspose", "BatchNormalization", "MaxPool", "AveragePool"}


def channel_axis(tensor: gs.Tensor, rank: int | None) -> int:
    """Return the axis of an activation along which its channels lie.

    It is axis 1 of what a Conv or its like reads or writes and of maps of rank 4 and more, and
    the last axis of what a MatMul or Gemm reads or writes and of all else.
    """
    neighbours = {node.op for node in (*tensor.outputs, *tensor.inputs)}
    if neighbours & SPATIAL or (rank and rank > 3 and not neighbours & {"MatMul", "Gemm"}):
        return 1
    return -1
