"""Write a hard swish with two operators instead of four.

Before:
    a = Add(x, 3)      c = Clip(a, 0, 6)      m = Mul(x, c)      y = Div(m, 6)

After:
    h = HardSigmoid<alpha = 1/6, beta = 0.5>(x)      y = Mul(x, h)

``x · clip(x + 3, 0, 6)/6 = x · clip(x/6 + ½, 0, 1)``. Older exporters write it out; between
integer operators each of the four runs in float over the whole map. The division may also stand
before the multiplication, or be a multiplication by 1/6. Refused: (1) a constant is another one;
(2) something else reads a tensor in between, or it is a graph output.
"""

from collections.abc import Iterator

import numpy as np

from onnxq.graph.edit import Names, set_inputs
from onnxq.graph.io import Constant, Model, Node, Tensor, Variable, array_of
from onnxq.graph.query import activation_bounds, is_standard, label
from onnxq.passes import PassReport

THREE, SIX = 3.0, 6.0


def fuse_hardswish(model: Model) -> PassReport:
    """Apply the pass; the result keeps its name."""
    outputs = {tensor.name for tensor in model.graph.outputs}
    names = Names(model)
    changed = []
    for clip in [node for node in model.graph.nodes if node.op == "Clip"]:
        found = _match(clip, outputs)
        if found is not None:
            x, nodes = found
            changed.append(label(clip))
            _replace(model, names, x, nodes)
    return PassReport(name="fuse_hardswish", changed=tuple(changed))


def _match(clip: Node, outputs: set[str]) -> tuple[Tensor, list[Node]] | None:
    """Return x and the four nodes of a hard swish around a Clip, the last one last."""
    if activation_bounds(clip) != (0.0, SIX) or not clip.inputs[0].inputs:
        return None
    add = clip.inputs[0].inputs[0]
    x = _other(add, THREE) if add.op == "Add" else None
    if x is None:
        return None
    nodes = [add, clip]
    scaled = multiplied = False
    while not (scaled and multiplied):
        reader = _only_reader(nodes[-1].outputs[0], outputs)
        if reader is None or (nodes[-1] is add and reader is not clip):
            return None
        if not scaled and _divides(reader, nodes[-1].outputs[0]):
            scaled = True
        elif not multiplied and _multiplies(reader, x, nodes[-1].outputs[0]):
            multiplied = True
        else:
            return None
        nodes.append(reader)
    alone = _only_reader(add.outputs[0], outputs) is clip
    return (x, nodes) if alone and all(is_standard(node) for node in nodes) else None


def _only_reader(tensor: Tensor, outputs: set[str]) -> Node | None:
    """Return the one node that reads a tensor, or None."""
    return tensor.outputs[0] if len(tensor.outputs) == 1 and tensor.name not in outputs else None


def _other(node: Node, value: float) -> Tensor | None:
    """Return the input that is not the given scalar constant, or None if there is none."""
    for constant, other in _orders(node):
        if isinstance(constant, Constant) and not isinstance(other, Constant):
            values = array_of(constant)
            if values.size == 1 and np.isclose(values.item(), value, rtol=1e-6, atol=0):
                return other
    return None


def _orders(node: Node) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the two inputs of a node in both orders."""
    if len(node.inputs) == 2:
        yield node.inputs[0], node.inputs[1]
        yield node.inputs[1], node.inputs[0]


def _divides(node: Node, tensor: Tensor) -> bool:
    """Say whether a node divides a tensor by six."""
    if node.op == "Div":
        return node.inputs[0] is tensor and _other(node, SIX) is tensor
    return node.op == "Mul" and _other(node, 1 / SIX) is tensor


def _multiplies(node: Node, x: Tensor, tensor: Tensor) -> bool:
    """Say whether a node multiplies two tensors."""
    return node.op == "Mul" and any(a is x and b is tensor for a, b in _orders(node))


def _replace(model: Model, names: Names, x: Tensor, nodes: list[Node]) -> None:
    """Put HardSigmoid and Mul in the place of four nodes."""
    result = nodes[-1].outputs[0]
    for node in nodes:
        set_inputs(node, [])
        node.outputs.clear()
    gate = Variable(names.new(f"{result.name}_gate"))
    slope = {"alpha": 1 / SIX, "beta": 0.5}
    sigmoid = Node("HardSigmoid", f"{gate.name}_HardSigmoid", slope, [x], [gate])
    product = Node("Mul", f"{result.name}_Mul", inputs=[x, gate], outputs=[result])
    at = next(index for index, node in enumerate(model.graph.nodes) if node is nodes[-1])
    model.graph.nodes[at:at] = [sigmoid, product]
    gone = {id(node) for node in nodes}
    model.graph.nodes[:] = [node for node in model.graph.nodes if id(node) not in gone]
