"""Raise the operator set and the IR version, as far as needed and no further."""

import onnx
from onnx import version_converter

from onnxq.errors import UnsupportedError
from onnxq.graph.io import Model, first_line, from_proto, sync
from onnxq.graph.weightless import put_back, weightless

METADATA_IR = 10  # the first IR version whose nodes have metadata

# First onnxruntime release that implements an operator set (its compatibility page).
ONNXRUNTIME = {
    10: "1.0", 11: "1.0", 12: "1.3", 13: "1.6", 14: "1.8", 15: "1.10", 16: "1.11", 17: "1.12",
    18: "1.14", 19: "1.15", 20: "1.17", 21: "1.18", 22: "1.21", 23: "1.22",
}  # fmt: skip


def raise_opset(model: Model, minimum: int) -> Model:
    """Return the model at no less than a version of the standard operator set.

    The converter works on a copy without weights; weights, metadata and annotations, which it
    would drop, are put back. Names of tensors stay.

    Args:
        model: The model; taken over, not to be used afterwards.
        minimum: Version of the standard operator set needed.

    Raises:
        UnsupportedError: The converter cannot raise this model.
    """
    if model.opset >= minimum:
        return model
    original = sync(model)
    try:
        raised = version_converter.convert_version(weightless(original), minimum)
        put_back(original, raised)
        if not raised.functions:
            raised.functions.extend(original.functions)
        _keep_names(original, raised)
        _hoist_new_constants(original, raised)
        raise_ir(raised)
        onnx.checker.check_model(weightless(raised))  # local functions stay at their operator set
    except Exception as error:  # the converter raises bare RuntimeError and C++ exceptions
        raise UnsupportedError(
            f"{model.path}: opset {model.opset} cannot be raised to {minimum}, which the "
            f"quantized operators need: {first_line(error)}; export the model at opset {minimum}"
        ) from error
    return from_proto(raised, model.path, model.sha256)


def _keep_names(original: onnx.ModelProto, raised: onnx.ModelProto) -> None:
    """Give tensors the names back that they lost with the node the converter replaced.

    Upsample becomes a Resize whose output has a new name; who reads it is still the same node.
    """
    here = {name for node in raised.graph.node for name in (*node.input, *node.output)}
    readers = {tuple(node.output): node for node in original.graph.node}
    renamed = {}
    for node in raised.graph.node:
        old = readers.get(tuple(node.output))
        if old is not None and old.op_type == node.op_type:
            pairs = zip(node.input, old.input, strict=False)
            renamed.update({new: was for new, was in pairs if was and was not in here})
    for node in raised.graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    for value in raised.graph.value_info:
        value.name = renamed.get(value.name, value.name)


def _hoist_new_constants(original: onnx.ModelProto, raised: onnx.ModelProto) -> None:
    """Make initializers of what the converter moved from attributes to Constant nodes."""
    before = {name for node in original.graph.node for name in node.output}
    for node in list(raised.graph.node):
        if node.op_type == "Constant" and node.output[0] not in before:
            node.attribute[0].t.name = node.output[0]
            raised.graph.initializer.append(node.attribute[0].t)
            raised.graph.node.remove(node)
            raised.ir_version = max(raised.ir_version, 4)  # before, it would have to be an input


def raise_ir(proto: onnx.ModelProto, minimum: int = 0) -> None:
    """Raise the IR version to what the operator sets, and ``minimum``, need."""
    standard = [o for o in proto.opset_import if o.domain in ("", "ai.onnx")]
    needed = onnx.helper.find_min_ir_version_for(standard)
    proto.ir_version = max(proto.ir_version, needed, minimum)


def lowest_onnxruntime(opset: int, ir: int = 0) -> str:
    """Return the first onnxruntime release that loads an operator set and an IR version.

    IR version 10, which metadata of nodes need, came with operator set 21.
    """
    opset = max(opset, 21 if ir >= METADATA_IR else 0)
    return ONNXRUNTIME.get(max(opset, 10), f"a release with opset {opset}")
