"""Which nodes of a model are quantized, and why the others are not.

An operator with the role ``compute`` or ``always`` is quantized when its form allows it. One
with the role ``follow`` only if everything it reads exists in integers anyway and something
integer reads its result; whoever fails drops out, which can make its neighbours fail, until
nothing changes. A Relu or Clip that the kernel before it absorbs counts as part of that operator.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from onnxq.graph.io import Constant, Model, Node, Tensor, array_of
from onnxq.graph.query import (
    TensorType,
    activation_bounds,
    is_standard,
    label,
    output_channel_axis,
)
from onnxq.recipe import FLOAT, NodeRule, Recipe
from onnxq.targets import OpRule, Target
from onnxq.worth import not_worth

WEIGHTED = ("Conv", "ConvTranspose", "Gemm")  # their second input must be constant
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
        unfit: Tensors that must stay float for what was seen of them, each with the reason.
        whole: Tensors that must take one scale for what was seen of them, each with the reason.
        absorbed: Tensor between an operator and the activation it absorbs, to that activation.
        ordinary: Constants that were looked at, and whether integers can hold them.
    """

    model: Model
    target: Target
    recipe: Recipe
    types: Mapping[str, TensorType]
    outputs: frozenset[str]
    unfit: Mapping[str, str] = field(default_factory=dict)
    whole: Mapping[str, str] = field(default_factory=dict)
    absorbed: dict[str, Node] = field(default_factory=dict)
    ordinary: dict[str, bool] = field(default_factory=dict)

    def rule(self, node: Node) -> NodeRule:
        """Return the first rule for a node."""
        name = label(node)
        return next((rule for rule in self.recipe.rules if rule.matches(name, node.op)), EVERYTHING)

    def op(self, node: Node) -> OpRule:
        """Return the target's rule for a node it knows."""
        return self.target.ops[node.op]

    def is_worth(self, op: str) -> bool:
        """Say whether an operator type is worth quantizing by itself."""
        rule = self.target.ops.get(op)
        return rule is not None and rule.role != "follow"

    def is_weight_only(self, node: Node) -> bool:
        """Say whether the activations of a node stay float, as asked."""
        asked = self.rule(node).activations.dtype or self.recipe.activations.dtype
        return asked == FLOAT and self.target.float_activations

    def result(self, node: Node) -> Tensor:
        """Return a node's output, behind the activation it absorbs."""
        tensor = node.outputs[0]
        behind = self.absorbed.get(tensor.name)
        return behind.outputs[0] if behind is not None else tensor

    def is_ordinary(self, tensor: Constant) -> bool:
        """Say whether a constant has values, all of a size that can be quantized."""
        if tensor.name not in self.ordinary:
            values = array_of(tensor)
            within = values.size > 0 and values.min() > -1e30 and values.max() < 1e30
            self.ordinary[tensor.name] = bool(within)
        return self.ordinary[tensor.name]

    def data(self, node: Node) -> list[tuple[int, Tensor]]:
        """Return index and tensor of the inputs that carry values, bias left out."""
        return list(enumerate(node.inputs))[: self.op(node).read]


def choose(context: Context) -> tuple[dict[str, Node], dict[str, str]]:
    """Return the nodes to quantize by first output, and a reason for every node."""
    chosen: dict[str, Node] = {}
    reasons: dict[str, str] = {}
    for node in context.model.graph.nodes:
        if node.outputs:
            _consider(context, node, chosen, reasons)
    absorb(context, chosen, reasons)
    while failed := {
        key: why for key, node in chosen.items() if (why := _fails(context, node, chosen))
    }:
        reasons.update(failed)
        for key in failed:
            del chosen[key]
            behind = context.absorbed.pop(key, None)
            if behind is not None:
                _consider(context, behind, chosen, reasons)
    return chosen, reasons


def _consider(
    context: Context, node: Node, chosen: dict[str, Node], reasons: dict[str, str]
) -> None:
    """Choose a node if its form allows it, and note the reason."""
    key = node.outputs[0].name
    why = refusal(context, node)
    if not why:
        chosen[key] = node
    has = f"{node.op} has an integer kernel on {context.target.name}"
    alone = f"{node.op} has weights to quantize; its activations stay float, as asked"
    reasons[key] = why or (alone if context.is_weight_only(node) else has)


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
        if isinstance(tensor, Constant) and not context.is_ordinary(tensor):
            return f"the constant {tensor.name!r} is empty or holds infinite or huge values"
    return _form(context, node)


def _form(context: Context, node: Node) -> str:
    """Return why the form of a node does not fit an integer kernel, or an array."""
    if node.op in WEIGHTED and not isinstance(node.inputs[1], Constant):
        return "its weights are not constant"
    alone = context.is_weight_only(node)
    tiled = context.target.tiled
    constant = [isinstance(tensor, Constant) for tensor in node.inputs[:2]]
    if node.op == "MatMul" and tiled and not any(constant):
        return "neither input is constant, and arrays hold constants"
    if node.op == "MatMul" and alone and not any(constant):
        return "neither input is constant, and its activations stay float, as asked"
    if node.op == "Gemm" and not (tiled or alone or _is_plain(node)):
        return "the Gemm transposes its input or scales by alpha or beta"
    if node.op in (*WEIGHTED, "MatMul") and all(constant):
        return "both of its inputs are constant"
    return _bias_form(context, node) if node.op in WEIGHTED else ""


