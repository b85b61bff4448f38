"""How the channels of a model are coupled, operator by operator.

A rule reads the atoms of a node's inputs and gives its outputs theirs; constants that are read
along permuted axes get atoms of their own, tied to those. A rule must hold for every permutation
the ties allow: permute all that has atoms, and the node computes the same, permuted. What no rule
describes stays, and all that is tied to it.
"""

from collections.abc import Iterator

from onnxq.graph.coupling import cuts, each, moves, norms, products, recurrent
from onnxq.graph.coupling.book import Book, Channels
from onnxq.graph.coupling.words import stop, stop_all
from onnxq.graph.io import Model, Node, Tensor, overridable
from onnxq.graph.query import is_standard, label, tensor_types

RULES = {
    **each.RULES,
    **norms.RULES,
    **moves.RULES,
    **cuts.RULES,
    **products.RULES,
    **recurrent.RULES,
}
OLDEST = 7  # before, operators broadcast in another way


def channels_of(model: Model) -> Channels:
    """Find the channels of a model that may be moved.

    Args:
        model: A prepared model; only its main graph moves.
    """
    book = Book(types=tensor_types(model), read=frozenset(_read(model)), opset=model.opset)
    for tensor in model.graph.inputs:
        book.why[tensor.name] = f"model input {tensor.name!r}"
    _hold_given(book, model)
    for node in _in_order(model):
        _apply(book, node)
    for tensor in model.graph.outputs:
        stop(book, tensor, f"model output {tensor.name!r}")
    readers: dict[str, int] = {}
    for node in model.graph.nodes:
        for tensor in node.inputs:
            readers[tensor.name] = readers.get(tensor.name, 0) + 1
    return book.close(readers)


def _read(model: Model) -> Iterator[str]:
    """Yield the names of tensors that are read, by bodies and by the user too."""
    for node in model.graph.nodes:
        yield from (tensor.name for tensor in (*node.inputs, *_captured(node)))
    yield from (tensor.name for tensor in model.graph.outputs)


def _hold_given(book: Book, model: Model) -> None:
    """Let constants stay that a user may replace, and those without a dense message."""
    for name in overridable(model):
        book.hold(name, f"model input {name!r}")
    for sparse in model.proto.graph.sparse_initializer:
        book.hold(sparse.values.name, f"{sparse.values.name!r} is sparse")


def _in_order(model: Model) -> list[Node]:
    """Return the nodes so that each comes after what it reads."""
    made = {id(t): node for node in model.graph.nodes for t in node.outputs}
    done: dict[int, Node] = {}
    for start in model.graph.nodes:
        stack = [start]
        while stack:
            node = stack[-1]
            waits = [made[id(t)] for t in (*node.inputs, *_captured(node)) if id(t) in made]
            waits = [each for each in waits if id(each) not in done]
            if waits:
                stack.extend(waits)
            else:
                done.setdefault(id(node), node)
                stack.pop()
    return list(done.values())


def _apply(book: Book, node: Node) -> None:
    """Apply the rule of a node, and let it say why what it writes has no atoms."""
    for outer in _captured(node):
        stop(book, outer, f"{label(node)} reads it in a body")
    rule = RULES.get(node.op) if is_standard(node) else None
    if book.opset < OLDEST:
        stop_all(book, node, f"{label(node)} is of operator set {book.opset}")
    elif rule is None or list(node.subgraphs()):
        stop_all(book, node, f"{label(node)}: what {node.op} does to channels is not known")
    else:
        rule(book, node)
    for tensor in node.outputs:
        if tensor.name in book.atoms and (not tensor.name or book.atoms[tensor.name].size == 1):
            del book.atoms[tensor.name]
            book.why[tensor.name] = f"{tensor.name!r} has a single channel"
    reasons = [book.why[t.name] for t in node.inputs if t.name in book.why]
    reasons += [f"{label(node)} has written it"]
    for tensor in node.outputs:
        if tensor.name not in book.atoms:
            book.why.setdefault(tensor.name, reasons[0])


def _captured(node: Node) -> Iterator[Tensor]:
    """Yield the tensors that the bodies of a node read, those of their own included."""
    for body in node.subgraphs():
        for inner in body.nodes:
            yield from inner.inputs
            yield from _captured(inner)
        yield from body.outputs
