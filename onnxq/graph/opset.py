"""Raise the operator set and the IR version, as far as needed and no further."""

import onnx
from onnx import version_converter

from onnxq.errors import UnsupportedError
from onnxq.graph.io import Model, first_line, from_proto, sync
from onnxq.graph.weightless import weightless

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
        _put_back(original, raised)
        _hoist_new_constants(original, raised)
        raise_ir(raised)
        onnx.checker.check_model(weightless(raised))  # local functions stay at their operator set
    except Exception as error:  # the converter raises bare RuntimeError and C++ exceptions
        raise UnsupportedError(
            f"{model.path}: opset {model.opset} cannot be raised to {minimum}, which the "
            f"quantized operators need: {first_line(error)}; export the model at opset {minimum}"
        ) from error
    return from_proto(raised, model.path, model.sha256)


def _put_back(original: onnx.ModelProto, raised: onnx.ModelProto) -> None:
    """Restore what the converter was not shown or has dropped."""
    weights = {tensor.name for tensor in original.graph.initializer}
    added = [tensor for tensor in raised.graph.initializer if tensor.name not in weights]
    del raised.graph.initializer[:]
    raised.graph.initializer.extend(original.graph.initializer)
    raised.graph.initializer.extend(added)
    del raised.graph.input[:]
    raised.graph.input.extend(original.graph.input)
    del raised.graph.output[:]
    raised.graph.output.extend(original.graph.output)
    raised.graph.quantization_annotation.extend(original.graph.quantization_annotation)
    del raised.graph.metadata_props[:]
    raised.graph.metadata_props.extend(original.graph.metadata_props)
    described = {value.name: value for value in original.graph.value_info}
    for value in raised.graph.value_info:
        if value.name in described:
            value.CopyFrom(described[value.name])
    by_output = {tuple(node.output): node for node in original.graph.node}
    for node in raised.graph.node:
        old = by_output.get(tuple(node.output))
        if old is not None and old.op_type == node.op_type:
            node.name, node.doc_string = old.name, old.doc_string
            del node.metadata_props[:]
            node.metadata_props.extend(old.metadata_props)
    for name in ("metadata_props", "functions"):
        if not getattr(raised, name):
            getattr(raised, name).extend(getattr(original, name))
    known = {opset.domain for opset in raised.opset_import}
    raised.opset_import.extend(o for o in original.opset_import if o.domain not in known)
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        setattr(raised, name, getattr(original, name))
    raised.ir_version = original.ir_version
    raised.graph.doc_string, raised.graph.name = original.graph.doc_string, original.graph.name


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


def lowest_onnxruntime(opset: int) -> str:
    """Return the first onnxruntime release that loads an operator set."""
    return ONNXRUNTIME.get(max(opset, 10), f"a release with opset {opset}")