def _bias_form(context: Context, node: Node) -> str:
    """Return why the bias of a node does not fit, or nothing."""
    if len(node.inputs) < 3 or not node.inputs[2].name:
        return ""
    bias, channels = node.inputs[2], _channels(node)
    if not isinstance(bias, Constant) or list(bias.shape) != [channels]:
        return "its bias is no constant with one value an output channel"
    ordinary = context.is_ordinary(bias)
    return "" if ordinary else f"its bias {bias.name!r} holds infinite or huge values"


def _is_plain(node: Node) -> bool:
    """Say whether a Gemm multiplies and adds, and does nothing else."""
    attrs = node.attrs
    scaled = attrs.get("alpha", 1.0) != 1.0 or attrs.get("beta", 1.0) != 1.0
    return not (scaled or attrs.get("transA", 0))


def _channels(node: Node) -> int:
    """Return how many output channels the weights of a node have."""
    shape = node.inputs[1].shape
    if node.op == "ConvTranspose":
        return int(shape[1]) * int(node.attrs.get("group", 1))
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
        if alone and not context.op(chosen[before.name]).moves:
            context.absorbed[before.name] = node
            chosen.pop(node.outputs[0].name, None)
            reasons[node.outputs[0].name] = f"part of {label(chosen[before.name])}"


def _absorbable(context: Context, node: Node) -> bool:
    """Say whether the codes of a range can do what an activation does: cut off around zero."""
    if node.op not in context.target.absorbs or not is_standard(node):
        return False
    known = all(isinstance(tensor, Constant) or not tensor.name for tensor in node.inputs[1:])
    low, high = activation_bounds(node)
    return known and low <= 0 <= high and context.rule(node).quantize


def _fails(context: Context, node: Node, chosen: Mapping[str, Node]) -> str:
    """Return why a node cannot be quantized among its neighbours, or nothing.

    It must not touch a tensor unfit for integers; one that only follows needs something to follow.
    Neither matters where weights alone are quantized.
    """
    if context.is_weight_only(node):
        weighted = context.op(node).role == "compute"
        return "" if weighted else "its activations stay float, as asked"
    touched = [tensor for _, tensor in context.data(node)]
    if context.op(node).output == "always":
        touched.append(context.result(node))
    for tensor in touched:
        if tensor.name in context.unfit:
            return f"{tensor.name!r} {context.unfit[tensor.name]}"
    if context.op(node).role != "follow":
        return not_worth(node, context.target.worth, _conversions(context, node, chosen))
    return _cannot_follow(context, node, chosen)


def _cannot_follow(context: Context, node: Node, chosen: Mapping[str, Node]) -> str:
    """Return why there are no integers around a node for it to follow, or nothing."""
    for _, tensor in context.data(node):
        if not (isinstance(tensor, Constant) or _is_integer(context, tensor, chosen)):
            return f"it reads {tensor.name!r}, which is float"
    if not any(True for _ in readers(context, context.result(node), chosen)):
        return "nothing integer reads its result"
    return ""


def _conversions(context: Context, node: Node, chosen: Mapping[str, Node]) -> tuple[bool, bool]:
    """Say whether a node's first input comes from floats, and its result is read as floats."""
    result = context.result(node)
    integer = list(readers(context, result, chosen))
    as_float = len(integer) < len(result.outputs) or result.name in context.outputs
    return not _is_written(context, node.inputs[0], chosen), as_float


def _is_integer(context: Context, tensor: Tensor, chosen: Mapping[str, Node]) -> bool:
    """Say whether a tensor exists in integers anyway: an integer kernel writes or needs it."""
    needed = (context.op(node).role != "follow" for node in readers(context, tensor, chosen))
    return _is_written(context, tensor, chosen) or any(needed)


def _is_written(context: Context, tensor: Tensor, chosen: Mapping[str, Node]) -> bool:
    """Say whether an integer kernel writes a tensor."""
    kernels = [chosen[key] for key in _kernels(context, tensor) & set(chosen)]
    return any(
        context.result(node) is tensor for node in kernels if not context.is_weight_only(node)
    )


def _kernels(context: Context, tensor: Tensor) -> set[str]:
    """Return first outputs of the nodes that may write a tensor, through an absorbed activation."""
    keys = {tensor.name}
    for producer in tensor.inputs:
        if producer.op in context.target.absorbs:
            keys.add(producer.inputs[0].name)
    return keys


def readers(context: Context, tensor: Tensor, chosen: Mapping[str, Node]) -> Iterator[Node]:
    """Yield the chosen nodes that read a tensor as integers."""
    for node in tensor.outputs:
        key = node.outputs[0].name if node.outputs else ""
        integer = chosen.get(key) is node and not context.is_weight_only(node)
        if integer and any(t is tensor for _, t in context.data(node)):
            yield node


def epilogue_input(context: Context, node: Node, chosen: Mapping[str, Node]) -> Tensor | None:
    """Return the input a node takes from inside the kernel that computes them both, if any."""
    if not context.op(node).epilogue:
        return None
    for _, tensor in context.data(node):
        before = chosen.get(tensor.name)
        alone = len(tensor.outputs) == 1 and tensor.name not in context.outputs
        if before is not None and alone and context.op(before).role == "compute":
            return tensor
    return None
