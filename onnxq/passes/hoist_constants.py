"""Turn Constant nodes into initializers.

Before:
    w = Constant<value = …>()
    y = Conv(x, w)

After:
    y = Conv(x, w)          with w an initializer

Some exporters keep every weight in a Constant node; afterwards there is one kind of constant.
Refused: (1) a Constant that is a graph output, which needs a node to come from; (2) a
Constant that holds no dense tensor (sparse, or strings).
"""

import numpy as np
import onnx

from onnxq.graph.edit import remove_nodes
from onnxq.graph.io import Model, become_constant
from onnxq.graph.query import label
from onnxq.passes import PassReport


def hoist_constants(model: Model) -> PassReport:
    """Apply the pass to the main graph; tensor names stay."""
    outputs = {tensor.name for tensor in model.graph.outputs}
    changed, skipped, gone = [], [], []
    for node in [node for node in model.graph.nodes if node.op == "Constant"]:
        tensor = node.outputs[0]
        message = _message(node.origin, tensor.name)
        if tensor.name in outputs:
            skipped.append((label(node), "it is a graph output"))  # case 1
        elif message is None:
            skipped.append((label(node), "it holds no dense tensor"))  # case 2
        else:
            changed.append(label(node))
            become_constant(model, tensor, message)
            gone.append(node)
    remove_nodes(model, gone)
    return PassReport(name="hoist_constants", changed=tuple(changed), skipped=tuple(skipped))


def _message(node: onnx.NodeProto, name: str) -> onnx.TensorProto | None:
    """Return the value of a Constant node under a name, or None if it is no dense tensor."""
    attribute = node.attribute[0]
    if attribute.name == "value":
        message = onnx.TensorProto()
        message.CopyFrom(attribute.t)
        message.name = name
        return message
    if attribute.name in ("value_float", "value_floats", "value_int", "value_ints"):
        dtype = np.float32 if "float" in attribute.name else np.int64
        value = onnx.helper.get_attribute_value(attribute)
        return onnx.numpy_helper.from_array(np.array(value, dtype), name)
    return None
