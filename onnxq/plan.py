"""Recipe × target × graph: what becomes of every node and tensor, each with a reason.

`onnxq.choose` says which nodes are quantized. Every tensor they read or write gets a
specification here; the tensor between an operator and the Relu or Clip it absorbs gets none, and
the range behind it obeys the activation's bounds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from onnxq.choose import WEIGHTED, Context, absorb, choose, readers, refusal
from onnxq.errors import ModelError, RecipeError, UnsupportedError
from onnxq.graph.io import Constant, Model, Node, Tensor
from onnxq.graph.query import (
    activation_bounds,
    is_standard,
    label,
    output_channel_axis,
    tensor_types,
)
from onnxq.numerics.tiles import channel_tile
from onnxq.ranges import range_algorithm
from onnxq.recipe import Recipe, TensorRule
from onnxq.targets import Target
from onnxq.types import IntType, QuantSpec, Tile


@dataclass(frozen=True, kw_only=True)
class ActivationPlan:
    """What becomes of an activation.

    Attributes:
        name: The tensor.
        spec: How it is quantized.
        sources: The tensors whose statistics may give the range, best first: itself, then those
            whose values it only moves or selects. One of them is enough.
        shares: The tensor whose parameters it takes; itself unless an integer operator that
            only moves or selects values writes it.
        reason: Why.
        written: Whether an integer kernel writes it, so that its float values exist nowhere.
    """

    name: str
    spec: QuantSpec
    sources: tuple[str, ...]
    shares: str
    reason: str
    written: bool = False


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
    def observed(self) -> list[str]:
        """Names of tensors whose statistics suffice for every activation."""
        return list(dict.fromkeys(plan.sources[-1] for plan in self.activations.values()))


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
    context = _context(model, target, recipe)
    _check_rules(context)
    chosen, reasons = choose(context)
    if not chosen:
        raise ModelError(f"{model.path}: nothing to quantize: {_summary(reasons)}")
    activations = _activations(context, chosen)
    nodes = {}
    for node in model.graph.nodes:
        if node.outputs:
            key = node.outputs[0].name
            nodes[key] = _node_plan(context, node, reasons[key], quantized=key in chosen)
    return Plan(nodes=nodes, activations=activations, recipe=recipe, target=target)


def observable(model: Model, target: Target) -> list[str]:
    """Return the tensors whose statistics some recipe for a target may ask for.

    Args:
        model: The prepared model.
        target: What the hardware can do.

    Returns:
        Tensor names in graph order. Tensors between an operator and the activation it absorbs
        are left out: asking for them would undo a fusion and slow calibration down.
    """
    context = _context(model, target, Recipe())
    nodes = (node for node in model.graph.nodes if node.outputs and not refusal(context, node))
    able = {node.outputs[0].name: node for node in nodes}
    absorb(context, able, {})
    found: dict[str, None] = {}
    for node in able.values():
        tensors = [tensor for _, tensor in context.data(node) if not isinstance(tensor, Constant)]
        for tensor in (*tensors, context.result(node)):
            found[_sources(context, tensor)[-1]] = None
    return list(found)


def _context(model: Model, target: Target, recipe: Recipe) -> Context:
    """Gather what planning looks at."""
    outputs = frozenset(tensor.name for tensor in model.graph.outputs)
    types = tensor_types(model)
    return Context(model=model, target=target, recipe=recipe, types=types, outputs=outputs)


def _check_rules(context: Context) -> None:
    """Refuse rules that match nothing."""
    names = [(label(node), node.op) for node in context.model.graph.nodes]
    for rule in context.recipe.rules:
        if not any(rule.matches(*name) for name in names):
            raise RecipeError(f"the rule for {rule} matches no node of {context.model.path}")


def _summary(reasons: Mapping[str, str]) -> str:
    """Return the most frequent reason."""
    common = list(reasons.values())
    return max(dict.fromkeys(common), key=common.count) if common else "the graph has no nodes"


def _activations(context: Context, chosen: Mapping[str, Node]) -> dict[str, ActivationPlan]:
    """Plan every tensor that an integer operator reads or writes."""
    plans: dict[str, ActivationPlan] = {}
    for node in chosen.values():
        for _, tensor in context.data(node):
            if not isinstance(tensor, Constant) and tensor.name not in plans:
                reason = f"read by {label(node)}"
                plans[tensor.name] = _activation(context, node, tensor, plans, reason)
        result = context.result(node)
        rule = context.op(node)
        if rule.output == "needed" and not any(True for _ in readers(context, result, chosen)):
            continue
        reason = f"written by {label(node)}"
        written = _activation(context, node, result, plans, reason)
        plans[result.name] = replace(written, written=True)
    return plans


def _activation(
    context: Context,
    node: Node,
    tensor: Tensor,
    plans: Mapping[str, ActivationPlan],
    reason: str,
) -> ActivationPlan:
    """Plan one tensor that a chosen node reads or writes."""
    origin = node.inputs[0].name if context.op(node).share else ""
    if origin in plans and tensor.name != origin:
        shared = plans[origin]
        reason = f"{reason}; shares the parameters of {shared.shares!r}"
        return replace(shared, name=tensor.name, reason=reason, written=False)
    asked = context.rule(node).activations.over(context.recipe.activations)
    bounds = (-np.inf, np.inf)
    if tensor.inputs:
        bounds = activation_bounds(tensor.inputs[0])
    spec = _spec(context, asked, "activations", bounds=bounds)
    return ActivationPlan(
        name=tensor.name,
        spec=spec,
        sources=_sources(context, tensor),
        shares=tensor.name,
        reason=reason,
    )


def _sources(context: Context, tensor: Tensor) -> tuple[str, ...]:
    """Follow a tensor back through operators that only move or select values."""
    names = [tensor.name]
    while tensor.inputs and is_standard(tensor.inputs[0]):
        rule = context.target.ops.get(tensor.inputs[0].op)
        if rule is None or not rule.share or isinstance(tensor.inputs[0].inputs[0], Constant):
            break
        tensor = tensor.inputs[0].inputs[0]
        names.append(tensor.name)
    return tuple(names)


def _node_plan(context: Context, node: Node, reason: str, *, quantized: bool) -> NodePlan:
    """Plan one node."""
    weights: tuple[WeightPlan, ...] = ()
    bias = None
    if quantized:
        weights = tuple(
            _weight(context, node, index, tensor)
            for index, tensor in context.data(node)
            if isinstance(tensor, Constant)
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


def _weight(context: Context, node: Node, index: int, tensor: Constant) -> WeightPlan:
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
    context: Context,
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
