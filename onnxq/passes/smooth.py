"""Move outlier channels of activations into the weights that read them.

Before:
    x = LayerNormalization(r, g, b)
    q = MatMul(x, W₁)      k = MatMul(x, W₂)

After:
    x_smoothed_… = LayerNormalization(r, g/s, b/s)        s: one positive factor a channel of x
    q = MatMul(x_smoothed_…, s·W₁)      k = MatMul(x_smoothed_…, s·W₂)

`onnxq.numerics.smoothing` says which factors; all weights that read x share them. The division
goes into what writes x: scale and bias of a LayerNormalization, the constant of a Mul, Div or Add,
the weights of a MatMul or Gemm, with any Relu, LeakyRelu or Identity between. Tensors with other
values get other names, other ones for other factors; weights that others read too are copied.

Refused: (1) something else reads x, e.g. a residual Add, or x is an output of the model; (2) what
writes x cannot take a factor a channel; (3) x has no channels of that number in all samples; (4) no
factor would be far from 1. Where asked for, a Mul divides x for these weights in cases 1 and 2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxq.graph.edit import Names, set_inputs
from onnxq.graph.io import Constant, Model, Node, Tensor, Variable, array_of, constant
from onnxq.graph.linear import by_group, name_after, rescale, why_not_linear
from onnxq.graph.query import is_standard, label
from onnxq.numerics.smoothing import smoothing
from onnxq.passes import PassReport
from onnxq.types import Array

SAME = 1e-3  # a factor nearer to 1 is none
SUFFIX = "_smoothed"
PRODUCTS = ("MatMul", "Gemm")
HANDS_ON = ("Relu", "LeakyRelu", "Identity")  # f(x/s) = f(x)/s


@dataclass(frozen=True, kw_only=True)
class _Route:
    """How a tensor comes to be divided.

    Attributes:
        constants: Nodes with the index of a constant, and whether that is divided or multiplied.
        layers: Nodes whose output channels are divided.
        tensors: What is then divided.
    """

    constants: tuple[tuple[Node, int, bool], ...] = ()
    layers: tuple[Node, ...] = ()
    tensors: tuple[Tensor, ...] = ()

    def then(self, tensor: Tensor, constants: Sequence[tuple[Node, int, bool]] = ()) -> "_Route":
        """Return the route that goes on to a tensor, past some constants."""
        return _Route(
            constants=(*self.constants, *constants),
            layers=self.layers,
            tensors=(*self.tensors, tensor),
        )


def smooth(
    model: Model, maxima: Mapping[str, Array], alpha: float, *, insert: bool = False
) -> PassReport:
    """Apply the pass in place.

    Args:
        model: The prepared model.
        maxima: Largest magnitude of each channel on data, by the names `products` gives.
        alpha: How much of the outliers goes into the weights, 0 … 1.
        insert: Divide by a Mul of its own where nothing can take the division.
    """
    names = Names(model)
    outputs = {tensor.name for tensor in model.graph.outputs}
    changed: list[str] = []
    skipped: list[tuple[str, str]] = []
    for tensor, readers in products(model):
        factors = _factors(readers, maxima.get(tensor.name), alpha)
        route = factors if isinstance(factors, str) else _route(tensor, readers, outputs)
        if isinstance(factors, str) or (isinstance(route, str) and not insert):
            skipped.append((label(readers[0]), str(route)))
            continue
        changed += [label(node) for node in readers]
        if isinstance(route, _Route):
            changed += [label(n) for n in (*(c[0] for c in route.constants), *route.layers)]
            _divide(names, route, factors)
        else:
            _insert(model, names, tensor, readers, factors)
        for node in readers:
            rescale(names, node, SUFFIX, reads=factors)
    found = tuple(dict.fromkeys(changed))
    return PassReport(name="smooth", changed=found, skipped=tuple(skipped))


def products(model: Model) -> list[tuple[Tensor, list[Node]]]:
    """Return the activations that layers multiply by constant matrices, with these layers."""
    found: dict[str, tuple[Tensor, list[Node]]] = {}
    for node in model.graph.nodes:
        if node.op in PRODUCTS and not why_not_linear(node):
            tensor = node.inputs[0]
            found.setdefault(tensor.name, (tensor, []))[1].append(node)
    return list(found.values())


def _factors(readers: Sequence[Node], seen: Array | None, alpha: float) -> Array | str:
    """Return the factors of what some layers read, or why there are none."""
    weights = [np.abs(by_group(node, array_of(node.inputs[1]))) for node in readers]
    counts = {each.shape[2] for each in weights}
    if seen is None or counts != {seen.size}:
        return "its input has no such channels in all samples"  # case 3
    largest = np.max([each.max(axis=(0, 1, 3)) for each in weights], axis=0)
    factors = smoothing(seen, largest, alpha)
    return "its input has no outliers" if np.abs(np.log(factors)).max() < SAME else factors


def _route(tensor: Tensor, readers: Sequence[Node], outputs: set[str]) -> _Route | str:
    """Return how a tensor can be divided, or why it cannot."""
    allowed = {id(node) for node in readers}
    others = [n for n in tensor.outputs if id(n) not in allowed and n.op not in ("Shape", "Size")]
    if others or tensor.name in outputs:
        who = label(others[0]) if others else "the user"
        return f"{who} reads {tensor.name!r} too"  # case 1
    if not tensor.inputs:
        return f"the model reads {tensor.name!r}"
    node = tensor.inputs[0]
    rule = RULES.get(node.op if is_standard(node) and len(node.outputs) == 1 else "")
    return rule(node, outputs) if rule else _no(node)


def _no(node: Node) -> str:
    """Say that a node cannot take a factor."""
    return f"{label(node)} writes its input, and cannot take a factor a channel"  # case 2


def _norm(node: Node, _: set[str]) -> _Route | str:
    """Divide scale and bias of a normalization along the last axis."""
    given = [i for i in (1, 2) if i < len(node.inputs) and node.inputs[i].name]
    constants = all(isinstance(node.inputs[i], Constant) for i in given)
    if not constants or len(node.inputs[1].shape) != 1:
        return _no(node)
    return _Route().then(node.outputs[0], [(node, i, True) for i in given])


def _product(node: Node, outputs: set[str]) -> _Route | str:
    """Divide the constant of a Mul or Div, or one of two factors."""
    constants = [i for i, tensor in enumerate(node.inputs) if isinstance(tensor, Constant)]
    if constants and (node.op == "Mul" or constants == [0]):
        return _Route().then(node.outputs[0], [(node, constants[0], True)])
    if constants:
        return _Route().then(node.outputs[0], [(node, 1, False)])
    for tensor in node.inputs[: 1 if node.op == "Div" else 2]:
        route = _route(tensor, [node], outputs)
        if isinstance(route, _Route) and node.inputs[0] is not node.inputs[1]:
            return route.then(node.outputs[0])
    return _no(node)


def _sum(node: Node, outputs: set[str]) -> _Route | str:
    """Divide a constant that is added, and what it is added to."""
    constants = [i for i, tensor in enumerate(node.inputs) if isinstance(tensor, Constant)]
    if len(constants) != 1:
        return _no(node)
    route = _route(node.inputs[1 - constants[0]], [node], outputs)
    if isinstance(route, str):
        return route
    return route.then(node.outputs[0], [(node, constants[0], True)])


def _layer(node: Node, _: set[str]) -> _Route | str:
    """Divide the output channels of a layer."""
    if why_not_linear(node):
        return _no(node)
    return _Route(layers=(node,), tensors=(node.outputs[0],))


def _handed_on(node: Node, outputs: set[str]) -> _Route | str:
    """Divide what an operator reads that hands a factor on."""
    route = _route(node.inputs[0], [node], outputs)
    return route if isinstance(route, str) else route.then(node.outputs[0])


RULES = {
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _norm),
    **dict.fromkeys(("Mul", "Div"), _product),
    **dict.fromkeys(("Add", "Sub"), _sum),
    **dict.fromkeys(PRODUCTS, _layer),
    **dict.fromkeys(HANDS_ON, _handed_on),
}


def _divide(names: Names, route: _Route, factors: Array) -> None:
    """Divide all that is on a route."""
    for node, index, down in route.constants:
        tensor = node.inputs[index]
        values = array_of(tensor).astype(np.float64)
        new = (values / factors if down else values * factors).astype(np.float32)
        inputs = list(node.inputs)
        inputs[index] = constant(names.new(f"{tensor.name}{SUFFIX}"), new)
        set_inputs(node, inputs)
    for node in route.layers:
        rescale(names, node, SUFFIX, writes=factors)
    for tensor in route.tensors:
        tensor.name = name_after(names, tensor, SUFFIX, factors)


def _insert(
    model: Model, names: Names, tensor: Tensor, readers: Sequence[Node], factors: Array
) -> None:
    """Divide a tensor by a Mul of its own, for some of its readers."""
    after = Variable(name_after(names, tensor, SUFFIX, factors))
    inverse = constant(names.new(f"{tensor.name}_inverse"), (1 / factors).astype(np.float32))
    node = Node("Mul", f"{after.name}_Mul", inputs=[tensor, inverse], outputs=[after])
    nodes = model.graph.nodes  # whoever copies the model finds the same order
    nodes.insert(min(i for i, each in enumerate(nodes) if any(each is r for r in readers)), node)
    for reader in readers:
        set_inputs(reader, [after, *reader.inputs[1:]])
