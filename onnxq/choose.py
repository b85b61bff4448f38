"""Which nodes of a model are quantized, and why the others are not.

An operator with the role ``compute`` is quantized when its form allows it. One with the role
``follow`` only if everything it reads exists in integers anyway and something integer reads its
result; whoever fails drops out, which can make its neighbours fail, until nothing changes. A
Relu or Clip that the kernel before it absorbs counts as part of that operator.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from onnxq.graph.io import Constant, Model, Node, Tensor, array_of
from onnxq.graph.query import (
    TensorType,
    activation_bounds,
    is_standard,
    label,
    output_channel_axis,
)
from onnxq.recipe import NodeRule, Recipe
from onnxq.targets import OpRule, Target

WEIGHTED = ("Conv", "Gemm")  # their second input must be constant
EVERYTHING = NodeRule(name="")


@dataclass(frozen=True, kw_only=True)
class Context:
    """What choosing looks at, and the questions it asks.

    Attributes:
        model: The prepared model.
        target: What the hardware can do.
        recipe: What is asked.
        types: Element types and shapes, by tensor name.
        outputs: Names of the graph outputs.
        absorbed: Tensor between an operator and the activation it absorbs, to that activation.
    """

    model: Model
    target: Target
    recipe: Recipe
    types: Mapping[str, TensorType]
    outputs: frozenset[str]
    absorbed: dict[str, Node] = field(default_factory=dict)

    def rule(self, node: Node) -> NodeRule:
        """Return the first rule for a node."""
        name = label(node)
        return next((rule for rule in self.recipe.rules if rule.matches(name, node.op)), EVERYTHING)

    def op(self, node: Node) -> OpRule:
        """Return the target's rule for a node it knows."""
        return self.target.ops[node.op]

    def result(self, node: Node) -> Tensor:
        """Return a node's output, behind the activation it absorbs."""
        tensor = node.outputs[0]
        behind = self.absorbed.get(tensor.name)
        return behind.outputs[0] if behind is not None else tensor

    def data(self, node: Node) -> list[tuple[int, Tensor]]:
        """Return index and tensor of the inputs that carry values, bias left out."""
        if self.op(node).share:
            count = 1
        else:
            count = 2 if self.op(node).role == "compute" else len(node.inputs)
        return list(enumerate(node.inputs))[:count]


def choose(context: Context) -> tuple[dict[str, Node], dict[str, str]]:
    """Return the nodes to quantize by first output, and a reason for every node."""
    chosen: dict[str, Node] = {}
    reasons: dict[str, str] = {}
    for node in context.model.graph.nodes:
        if not node.outputs:
            continue
        key = node.outputs[0].name
        reasons[key] = refusal(context, node)
        if not reasons[key]:
            chosen[key] = node
            reasons[key] = f"{node.op} has an integer kernel on {context.target.name}"
    absorb(context, chosen, reasons)
    while failed := {
        key: why for key, node in chosen.items() if (why := _fails(context, node, chosen))
    }:
        reasons.update(failed)
        for key in failed:
            del chosen[key]
            behind = context.absorbed.pop(key, None)
            if behind is not None:
                reasons[behind.outputs[0].name] = refusal(context, behind)
    return chosen, reasons


def refusal(context: Context, node: Node) -> str:
    """Return why a node cannot be quantized whatever its neighbours do, or nothing."""
    rule = context.target.ops.get(node.op)
    if not context.rule(node).quantize:
        return "kept float by a rule"
    if rule is None or not is_standard(node):
        return f"{node.op} is not quantized on {context.target.name}"
    if len([tensor for tensor in node.outputs if tensor.name]) > 1:
        return "it has several outputs"
    for _, tensor in context.data(node):
        kind = context.types.get(tensor.name)
        if kind is None or kind.dtype != "float":
            return f"{tensor.name!r} is {kind.dtype if kind else 'of unknown type'}, not float"
        if isinstance(tensor, Constant) and not _ordinary(tensor):
            return f"the constant {tensor.name!r} is empty or holds infinite or huge values"
    return _form(node)


