"""Put the branch an If always takes in its place.

Before:
    y = If(c) <then_branch = { a = Relu(x) b = Neg(a) => b }, else_branch = { … }>, c = true

After:
    a = Relu(x)
    y = Neg(a)

What lies inside a body is not quantized; what lies in the main graph can be. Names of the branch
that exist elsewhere too get a number; what it calls its outputs takes the names of the If's. Nodes
and constants that nothing reads any more go with it. An If inside the branch is one of the main
graph afterwards, and its turn comes. Refused: (1) a condition that is not constant; (2) one that is
a graph input too, which the user may give; (3) one that does not have one element; (4) an If that
leaves an output out.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

import onnx

from onnxq.graph.edit import Names, number_nodes, remove_unread
from onnxq.graph.io import (
    Constant,
    Model,
    Node,
    add_initializer,
    array_of,
    from_proto,
    overridable,
    sync,
)
from onnxq.graph.messages import bodies_of, defined, drop_unreferenced, referenced
from onnxq.graph.query import is_standard, label
from onnxq.passes import PassReport


def inline_ifs(model: Model) -> PassReport:
    """Apply the pass, until no If of the main graph is left that it can inline."""
    changed: list[str] = []
    refused = _refused(model)
    while taken := [node for node, reason in refused if not reason]:
        changed += [label(node) for node in taken]
        changed += _inline(model, taken)
        refused = _refused(model)
    skipped = tuple((label(node), reason) for node, reason in refused)
    return PassReport(name="inline_ifs", changed=tuple(changed), skipped=skipped)


def _refused(model: Model) -> list[tuple[Node, str]]:
    """Return every If of the main graph and why it cannot be inlined, or nothing."""
    inputs = overridable(model)
    ifs = [node for node in model.graph.nodes if node.op == "If" and is_standard(node)]
    return [(node, _refuse(node, inputs)) for node in ifs]


def _refuse(node: Node, inputs: list[str]) -> str:
    """Return why an If cannot be inlined, or nothing."""
    condition = node.inputs[0]
    if not isinstance(condition, Constant):
        return "its condition is not constant"  # case 1
    if condition.name in inputs:
        return "its condition is an input too"  # case 2
    if array_of(condition).size != 1:
        return "its condition is not one element"  # case 3
    return "" if all(t.name for t in node.outputs) else "it leaves an output out"  # case 4


def _inline(model: Model, ifs: list[Node]) -> list[str]:
    """Inline all of them; return the labels of the nodes nothing reads any more."""
    taken = {
        node.outputs[0].name: "then_branch" if array_of(node.inputs[0]).all() else "else_branch"
        for node in ifs
    }
    graph = sync(model).graph
    before = referenced(graph) - {tensor.name for tensor in model.graph.inputs}
    for node in graph.node:
        if node.output and node.output[0] in taken:
            for other in [a for a in node.attribute if a.name != taken[node.output[0]]]:
                node.attribute.remove(other)
    _unfold(model, graph, set(taken))
    drop_unreferenced(graph, before)
    number_nodes(graph)
    model.graph = from_proto(model.proto, model.path, model.sha256).graph
    return remove_unread(model)


def _unfold(model: Model, graph: onnx.GraphProto, taken: set[str]) -> None:
    """Replace each node that holds the branch it takes, and nothing else, by that branch."""
    fresh = _Fresh(model, graph)
    described = {value.name for value in (*graph.value_info, *graph.output)}
    unfolded = onnx.GraphProto()
    for node in graph.node:
        if not node.output or node.output[0] not in taken:
            unfolded.node.append(node)
            continue
        branch = node.attribute[0].g
        unfolded.node.extend(_renamed(node, branch, fresh))
        for tensor in branch.initializer:
            add_initializer(model, tensor)
        graph.sparse_initializer.extend(branch.sparse_initializer)
        graph.quantization_annotation.extend(branch.quantization_annotation)
        graph.value_info.extend(v for v in branch.value_info if v.name not in described)
    del graph.node[:]
    graph.node.extend(unfolded.node)


def _renamed(
    node: onnx.NodeProto, branch: onnx.GraphProto, fresh: "_Fresh"
) -> list[onnx.NodeProto]:
    """Give a branch names for the main graph, in place; return its nodes, outputs included."""
    new = fresh.names(branch)
    made = {name for each in branch.node for name in each.output}
    copies = []
    for outer, inner in zip(node.output, (value.name for value in branch.output), strict=True):
        if inner in made:
            made.remove(inner)
            new[inner] = outer
        else:  # a constant, or returned twice
            copies.append((inner, outer))
    _rename(branch, new, fresh)
    identities = [
        onnx.helper.make_node("Identity", [new.get(inner, inner)], [outer])
        for inner, outer in copies
    ]
    return [*branch.node, *identities]


class _Fresh:
    """Gives new names to what several graphs of a model define."""

    def __init__(self, model: Model, graph: onnx.GraphProto) -> None:
        self._names = Names(model)
        self._counts = Counter(name for each in _graphs(graph) for name in defined(each))

    def names(self, graph: onnx.GraphProto) -> dict[str, str]:
        """Return old and new names of a graph inside the model."""
        several = (name for name in sorted(defined(graph)) if self._counts[name] > 1)
        return {name: self._names.new(name) for name in several}


def _rename(graph: onnx.GraphProto, new: Mapping[str, str], fresh: _Fresh) -> None:
    """Rename tensors in a graph, and in the graphs inside it what they capture or define again."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = new.get(value.name, value.name)
    for tensor in (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)):
        tensor.name = new.get(tensor.name, tensor.name)
    for annotation in graph.quantization_annotation:
        annotation.tensor_name = new.get(annotation.tensor_name, annotation.tensor_name)
        for entry in annotation.quant_parameter_tensor_names:
            entry.value = new.get(entry.value, entry.value)
    for node in graph.node:
        for field in (node.input, node.output):
            field[:] = [new.get(name, name) for name in field]
        for body in bodies_of(node):
            hidden = defined(body)
            captured = {old: name for old, name in new.items() if old not in hidden}
            _rename(body, captured | fresh.names(body), fresh)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside it."""
    yield graph
    for node in graph.node:
        for body in bodies_of(node):
            yield from _graphs(body)
