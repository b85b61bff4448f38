"""Questions about the messages of graphs and nodes, and small edits of them."""

from collections.abc import Iterator
from typing import Any

import onnx


def inputs_of(node: onnx.NodeProto) -> set[str]:
    """Return the names a node reads, those its subgraphs capture included."""
    names = set(node.input)
    for graph in bodies_of(node):
        names |= referenced(graph) - defined(graph)
    return names


def bodies_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs a node holds in its attributes."""
    for attribute in node.attribute:
        yield from (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)


def defined(graph: onnx.GraphProto) -> set[str]:
    """Return the names a graph gives to tensors, those of graphs inside it left out."""
    names = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    names |= {sparse.values.name for sparse in graph.sparse_initializer}
    return names.union(*(node.output for node in graph.node)) - {""}


def referenced(graph: onnx.GraphProto) -> set[str]:
    """Return the tensor names the nodes and outputs of a graph use, what subgraphs capture too."""
    names = {value.name for value in graph.output}
    for node in graph.node:
        names |= inputs_of(node)
        names.update(node.output)
    return names


def in_order(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Sort nodes so that producers come first, otherwise keeping their order."""
    producer = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    done: dict[int, None] = {}
    for start in range(len(nodes)):
        stack = [start]
        while stack:
            current = stack[-1]
            needed = {producer[name] for name in inputs_of(nodes[current]) if name in producer}
            waiting = [i for i in sorted(needed, reverse=True) if i not in done]
            if waiting and current not in done:
                stack.extend(waiting)
            else:
                done[stack.pop()] = None
    return [nodes[i] for i in done]


def drop_unreferenced(graph: onnx.GraphProto, before: set[str]) -> None:
    """Drop what described tensors that were referenced before and no longer are.

    Args:
        graph: The graph after an edit.
        before: The names it referenced before the edit, those of its inputs left out.
    """
    gone = before - referenced(graph)
    for entries in (graph.initializer, graph.value_info, graph.input):
        _drop(entries, "name", gone)
    _drop(graph.quantization_annotation, "tensor_name", gone)
    for index in reversed(range(len(graph.sparse_initializer))):
        if graph.sparse_initializer[index].values.name in gone:
            del graph.sparse_initializer[index]


def _drop(entries: Any, key: str, names: set[str]) -> None:
    """Delete the entries of a repeated field whose name is among ``names``."""
    for index in reversed(range(len(entries))):
        if getattr(entries[index], key) in names:
            del entries[index]


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield initializers and tensor attributes of a graph and the graphs inside it."""
    yield from graph.initializer
    for node in graph.node:
        yield from tensors_of(node)


def tensors_of(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    """Yield the tensor attributes of a node, and all tensors of the graphs inside it."""
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
    for graph in bodies_of(node):
        yield from tensors(graph)
