"""A copy of a model without its weights, for tools that would choke on them.

Shape inference and the version converter need the structure only, but copy and serialize the
whole message. Large initializers become typed graph inputs here and are put back afterwards.
"""

import onnx

SMALL = 1024  # elements; shapes, axes and the like stay, since inference reads their values


def weightless(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model, its large initializers turned into typed graph inputs."""
    light = onnx.ModelProto()
    for field, value in proto.ListFields():
        if field.name not in ("graph", "training_info"):
            _set(light, field, value)
    graph = proto.graph
    for field, value in graph.ListFields():
        if field.name not in ("initializer", "quantization_annotation"):
            _set(light.graph, field, value)
    inputs = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if _elements(tensor) <= SMALL:
            light.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            light.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return light


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
