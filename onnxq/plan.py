"""Recipe × target × graph: what becomes of every node and tensor, each with a reason.

Choosing nodes takes two steps. An operator with the role ``compute`` is quantized when its
form allows it. One with the role ``follow`` only if everything it reads comes from integer
operators and something integer reads its result; whoever fails drops out, which can make its
neighbours fail, until nothing changes. A Relu or Clip that the kernel before it absorbs counts
as part of that operator: the tensor between the two is not quantized, and the range behind it
obeys its bounds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from onnxq.errors import ModelError, RecipeError, UnsupportedError
from onnxq.graph.io import Model, array_of
from onnxq.graph.query import (
    TensorType,
    activation_bounds,
    is_standard,
    label,
    output_channel_axis,
    tensor_types,
)
from onnxq.numerics.tiles import channel_tile
from onnxq.ranges import range_algorithm
from onnxq.recipe import NodeRule, Recipe, TensorRule
from onnxq.targets import OpRule, Target
from onnxq.types import IntType, QuantSpec, Tile

WEIGHTED = {"Conv": (1,), "Gemm": (1,)}  # inputs that must be constant
ALL = NodeRule(name="")


@dataclass(frozen=True, kw_only=True)
class ActivationPlan:
    """What becomes of an activation.

    Attributes:
        name: The tensor.
        spec: How it is quantized.
        source: The tensor whose statistics give the range: itself, or the one it only moves or
            selects values of, with which it shares its parameters.
        reason: Why.
    """

    name: str
    spec: QuantSpec
    source: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class WeightPlan:
    """A constant input that is quantized.

    Attributes:
        index: Which input of the node.
        name: The tensor.
        spec: How it is quantized.
    """

    index: int
    name: str
    spec: QuantSpec


@dataclass(frozen=True, kw_only=True)
class NodePlan:
    """What becomes of a node.

    Attributes:
        output: Its first output, which identifies it.
        label: Its name for people.
        op: Its operator type.
        quantized: Whether it computes on integers.
        reason: Why.
        weights: Its constant inputs to quantize.
        bias: Index of its bias input, or None.
    """

    output: str
    label: str
    op: str
    quantized: bool
    reason: str
    weights: tuple[WeightPlan, ...] = ()
    bias: int | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What becomes of a model.

    Attributes:
        nodes: First output of a node to its plan, in graph order, all nodes.
        activations: Tensor name to its plan, quantized ones only, in graph order.
        recipe: What was asked.
        target: What for.
    """

    nodes: Mapping[str, NodePlan]
    activations: Mapping[str, ActivationPlan]
    recipe: Recipe
    target: Target

    @property
    def sources(self) -> list[str]:
        """Names of the tensors whose statistics are needed."""
        return list(dict.fromkeys(plan.source for plan in self.activations.values()))


@dataclass(frozen=True, kw_only=True)
class _Context:
    """What choosing needs to look at."""

    model: Model
    target: Target
    recipe: Recipe
    types: Mapping[str, TensorType]
    outputs: frozenset[str]
    absorbed: dict[str, gs.Node] = field(default_factory=dict)  # tensor between → Relu or Clip

    def rule(self, node: gs.Node) -> NodeRule:
        """Return the first rule for a node."""
        name = label(node)
        return next((rule for rule in self.recipe.rules if rule.matches(name, node.op)), ALL)

    def op(self, node: gs.Node) -> OpRule:
        """Return the target's rule for a node it knows."""
        return self.target.ops[node.op]

    def result(self, node: gs.Node) -> gs.Tensor:
        """Return a node's output, behind the activation it absorbs."""
        tensor = node.outputs[0]
        behind = self.absorbed.get(tensor.name)
        return behind.outputs[0] if behind is not None else tensor

    def data(self, node: gs.Node) -> list[tuple[int, gs.Tensor]]:
        """Return index and tensor of the inputs that carry values, bias left out."""
        if self.op(node).share:
            count = 1
        else:
            count = 2 if self.op(node).role == "compute" else len(node.inputs)
        return list(enumerate(node.inputs))[:count]


def resolve(model: Model, target: Target, recipe: Recipe) -> Plan:
    """Decide about every node and tensor.

    Args:
        model: The prepared model: constants hoisted, BatchNormalization folded.
        target: What the hardware can do.
        recipe: What is asked.

    Raises:
        RecipeError: A rule matches no node, or names an unknown algorithm or type.
        UnsupportedError: The target has no such element type.
        ModelError: Nothing can be quantized.
    """
    outputs = frozenset(tensor.name for tensor in model.graph.outputs)
    context = _Context(
        model=model, target=target, recipe=recipe, types=tensor_types(model), outputs=outputs
    )
    _check_rules(context)
    chosen, reasons = _choose(context)
    if not chosen:
        raise ModelError(f"{model.path}: nothing to quantize: {_summary(reasons)}")
    activations = _activations(context, chosen)
    nodes = {}
    for node in model.graph.nodes:
        if node.outputs:
            key = node.outputs[0].name
            nodes[key] = _node_plan(context, node, reasons[key], quantized=key in chosen)
    return Plan(nodes=nodes, activations=activations, recipe=recipe, target=target)


