"""Compute once what does not depend on the inputs.

Before:
    shape = Concat(c1, c2)
    pads = Cast(shape)
    y = Pad(x, pads)

After:
    y = Pad(x, pads)          with pads an initializer

Exporters compute paddings, shapes and scales with little graphs of constants; other passes need
the values. onnxruntime computes them. Refused: (1) operators that draw random numbers; (2)
operators outside of the standard set; (3) control flow; (4) QuantizeLinear and its kin, which
say how something is stored; (5) what a graph output comes from; (6) results above 1 MB and four
times as large as what they are made of.
"""

from collections.abc import Iterable

import numpy as np
import onnx

from onnxq.errors import ModelError
from onnxq.graph.edit import remove_nodes
from onnxq.graph.io import Constant, Model, Node, Tensor, array_of, become_constant, part
from onnxq.graph.query import is_standard, label
from onnxq.graph.session import Runtime, Session
from onnxq.passes import PassReport
from onnxq.types import Array

RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")  # fmt: skip  # noqa: E501
STORAGE = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
LARGE = 1 << 20  # bytes
GROWTH = 4


def fold_constants(model: Model) -> PassReport:
    """Apply the pass to the main graph; tensor names stay."""
    outputs = {tensor.name for tensor in model.graph.outputs}
    foldable: dict[int, Node] = {}
    for node in model.graph.nodes:
        if _allowed(node, outputs) and all(_is_known(t, foldable) for t in node.inputs):
            foldable[id(node)] = node
    wanted = [t for node in foldable.values() for t in node.outputs if _is_read(t, foldable)]
    if not wanted:
        return PassReport(name="fold_constants")
    try:
        values = _evaluate(model, foldable.values(), wanted)
    except ModelError as error:
        return PassReport(name="fold_constants", skipped=(("constants", str(error)),))
    labels = {key: label(node) for key, node in foldable.items()}  # outputs are theirs until now
    skipped = []
    for tensor, value in zip(wanted, values, strict=True):
        if _grows(tensor, value):
            skipped.append((labels[id(tensor.inputs[0])], "its result is large"))  # case 6
        else:
            become_constant(model, tensor, onnx.numpy_helper.from_array(value, tensor.name))
    changed = tuple(labels[key] for key in _remove_unread(model, foldable))
    return PassReport(name="fold_constants", changed=changed, skipped=tuple(skipped))


def _allowed(node: Node, outputs: set[str]) -> bool:
    """Say whether a node may be computed beforehand, if its inputs are known."""
    return (
        node.op not in (*RANDOM, *STORAGE)  # cases 1, 4
        and is_standard(node)  # case 2
        and not list(node.subgraphs())  # case 3
        and not any(tensor.name in outputs for tensor in node.outputs)  # case 5
        and node.op != "Constant"  # sparse or strings: what hoisting left
    )


def _is_known(tensor: Tensor, foldable: dict[int, Node]) -> bool:
    """Say whether a tensor is constant, omitted, or computed from constants."""
    if isinstance(tensor, Constant) or not tensor.name:
        return True
    return bool(tensor.inputs) and id(tensor.inputs[0]) in foldable


def _is_read(tensor: Tensor, foldable: dict[int, Node]) -> bool:
    """Say whether a node that stays reads a tensor."""
    return any(id(node) not in foldable for node in tensor.outputs)


def _evaluate(model: Model, nodes: Iterable[Node], wanted: list[Tensor]) -> list[Array]:
    """Compute tensors that depend on constants only."""
    session = Session(part(model, nodes, [t.name for t in wanted]), Runtime(optimize=False))
    return [np.asarray(value) for value in session.run({})]


def _grows(tensor: Tensor, value: Array) -> bool:
    """Say whether storing a value takes much more room than computing it."""
    sources = [t for t in tensor.inputs[0].inputs if isinstance(t, Constant)]
    room = sum(array_of(source).nbytes for source in sources)
    return value.nbytes > max(LARGE, GROWTH * room)


def _remove_unread(model: Model, foldable: dict[int, Node]) -> list[int]:
    """Remove the nodes nothing reads any more; return their keys, in graph order."""
    removed = []
    for key, node in reversed(foldable.items()):
        if not any(tensor.outputs for tensor in node.outputs):
            node.inputs.clear()
            removed.append(key)
    remove_nodes(model, (foldable[key] for key in removed))
    return removed[::-1]