def _ordinary(tensor: Constant) -> bool:
    """Say whether a constant has values, all of a size that can be quantized."""
    values = array_of(tensor)
    return values.size > 0 and bool((np.abs(values) < 1e30).all())


def _form(node: Node) -> str:
    """Return why the attributes or constants of a node do not fit an integer kernel."""
    if node.op in WEIGHTED and not isinstance(node.inputs[1], Constant):
        return "its weights are not constant"
    if node.op in WEIGHTED and len(node.inputs) > 2 and node.inputs[2].name:
        bias, channels = node.inputs[2], _channels(node)
        if not isinstance(bias, Constant) or list(bias.shape) != [channels]:
            return "its bias is no constant with one value an output channel"
        if not _ordinary(bias):
            return f"its bias {bias.name!r} holds infinite or huge values"
    attrs = node.attrs
    if node.op == "Gemm" and (
        attrs.get("transA", 0) or attrs.get("alpha", 1.0) != 1.0 or attrs.get("beta", 1.0) != 1.0
    ):
        return "the Gemm transposes its input or scales by alpha or beta"
    if node.op in (*WEIGHTED, "MatMul") and all(isinstance(t, Constant) for t in node.inputs[:2]):
        return "both of its inputs are constant"
    return ""


def _channels(node: Node) -> int:
    """Return how many output channels the weights of a Conv or Gemm have."""
    shape = node.inputs[1].shape
    axis = output_channel_axis(node, 1, len(shape))
    assert axis is not None
    return int(shape[axis])


def absorb(context: Context, chosen: dict[str, Node], reasons: dict[str, str]) -> None:
    """Find the activations that disappear into the operator before them."""
    for node in context.model.graph.nodes:
        before = node.inputs[0] if node.inputs else None
        if before is None or before.name not in chosen or not _absorbable(context, node):
            continue
        alone = len(before.outputs) == 1 and before.name not in context.outputs
        if alone and not context.op(chosen[before.name]).share:
            context.absorbed[before.name] = node
            reasons[node.outputs[0].name] = f"part of {label(chosen[before.name])}"


def _absorbable(context: Context, node: Node) -> bool:
    """Say whether the codes of a range can do what an activation does: cut off around zero."""
    if node.op not in context.target.absorbs or not is_standard(node):
        return False
    known = all(isinstance(tensor, Constant) or not tensor.name for tensor in node.inputs[1:])
    low, high = activation_bounds(node)
    return known and low <= 0 <= high and context.rule(node).quantize


def _fails(context: Context, node: Node, chosen: Mapping[str, Node]) -> str:
    """Return why a node that only follows others has nothing to follow, or nothing."""
    if context.op(node).role == "compute":
        return ""
    for _, tensor in context.data(node):
        if not (isinstance(tensor, Constant) or _is_integer(context, tensor, chosen)):
            return f"it reads {tensor.name!r}, which is float"
    if not any(True for _ in readers(context, context.result(node), chosen)):
        return "nothing integer reads its result"
    return ""


def _is_integer(context: Context, tensor: Tensor, chosen: Mapping[str, Node]) -> bool:
    """Say whether a tensor exists in integers anyway: an integer kernel writes or needs it."""
    written = {context.result(chosen[key]).name for key in _kernels(context, tensor) & set(chosen)}
    needed = (context.op(node).role == "compute" for node in readers(context, tensor, chosen))
    return tensor.name in written or any(needed)


def _kernels(context: Context, tensor: Tensor) -> set[str]:
    """Return first outputs of the nodes that may write a tensor, through an absorbed activation."""
    keys = {tensor.name}
    for producer in tensor.inputs:
        if producer.op in context.target.absorbs:
            keys.add(producer.inputs[0].name)
    return keys


def readers(context: Context, tensor: Tensor, chosen: Mapping[str, Node]) -> Iterator[Node]:
    """Yield the chosen nodes that read a tensor as a value."""
    for node in tensor.outputs:
        key = node.outputs[0].name if node.outputs else ""
        if chosen.get(key) is node and any(t is tensor for _, t in context.data(node)):
            yield node
