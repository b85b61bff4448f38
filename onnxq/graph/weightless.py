"""A copy of a model without its weights, for tools that would choke on them.

Shape inference and the version converter need the structure only, but copy and serialize the
whole message. Large initializers become typed graph inputs here and are put back afterwards.
"""

import onnx

SMALL = 1024  # elements; shapes, axes and the like stay, since inference reads their values


def shell(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model without the initializers of its main graph."""
    light = onnx.ModelProto()
    for field, value in proto.ListFields():
        if field.name != "graph":
            _set(light, field, value)
    for field, value in proto.graph.ListFields():
        if field.name != "initializer":
            _set(light.graph, field, value)
    return light


def weightless(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model, its large initializers turned into typed graph inputs."""
    light = shell(proto)
    del light.training_info[:]
    del light.graph.quantization_annotation[:]
    del light.graph.sparse_initializer[:]
    graph = proto.graph
    inputs = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if _elements(tensor) <= SMALL:
            light.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            light.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    for sparse in graph.sparse_initializer:
        if sparse.values.name not in inputs:
            light.graph.input.append(
                onnx.helper.make_tensor_value_info(
                    sparse.values.name, sparse.values.data_type, sparse.dims
                )
            )
    return light


def put_back(original: onnx.ModelProto, light: onnx.ModelProto) -> None:
    """Restore in a rewritten `weightless` copy what the tool was not shown or has dropped."""
    weights = {tensor.name for tensor in original.graph.initializer}
    added = [tensor for tensor in light.graph.initializer if tensor.name not in weights]
    del light.graph.initializer[:]
    light.graph.initializer.extend(original.graph.initializer)
    light.graph.initializer.extend(added)
    light.graph.sparse_initializer.extend(original.graph.sparse_initializer)
    del light.graph.input[:]
    light.graph.input.extend(original.graph.input)
    del light.graph.output[:]
    light.graph.output.extend(original.graph.output)
    light.graph.quantization_annotation.extend(original.graph.quantization_annotation)
    del light.graph.metadata_props[:]
    light.graph.metadata_props.extend(original.graph.metadata_props)
    described = {value.name: value for value in original.graph.value_info}
    for value in light.graph.value_info:
        if value.name in described:
            value.CopyFrom(described[value.name])
    by_output = {tuple(node.output): node for node in original.graph.node}
    for node in light.graph.node:
        old = by_output.get(tuple(node.output))
        if old is not None and old.op_type == node.op_type:
            node.name, node.doc_string = old.name, old.doc_string
            del node.metadata_props[:]
            node.metadata_props.extend(old.metadata_props)
    if not light.metadata_props:
        light.metadata_props.extend(original.metadata_props)
    known = {opset.domain for opset in light.opset_import}
    light.opset_import.extend(o for o in original.opset_import if o.domain not in known)
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        setattr(light, name, getattr(original, name))
    light.ir_version = original.ir_version
    light.graph.doc_string, light.graph.name = original.graph.doc_string, original.graph.name


def _set(message: object, field: object, value: object) -> None:
    """Copy one field of a message."""
    name: str = field.name  # type: ignore[attr-defined]
    target = getattr(message, name)
    if hasattr(target, "extend"):
        target.extend(value)
    elif hasattr(target, "CopyFrom"):
        target.CopyFrom(value)
    else:
        setattr(message, name, value)


def _elements(tensor: onnx.TensorProto) -> int:
    """Return the number of elements of a tensor."""
    count = 1
    for size in tensor.dims:
        count *= size
    return count
