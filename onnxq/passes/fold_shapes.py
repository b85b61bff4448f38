"""Turn shapes that the model fixes into initializers.

Before:
    s = Shape(x)                  with x of the shape [N, 1, 8, 8]
    d = Gather(s, one)
    c = Equal(d, two)

After:
    c = Equal(d, two)             with d an initializer

Exporters ask for the size of an axis at run time and let an If choose by it, though the size is
known: a runtime refuses an input of another one. Left alone: (1) a shape with an open axis, unless
Gather picks the others; (2) a graph output.
"""

from collections.abc import Mapping
from contextlib import suppress

import numpy as np
import onnx

from onnxq.graph.edit import remove_unread
from onnxq.graph.io import Constant, Model, Node, array_of, become_constant
from onnxq.graph.query import TensorType, is_standard, label, tensor_types
from onnxq.passes import PassReport
from onnxq.types import Array

OPEN = -1


def fold_shapes(model: Model) -> PassReport:
    """Apply the pass to the main graph; tensor names stay."""
    if not any(node.op == "Shape" for node in model.graph.nodes):
        return PassReport(name="fold_shapes")
    types = tensor_types(model)
    outputs = {tensor.name for tensor in model.graph.outputs}
    values = [(node, _value(node, types)) for node in model.graph.nodes]
    changed = []
    for node, value in values:
        if value is None or (value <= 0).any() or node.outputs[0].name in outputs:
            continue  # cases 1, 2; some exporters write 0 for an open axis
        changed.append(label(node))
        tensor = node.outputs[0]
        node.inputs.clear()
        become_constant(model, tensor, onnx.numpy_helper.from_array(value, tensor.name))
        model.graph.nodes.remove(node)
    changed += remove_unread(model) if changed else []  # a Shape that was read by Gathers only
    return PassReport(name="fold_shapes", changed=tuple(changed))


def _value(node: Node, types: Mapping[str, TensorType]) -> Array | None:
    """Return what a Shape, or a Gather behind one, computes, or None; -1 for an open axis."""
    if not is_standard(node):
        return None
    if node.op == "Shape":
        return _sizes(node, types)
    before = node.inputs[0].inputs if node.op == "Gather" else []
    if not before or before[0].op != "Shape" or not isinstance(node.inputs[1], Constant):
        return None
    sizes = _value(before[0], types)
    with suppress(IndexError):
        return None if sizes is None else np.asarray(sizes[array_of(node.inputs[1])])
    return None


def _sizes(node: Node, types: Mapping[str, TensorType]) -> Array | None:
    """Return the sizes of the axes a Shape asks for, or None where the rank is open."""
    found = types.get(node.inputs[0].name)
    if found is None or found.shape is None:
        return None
    asked = found.shape[node.attrs.get("start", 0) : node.attrs.get("end")]
    return np.array([OPEN if size is None else size for size in asked], np.int64)
