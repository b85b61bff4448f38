"""Fold multiplications and additions of constants into the Conv before them.

Before:
    c = Conv(x, W, b)      m = Mul(c, s)      y = Add(m, t)

After:
    y = Conv(x, W·s, b·s + t)

Normalisation written out, and scalings that a network has learnt, are one constant a channel or
one for all. Refused: (1) something else reads the Conv's output, or it is a graph output; (2) its
weights are not constant; (3) the constant varies within a channel's map.
"""

import numpy as np

from onnxq.graph.edit import Names, set_inputs
from onnxq.graph.io import Constant, Model, Node, array_of, constant
from onnxq.graph.query import is_standard, label
from onnxq.numerics.fold import fold_affine
from onnxq.passes import PassReport
from onnxq.types import Array


def fold_scaling(model: Model) -> PassReport:
    """Apply the pass; the Conv's output takes the name of the last result."""
    outputs = {tensor.name for tensor in model.graph.outputs}
    names = Names(model)
    changed, skipped = [], []
    for node in [node for node in model.graph.nodes if node.op in ("Mul", "Add")]:
        conv = _conv_before(node)
        if conv is None:
            continue
        values = _per_channel(conv, node)
        if len(conv.outputs[0].outputs) != 1 or conv.outputs[0].name in outputs:
            skipped.append((label(node), "something else reads the Conv's output"))  # case 1
        elif values is None:
            skipped.append((label(node), "weights or constant do not allow it"))  # cases 2, 3
        else:
            changed.append(label(node))
            _fold(model, names, conv, node, values)
    return PassReport(name="fold_scaling", changed=tuple(changed), skipped=tuple(skipped))


def _conv_before(node: Node) -> Node | None:
    """Return the Conv whose output a node joins with a constant, or None."""
    variables = [tensor for tensor in node.inputs if not isinstance(tensor, Constant)]
    if len(node.inputs) != 2 or len(variables) != 1 or not variables[0].inputs:
        return None
    before = variables[0].inputs[0]
    return before if before.op == "Conv" and is_standard(before) and is_standard(node) else None


def _per_channel(conv: Node, node: Node) -> Array | None:
    """Return the constant as one value an output channel, or None if it is none."""
    if not all(isinstance(tensor, Constant) or not tensor.name for tensor in conv.inputs[1:]):
        return None
    values = next(array_of(tensor) for tensor in node.inputs if isinstance(tensor, Constant))
    weight = array_of(conv.inputs[1])
    rank, channels = weight.ndim, weight.shape[0]
    if values.ndim > rank or not np.isfinite(values).all():
        return None
    shape = (1,) * (rank - values.ndim) + values.shape
    if any(size != 1 for axis, size in enumerate(shape) if axis != 1) or shape[1] not in (
        1,
        channels,
    ):
        return None
    return np.broadcast_to(values.reshape(-1), (channels,)).astype(np.float64)


def _fold(model: Model, names: Names, conv: Node, node: Node, values: Array) -> None:
    """Replace the pair by the Conv with folded weights."""
    weight = array_of(conv.inputs[1])
    has_bias = len(conv.inputs) > 2 and conv.inputs[2].name
    bias = array_of(conv.inputs[2]) if has_bias else None
    zeros, ones = np.zeros_like(values), np.ones_like(values)
    scale, shift = (values, zeros) if node.op == "Mul" else (ones, values)
    folded, shifted = fold_affine(weight, bias, scale, shift, axis=0)
    result = node.outputs[0]
    new_weight = conv.inputs[1]
    if node.op == "Mul":
        new_weight = constant(names.new(f"{result.name}.weight"), folded)
    new_bias = constant(names.new(f"{result.name}.bias"), shifted)
    set_inputs(conv, [conv.inputs[0], new_weight, new_bias])
    node.outputs.clear()
    set_inputs(node, [])
    conv.outputs[0] = result
    model.graph.nodes.remove(node)
