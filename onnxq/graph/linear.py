"""The weights of linear layers by group, output and input, whatever the operator.

Conv            (O, I/g, k…)       → (g, O/g, I/g, k)
ConvTranspose   (I, O/g, k…)       → (g, O/g, I/g, k)
Gemm            (K, N) or (N, K)   → (1, N, K, 1)
MatMul          (K, N)             → (1, N, K, 1)
"""

import hashlib

import numpy as np

from onnxq.graph.edit import Names, set_inputs
from onnxq.graph.io import Constant, Node, Tensor, array_of, constant
from onnxq.graph.query import is_standard
from onnxq.types import Array

DIGITS = 8  # of a digest of factors in the name of what was divided by them
LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def why_not_linear(node: Node) -> str:
    """Return why a node is no layer whose channels can be scaled, or nothing."""
    if node.op not in LINEAR or not is_standard(node):
        return "it is no Conv, ConvTranspose, Gemm or MatMul"
    weight = node.inputs[1]
    if not isinstance(weight, Constant) or isinstance(node.inputs[0], Constant):
        return "its weights are not constant"
    if node.attrs.get("transA", 0) or (node.op == "MatMul" and len(weight.shape) != 2):
        return "it transposes its input, or its weights are no matrix"
    values = array_of(weight)
    if values.dtype != np.float32 or not np.isfinite(values).all() or not values.size:
        return "its weights are not finite float32 values"
    bias, outputs = bias_of(node), by_group(node, values).shape
    return "" if bias is None else _why_not_bias(bias, outputs[0] * outputs[1])


def _why_not_bias(bias: Tensor, channels: int) -> str:
    """Return why a bias cannot be divided channel by channel, or nothing."""
    if not isinstance(bias, Constant):
        return "its bias is not constant"
    fits = list(bias.shape)[-1:] == [channels]
    return "" if fits else "its bias has not one value an output channel"


def bias_of(node: Node) -> Tensor | None:
    """Return the bias input of a layer, or None; a constant if `why_not_linear` says nothing."""
    return next((tensor for tensor in node.inputs[2:3] if tensor.name), None)


def by_group(node: Node, weight: Array) -> Array:
    """Return weights as (groups, outputs, inputs, kernel)."""
    groups = node.attrs.get("group", 1)
    if node.op == "Conv":
        return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    if node.op == "ConvTranspose":
        split = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        return split.transpose(0, 2, 1, 3)
    matrix = weight if node.attrs.get("transB", 0) else weight.T
    return matrix[np.newaxis, :, :, np.newaxis]


def _from_groups(node: Node, grouped: Array, shape: tuple[int, ...]) -> Array:
    """Undo `by_group`."""
    if node.op == "Conv":
        return grouped.reshape(shape)
    if node.op == "ConvTranspose":
        return grouped.transpose(0, 2, 1, 3).reshape(shape)
    matrix = grouped[0, :, :, 0]
    return matrix if node.attrs.get("transB", 0) else matrix.T


def _rescaled(node: Node, reads: Array | None, writes: Array | None) -> Array:
    """Return the weights of a layer for a divided input and a divided output."""
    values = array_of(node.inputs[1])
    grouped = by_group(node, values).astype(np.float64)
    groups, outputs, inputs, _ = grouped.shape
    if reads is not None:
        grouped = grouped * reads.reshape(groups, 1, inputs, 1)
    if writes is not None:
        grouped = grouped / writes.reshape(groups, outputs, 1, 1)
    found = _from_groups(node, grouped, values.shape)
    return np.ascontiguousarray(found.astype(np.float32))


def name_after(names: Names, tensor: Tensor, suffix: str, factors: Array) -> str:
    """Return a name for a tensor once it is divided by factors, others for other factors.

    So statistics of what it was divided by before, or by something else, cannot be taken for its.

    Args:
        names: Free names.
        tensor: The tensor.
        suffix: What did it.
        factors: One a channel.
    """
    digest = hashlib.sha256(factors.astype(np.float32).tobytes()).hexdigest()
    return names.new(f"{tensor.name}{suffix}_{digest[:DIGITS]}")


def rescale(
    names: Names,
    node: Node,
    suffix: str,
    *,
    reads: Array | None = None,
    writes: Array | None = None,
) -> None:
    """Give a layer weights and a bias of its own for divided channels.

    Args:
        names: Free names.
        node: The layer.
        suffix: What the names of its constants end with then.
        reads: What each channel of its input was divided by; None for nothing.
        writes: What each channel of its output shall be divided by.
    """
    inputs, bias = list(node.inputs), bias_of(node)
    new = _rescaled(node, reads, writes)
    inputs[1] = constant(names.new(f"{inputs[1].name}{suffix}"), new)
    if bias is not None and writes is not None:
        divided = (array_of(bias) / writes).astype(np.float32)
        inputs[2] = constant(names.new(f"{bias.name}{suffix}"), divided)
    set_inputs(node, inputs)