def _check_rules(context: _Context) -> None:
    """Refuse rules that match nothing."""
    names = [(label(node), node.op) for node in context.model.graph.nodes]
    for rule in context.recipe.rules:
        if not any(rule.matches(*name) for name in names):
            raise RecipeError(f"the rule for {rule} matches no node of {context.model.path}")


def _summary(reasons: Mapping[str, str]) -> str:
    """Return the most frequent reason."""
    common = list(reasons.values())
    return max(set(common), key=common.count) if common else "the graph has no nodes"


# --- which nodes ------------------------------------------------------------------------------


def _choose(context: _Context) -> tuple[dict[str, gs.Node], dict[str, str]]:
    """Return the nodes to quantize by first output, and a reason for every node."""
    chosen: dict[str, gs.Node] = {}
    reasons: dict[str, str] = {}
    for node in context.model.graph.nodes:
        if not node.outputs:
            continue
        key = node.outputs[0].name
        reasons[key] = _refusal(context, node)
        if not reasons[key]:
            chosen[key] = node
            reasons[key] = f"{node.op} has an integer kernel on {context.target.name}"
    _absorb(context, chosen, reasons)
    while failed := {
        key: why for key, node in chosen.items() if (why := _fails(context, node, chosen))
    }:
        reasons.update(failed)
        for key in failed:
            del chosen[key]
    return chosen, reasons


def _refusal(context: _Context, node: gs.Node) -> str:
    """Return why a node cannot be quantized whatever its neighbours do, or nothing."""
    rule = context.target.ops.get(node.op)
    if rule is None or not is_standard(node):
        return f"{node.op} is not quantized on {context.target.name}"
    if not context.rule(node).quantize:
        return "kept float by a rule"
    if len([tensor for tensor in node.outputs if tensor.name]) > 1:
        return "it has several outputs"
    for _, tensor in context.data(node):
        kind = context.types.get(tensor.name)
        if kind is None or kind.dtype != "float":
            return f"{tensor.name!r} is {kind.dtype if kind else 'of unknown type'}, not float"
        if isinstance(tensor, gs.Constant) and not _ordinary(tensor):
            return f"the constant {tensor.name!r} is empty or holds infinite or huge values"
    return _form(node)


def _ordinary(tensor: gs.Constant) -> bool:
    """Say whether a constant has values, all of a size that can be quantized."""
    values = array_of(tensor)
    return values.size > 0 and bool((np.abs(values) < 1e30).all())


def _form(node: gs.Node) -> str:
    """Return why the attributes or constants of a node do not fit an integer kernel."""
    for index in WEIGHTED.get(node.op, ()):
        if not isinstance(node.inputs[index], gs.Constant):
            return "its weights are not constant"
    if node.op in WEIGHTED and len(node.inputs) > 2 and node.inputs[2].name:
        bias = node.inputs[2]
        if not isinstance(bias, gs.Constant) or len(bias.shape) != 1:
            return "its bias is no constant vector"
    attrs = node.attrs
    if node.op == "Gemm" and (
        attrs.get("transA", 0) or attrs.get("alpha", 1.0) != 1.0 or attrs.get("beta", 1.0) != 1.0
    ):
        return "the Gemm transposes its input or scales by alpha or beta"
    if node.op == "MatMul" and all(isinstance(tensor, gs.Constant) for tensor in node.inputs):
        return "both of its inputs are constant"
    return ""


def _absorb(context: _Context, chosen: dict[str, gs.Node], reasons: dict[str, str]) -> None:
    """Find the activations that disappear into the operator before them."""
    for node in context.model.graph.nodes:
        if node.op not in context.target.absorbs or not is_standard(node):
            continue
        before = node.inputs[0]
        alone = len(before.outputs) == 1 and before.name not in context.outputs
        if before.name in chosen and alone and activation_bounds(node)[0] <= 0:
            context.absorbed[before.name] = node
            reasons[node.outputs[0].name] = f"part of {label(chosen[before.name])}"


def _fails(context: _Context, node: gs.Node, chosen: Mapping[str, gs.Node]) -> str:
    """Return why a node that only follows others has nothing to follow, or nothing."""
    if context.op(node).role == "compute":
        return ""
    for _, tensor in context.data(node):
        if not (isinstance(tensor, gs.Constant) or _is_integer(context, tensor, chosen)):
            return f"it reads {tensor.name!r}, which is float"
    if not any(True for _ in _readers(context, context.result(node), chosen)):
        return "nothing integer reads its result"
    return ""


def _is_integer(context: _Context, tensor: gs.Tensor, chosen: Mapping[str, gs.Node]) -> bool:
    """Say whether a tensor exists in integers anyway: an integer kernel writes or needs it."""
    written = {context.result(chosen[key]).name for key in _kernels(context, tensor) & set(chosen)}
    needed = (context.op(node).role == "compute" for node in _readers(context, tensor, chosen))
    return tensor.name in written or any(needed)


