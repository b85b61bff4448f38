"""Small edits that several passes and emitters need."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from onnxq.graph.io import Model, message_of
from onnxq.graph.query import label
from onnxq.types import Array


class Names:
    """Gives out tensor names that are free in a model, subgraphs included."""

    def __init__(self, model: Model) -> None:
        """Note the names in use, those of tensors no node touches included."""
        graphs = [model.graph, *model.graph.subgraphs(recursive=True)]
        self._taken = {name for graph in graphs for name in graph.tensors()}
        proto = model.proto.graph
        for named in (proto.input, proto.output, proto.initializer, proto.value_info):
            self._taken.update(entry.name for entry in named)
        self._taken.update(sparse.values.name for sparse in proto.sparse_initializer)

    def new(self, stem: str) -> str:
        """Return the stem, or the stem with a number if it is taken, and take it."""
        name, number = stem, 1
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        return name


def number_nodes(graph: onnx.GraphProto) -> None:
    """Tell nodes of the same name apart, which an inlined body leaves behind."""
    taken: set[str] = set()
    for node in graph.node:
        name, number = node.name, 1
        while name and name in taken:
            number += 1
            name = f"{node.name}_{number}"
        node.name = name
        taken.add(name)


def set_inputs(node: gs.Node, tensors: Iterable[gs.Tensor]) -> None:
    """Replace all inputs of a node, keeping the links of the tensors right."""
    new = list(tensors)
    node.inputs.clear()
    node.inputs.extend(new)


def remove_nodes(model: Model, nodes: Iterable[gs.Node]) -> None:
    """Take nodes out of the graph; a list's own ``remove`` would compare all their fields."""
    gone = {id(node) for node in nodes}
    model.graph.nodes[:] = [node for node in model.graph.nodes if id(node) not in gone]


def remove_unread(model: Model) -> list[str]:
    """Remove the nodes whose results nothing reads; return their labels."""
    outputs = {tensor.name for tensor in model.graph.outputs}
    removed = []
    for node in reversed(list(model.graph.nodes)):
        read = any(tensor.outputs or tensor.name in outputs for tensor in node.outputs)
        if node.outputs and not read:
            removed.append(node)
            node.inputs.clear()
    remove_nodes(model, removed)
    return [label(node) for node in reversed(removed)]


def replace_attribute(node: gs.Node, name: str, value: Any) -> None:
    """Set one attribute of a node, in the linked node and in the message it came from."""
    node.attrs[name] = value
    message = onnx.NodeProto()
    message.CopyFrom(node.origin)
    for index in reversed(range(len(message.attribute))):
        if message.attribute[index].name == name:
            del message.attribute[index]
    message.attribute.append(onnx.helper.make_attribute(name, value))
    node.origin = message


def replace_values(model: Model, values: Mapping[str, Array]) -> None:
    """Give constants other values of the same shape and type, for all who read them.

    Args:
        model: The model.
        values: By the name of the constant.
    """
    messages = {name: onnx.numpy_helper.from_array(array, name) for name, array in values.items()}
    tensors = model.graph.tensors()
    for name, message in messages.items():
        tensors[name].values = gs.ir.tensor.LazyValues(message)
    for held in model.proto.graph.initializer:
        if held.name in messages:
            held.CopyFrom(messages[held.name])


def add_metadata(node: gs.Node, entries: Mapping[str, str]) -> None:
    """Set entries of a node's ``metadata_props``, keeping those under other keys."""
    message = message_of(node)
    kept = [entry for entry in message.metadata_props if entry.key not in entries]
    del message.metadata_props[:]
    message.metadata_props.extend(kept)
    for key, value in entries.items():
        message.metadata_props.add(key=key, value=value)
    node.origin = message


def annotate(model: Model, parameters: Mapping[str, Sequence[gs.Tensor]]) -> None:
    """Name scale and zero point of tensors in the graph's ``quantization_annotation``.

    Args:
        model: The model.
        parameters: Scale and zero point, if there is one, by the tensor's name.
    """
    annotations = model.proto.graph.quantization_annotation
    kept = [entry for entry in annotations if entry.tensor_name not in parameters]
    del annotations[:]
    annotations.extend(kept)
    for name, tensors in parameters.items():
        entry = annotations.add(tensor_name=name)
        for key, tensor in zip(("SCALE_TENSOR", "ZERO_POINT_TENSOR"), tensors, strict=False):
            entry.quant_parameter_tensor_names.add(key=key, value=tensor.name)
