"""Between which values the channels of activations provably stay, whatever the model reads.

A Relu, Clip or Sigmoid bounds what it writes; from there on interval arithmetic goes through
layers and operators that select, average or add. Channels lie on axis 1. A tensor that is not in
the result has no known bounds.
"""

from collections.abc import Callable

import numpy as np

from onnxq.graph.io import Constant, Model, Node, array_of
from onnxq.graph.linear import bias_of, by_group, why_not_linear
from onnxq.graph.query import activation_bounds, is_standard
from onnxq.numerics.intervals import Interval, linear_interval

Bounds = dict[str, Interval]
UNIT = ("Sigmoid", "HardSigmoid", "Softmax")
SELECTING = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "Pad")


def channel_bounds(model: Model) -> Bounds:
    """Return lowest and highest value of each channel, (channels,) or (1,), by tensor name."""
    found: Bounds = {}
    for node in model.graph.nodes:
        rule = RULES.get(node.op)
        if rule is None or not is_standard(node) or not node.outputs:
            continue
        interval = rule(found, node)
        if interval is not None:
            found[node.outputs[0].name] = interval
    return found


def _read(found: Bounds, node: Node, index: int = 0) -> Interval:
    """Return the bounds of an input; infinite where nothing is known."""
    anything = np.full(1, -np.inf), np.full(1, np.inf)
    return found.get(node.inputs[index].name, anything)


def _layer(found: Bounds, node: Node) -> Interval | None:
    """Return what a convolution writes."""
    if why_not_linear(node):
        return None
    weight, bias = by_group(node, array_of(node.inputs[1])), bias_of(node)
    count = weight.shape[0] * weight.shape[2]
    low, high = _read(found, node)
    if low.size not in (1, count):
        return None
    ends = np.broadcast_to(low, (count,)), np.broadcast_to(high, (count,))
    return linear_interval(weight, None if bias is None else array_of(bias), ends)


def _activation(found: Bounds, node: Node) -> Interval | None:
    """Return what a Relu or Clip writes."""
    if not all(isinstance(tensor, Constant) or not tensor.name for tensor in node.inputs[1:]):
        return None
    ends = activation_bounds(node)
    low, high = (np.clip(end, *ends) for end in _read(found, node))
    return low, high


def _selected(found: Bounds, node: Node) -> Interval | None:
    """Return what an operator writes that selects or averages, zeros included."""
    known = found.get(node.inputs[0].name)
    if known is None or node.attrs.get("mode", "constant") != "constant" or len(node.outputs) > 1:
        return None
    if node.op == "Pad" and not _pads_zero(node):
        return None
    return np.minimum(known[0], 0), np.maximum(known[1], 0)


def _pads_zero(node: Node) -> bool:
    """Say whether a Pad adds nothing but zeros, and nothing to the channels."""
    return not why_not_zeros(node)


def why_not_zeros(node: Node) -> str:
    """Return why a Pad does more than to add zeros around maps, or nothing."""
    given = node.inputs[1:]
    if node.attrs.get("mode", "constant") != "constant":
        return ""  # it repeats what is there
    if not all(isinstance(tensor, Constant) or not tensor.name for tensor in given):
        return "what it adds is computed"
    value = [array_of(tensor) for tensor in given[1:2] if tensor.name]
    if node.attrs.get("value", 0.0) or any(each.any() for each in value):
        return "it adds other values than 0"
    return ""


def _unit(_: Bounds, __: Node) -> Interval:
    """Return what a gate writes."""
    return np.zeros(1), np.ones(1)


def _sum(found: Bounds, node: Node) -> Interval | None:
    """Return what an Add of two bounded activations writes."""
    names = [tensor.name for tensor in node.inputs]
    if not all(name in found for name in names):
        return None
    (a, b), (c, d) = (found[name] for name in names)
    if a.size != c.size:
        return None
    return a + c, b + d


RULES: dict[str, Callable[[Bounds, Node], Interval | None]] = {
    **dict.fromkeys(("Conv", "ConvTranspose"), _layer),
    **dict.fromkeys(("Relu", "Clip"), _activation),
    **dict.fromkeys(SELECTING, _selected),
    **dict.fromkeys(UNIT, _unit),
    "Add": _sum,
}