def _kernels(context: _Context, tensor: gs.Tensor) -> set[str]:
    """Return first outputs of the nodes that may write a tensor, through an absorbed activation."""
    keys = {tensor.name}
    for producer in tensor.inputs:
        if producer.op in context.target.absorbs:
            keys.add(producer.inputs[0].name)
    return keys


def _readers(
    context: _Context, tensor: gs.Tensor, chosen: Mapping[str, gs.Node]
) -> Iterator[gs.Node]:
    """Yield the chosen nodes that read a tensor as a value."""
    for node in tensor.outputs:
        key = node.outputs[0].name if node.outputs else ""
        if chosen.get(key) is node and any(t is tensor for _, t in context.data(node)):
            yield node


# --- which tensors ----------------------------------------------------------------------------


def _activations(context: _Context, chosen: Mapping[str, gs.Node]) -> dict[str, ActivationPlan]:
    """Plan every tensor that an integer operator reads or writes."""
    plans: dict[str, ActivationPlan] = {}
    for node in chosen.values():
        for _, tensor in context.data(node):
            if not isinstance(tensor, gs.Constant) and tensor.name not in plans:
                reason = f"read by {label(node)}"
                plans[tensor.name] = _activation(context, node, tensor, plans, reason)
        result = context.result(node)
        rule = context.op(node)
        if rule.output == "needed" and not any(True for _ in _readers(context, result, chosen)):
            continue
        plans[result.name] = _activation(context, node, result, plans, f"written by {label(node)}")
    return plans


def _activation(
    context: _Context,
    node: gs.Node,
    tensor: gs.Tensor,
    plans: Mapping[str, ActivationPlan],
    reason: str,
) -> ActivationPlan:
    """Plan one tensor that a chosen node reads or writes."""
    origin = node.inputs[0].name if context.op(node).share else ""
    if origin in plans and tensor.name != origin:
        shared = plans[origin]
        reason = f"{reason}; shares the parameters of {shared.source!r}"
        return ActivationPlan(
            name=tensor.name, spec=shared.spec, source=shared.source, reason=reason
        )
    asked = context.rule(node).activations.over(context.recipe.activations)
    bounds = (-np.inf, np.inf)
    if tensor.inputs:
        bounds = activation_bounds(tensor.inputs[0])
    spec = _spec(context, asked, "activations", bounds=bounds)
    return ActivationPlan(name=tensor.name, spec=spec, source=tensor.name, reason=reason)


def _node_plan(context: _Context, node: gs.Node, reason: str, *, quantized: bool) -> NodePlan:
    """Plan one node."""
    weights: tuple[WeightPlan, ...] = ()
    bias = None
    if quantized:
        weights = tuple(
            _weight(context, node, index, tensor)
            for index, tensor in context.data(node)
            if isinstance(tensor, gs.Constant)
        )
        has_bias = node.op in WEIGHTED and len(node.inputs) > 2 and node.inputs[2].name
        bias = 2 if has_bias and context.target.bias else None
    return NodePlan(
        output=node.outputs[0].name,
        label=label(node),
        op=node.op,
        quantized=quantized,
        reason=reason,
        weights=weights,
        bias=bias,
    )


def _weight(context: _Context, node: gs.Node, index: int, tensor: gs.Constant) -> WeightPlan:
    """Plan a constant input: as a weight of a computing operator, else like an activation."""
    rule = context.rule(node)
    if context.op(node).role != "compute":
        asked = TensorRule(range="minmax").over(rule.activations.over(context.recipe.activations))
        spec = _spec(context, asked, "activations")
        return WeightPlan(index=index, name=tensor.name, spec=spec)
    asked = rule.weights.over(context.recipe.weights)
    granularity = asked.granularity or context.target.weights["granularity"]
    rank = len(tensor.shape)
    axis = output_channel_axis(node, index, rank) if granularity == "channel" else None
    tile = channel_tile(rank, axis) if axis is not None else ()
    return WeightPlan(
        index=index, name=tensor.name, spec=_spec(context, asked, "weights", tile=tile)
    )


def _spec(
    context: _Context,
    asked: TensorRule,
    kind: str,
    *,
    tile: Tile = (),
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> QuantSpec:
    """Fill the gaps of a rule from the target and build the specification."""
    defaults = context.target.activations if kind == "activations" else context.target.weights
    rule = asked.over(TensorRule(**defaults))
    assert rule.dtype is not None
    assert rule.range is not None
    allowed = context.target.dtypes[kind]
    try:
        dtype = IntType.parse(rule.dtype)
    except ValueError as error:
        raise RecipeError(f"{kind}: {error}") from error
    if rule.dtype not in allowed:
        known = ", ".join(allowed)
        raise UnsupportedError(
            f"target {context.target.name} has no {rule.dtype} {kind}; it has {known}"
        )
    if kind == "activations" and rule.granularity == "channel":
        raise UnsupportedError(
            f"target {context.target.name} has one scale for a whole activation: "
            "per-channel activations are not supported"
        )
    algorithm = range_algorithm(rule.range, **(rule.range_options or {}))
    return QuantSpec(
        dtype=dtype, symmetric=bool(rule.symmetric), range=algorithm, tile=tile, bounds=bounds
    )
