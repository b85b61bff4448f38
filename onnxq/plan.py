"""Recipe × target × graph: what becomes of every node and tensor, each with a reason.

`onnxq.choose` says which nodes are quantized. Every tensor they read or write gets a
specification here; the tensor between an operator and the Relu or Clip it absorbs gets none, and
the range behind it obeys the activation's bounds.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from onnxq.choose import (
    WEIGHTED,
    Context,
    absorb,
    choose,
    epilogue_input,
    readers,
    refusal,
)
from onnxq.errors import NothingToQuantizeError, RecipeError
from onnxq.granularity import activation_tile, blocked, wants_channels
from onnxq.graph.io import Constant, Model, Node, Tensor
from onnxq.graph.query import is_standard, label, tensor_types
from onnxq.recipe import Recipe
from onnxq.specs import activation_spec, joint_spec, weight_spec
from onnxq.targets import Target
from onnxq.types import QuantSpec

Key = tuple[str, int]  # of a weight: first output of its node, index among its inputs
ITERATES = "which would have to return the values of every iteration to have them observed"
IN_BODY = {
    "If": "inside a branch of If, whose condition is known at run time only",
    "Loop": f"inside the body of Loop, {ITERATES}",
    "Scan": f"inside the body of Scan, {ITERATES}",
}


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
        carried: Whether a quantized operator that moves values writes it and hands the grid of
            what it reads on, so that no pair of its own is needed.
        group: Other tensors whose statistics are merged with its own, since they all take its
            parameters.
    """

    name: str
    spec: QuantSpec
    sources: tuple[str, ...]
    shares: str
    reason: str
    written: bool = False
    carried: bool = False
    group: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WeightPlan:
    """A constant input that is quantized.

    Attributes:
        index: Which input of the node.
        name: The tensor.
        spec: How it is quantized.
        whole: Why it has one scale although activations by channel were asked for, or nothing.
    """

    index: int
    name: str
    spec: QuantSpec
    whole: str = ""


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
        weight_only: Whether it reads activations as floats although its weights are quantized.
    """

    output: str
    label: str
    op: str
    quantized: bool
    reason: str
    weights: tuple[WeightPlan, ...] = ()
    bias: int | None = None
    weight_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What becomes of a model.

    Attributes:
        nodes: First output of a node to its plan, in graph order, all nodes; then those inside
            If, Loop and Scan bodies under keys that are no tensor names.
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

    @property
    def qdq(self) -> bool:
        """Whether the graph computes with quantized values, instead of staying float."""
        return self.recipe.qdq is not False

    @property
    def rounding(self) -> str:
        """How integer operators round what they write."""
        return self.recipe.rounding or "half-even"

    @property
    def channels(self) -> dict[str, int]:
        """Names of activations with one scale a channel, to the axis of the channels."""
        tiles = {plan.shares: plan.spec.tile for plan in self.activations.values()}
        return {name: tile.index(1) for name, tile in tiles.items() if tile}


def resolve(
    model: Model,
    target: Target,
    recipe: Recipe,
    unfit: Mapping[str, str] | None = None,
    whole: Mapping[str, str] | None = None,
) -> Plan:
    """Decide about every node and tensor.

    Args:
        model: The prepared model: constants hoisted, BatchNormalization folded.
        target: What the hardware can do.
        recipe: What is asked.
        unfit: Tensors that must stay float for what was seen of them, each with the reason.
        whole: Tensors that must take one scale for what was seen of them, each with the reason.

    Raises:
        RecipeError: A rule matches no node, or names an unknown algorithm or type.
        UnsupportedError: The target has no such element type.
        NothingToQuantizeError: Nothing can be quantized.
    """
    context = replace(_context(model, target, recipe), unfit=unfit or {}, whole=whole or {})
    _check_rules(context)
    chosen, reasons = choose(context)
    inside = _inside(context)
    if not chosen:
        found = [
            _node_plan(context, n, reasons[n.outputs[0].name])
            for n in context.model.graph.nodes
            if n.outputs
        ]
        raise NothingToQuantizeError(
            f"{model.path}: nothing to quantize: {_summary(context, [*found, *inside.values()])}"
        )
    activations = _activations(context, chosen)
    nodes = {}
    for node in model.graph.nodes:
        if node.outputs:
            key = node.outputs[0].name
            nodes[key] = _node_plan(
                context, node, reasons[key], activations if key in chosen else None
            )
    nodes |= inside
    _check_named(context, activations, nodes)
    return Plan(nodes=nodes, activations=activations, recipe=recipe, target=target)


def observable(model: Model, *targets: Target) -> list[str]:
    """Return the tensors whose statistics some recipe for some target may ask for.

    Args:
        model: The prepared model.
        targets: What the hardware can do; of each of them.

    Returns:
        Tensor names in graph order, those for a target after those for the ones before. Tensors
        between an operator and the activation it absorbs are left out: asking for them would
        undo a fusion and slow calibration down.
    """
    context = _context(model, targets[0], Recipe())
    each = (replace(context, target=target, absorbed={}) for target in targets)
    return list(dict.fromkeys(name for one in each for name in _observable(one)))


def _observable(context: Context) -> Iterator[str]:
    """Yield the tensors that some recipe for one target may ask for."""
    graph = context.model.graph
    nodes = (node for node in graph.nodes if node.outputs and not refusal(context, node))
    able = {node.outputs[0].name: node for node in nodes}
    absorb(context, able, {})
    for node in able.values():
        tensors = [tensor for _, tensor in context.data(node) if not isinstance(tensor, Constant)]
        for tensor in (*tensors, context.result(node)):
            yield _sources(context, tensor)[-1]


def _context(model: Model, target: Target, recipe: Recipe) -> Context:
    """Gather what planning looks at."""
    outputs = frozenset(tensor.name for tensor in model.graph.outputs)
    types = tensor_types(model)
    return Context(model=model, target=target, recipe=recipe, types=types, outputs=outputs)


def _check_rules(context: Context) -> None:
    """Refuse rules that match nothing, and keys that mean nothing on the target."""
    shifts, tiles = "powers of two, like fixed-point", "one scale an array, like crossbar"
    keys = {
        **dict.fromkeys(("positions", "rounding", "qdq"), (context.target.power_of_two, shifts)),
        **dict.fromkeys(("crossbar", "rows", "tile_scales"), (context.target.tiled, tiles)),
    }
    for key, (known, what) in keys.items():
        if getattr(context.recipe, key) is not None and not known:
            raise RecipeError(f"{key} is for targets with {what}")
    names = [(label(node), node.op) for node in context.model.graph.nodes]
    for rule in context.recipe.rules:
        if not any(rule.matches(*name) for name in names):
            raise RecipeError(f"the rule for {rule} matches no node of {context.model.path}")


def _check_named(
    context: Context, plans: Mapping[str, ActivationPlan], nodes: Mapping[str, NodePlan]
) -> None:
    """Refuse what is asked of tensors that are not quantized, or not on their own."""
    weights = {weight.name for node in nodes.values() for weight in node.weights}
    for name in context.recipe.tensors:
        if name in plans and plans[name].shares != name:
            leader = plans[name].shares
            raise RecipeError(f"tensor {name!r} shares the parameters of {leader!r}: ask for that")
        if name not in plans and name not in weights and name not in context.unfit:
            raise RecipeError(f"tensor {name!r}, which the recipe names, is not quantized")


def _summary(context: Context, nodes: Sequence[NodePlan]) -> str:
    """Return the most frequent reason, of the operators worth quantizing if there are any."""
    worth = [node.reason for node in nodes if context.is_worth(node.op)]
    common = worth or [node.reason for node in nodes]
    return max(dict.fromkeys(common), key=common.count) if common else "the graph has no nodes"


def _inside(context: Context) -> dict[str, NodePlan]:
    """Plan the nodes inside If, Loop and Scan bodies: float, and said so."""
    plans = {}
    for outer in context.model.graph.nodes:
        for number, (holder, node) in enumerate(_held(outer)):
            key = f"{label(outer)}/{number}/{node.outputs[0].name}"
            reason = IN_BODY.get(holder.op, f"inside a body of {holder.op}")
            plans[key] = NodePlan(
                output=key, label=label(node), op=node.op, quantized=False, reason=reason
            )
    return plans


def _held(outer: Node) -> Iterator[tuple[Node, Node]]:
    """Yield the nodes inside the bodies of a node, each with the node whose body it is in."""
    for body in outer.subgraphs():
        for node in body.nodes:
            if node.outputs:
                yield outer, node
            yield from _held(node)


def _activations(context: Context, chosen: Mapping[str, Node]) -> dict[str, ActivationPlan]:
    """Plan every tensor that an integer operator reads or writes."""
    plans: dict[str, ActivationPlan] = {}
    for node in chosen.values():
        if context.is_weight_only(node):
            continue
        inside = epilogue_input(context, node, chosen)
        for _, tensor in context.data(node):
            if not (isinstance(tensor, Constant) or tensor.name in plans or tensor is inside):
                reason = f"read by {label(node)}"
                plans[tensor.name] = _activation(context, node, tensor, plans, reason)
        result = context.result(node)
        if _is_planned(context, node, result, chosen):
            both = context.target.placement == "both"
            planned = _activation(context, node, result, plans, f"written by {label(node)}")
            plans[result.name] = replace(planned, written=both, carried=not both)
    _unify(context, chosen, plans)
    _spread(blocked(context, chosen, plans), plans)
    return plans


def _is_planned(context: Context, node: Node, result: Tensor, chosen: Mapping[str, Node]) -> bool:
    """Say whether what an integer operator writes is quantized because that operator writes it."""
    rule = context.op(node)
    if context.target.placement == "inputs":
        return rule.moves
    return rule.output == "always" or any(True for _ in readers(context, result, chosen))


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
        return replace(shared, name=tensor.name, reason=reason, written=False, carried=False)
    spec, sources = activation_spec(context, node, tensor), _sources(context, tensor)
    tile, why = activation_tile(context, node, tensor, sources)
    return ActivationPlan(
        name=tensor.name,
        spec=replace(spec, tile=tile),
        sources=sources,
        shares=tensor.name,
        reason=f"{reason}; per tensor: {why}" if why else reason,
    )


def _spread(blocked: Mapping[str, str], plans: dict[str, ActivationPlan]) -> None:
    """Give one scale to all that take the parameters of a tensor that cannot have several."""
    for name, plan in plans.items():
        if why := blocked.get(plan.shares):
            reason = f"{plan.reason}; per tensor: {why}"
            plans[name] = replace(plan, spec=replace(plan.spec, tile=()), reason=reason)


def _unify(context: Context, chosen: Mapping[str, Node], plans: dict[str, ActivationPlan]) -> None:
    """Give all that a node with ``unify`` reads and writes the parameters of the first of them."""
    for node in chosen.values():
        if not context.op(node).unify:
            continue
        names = [tensor.name for tensor in (*node.inputs, context.result(node))]
        leaders = {plans[name].shares for name in names if name in plans}
        first, *others = [name for name in plans if name in leaders]
        spec = joint_spec([plans[name].spec for name in (first, *others)])
        if context.recipe.named(first).range is not None:
            spec = replace(spec, range=plans[first].spec.range)
        group = plans[first].group + tuple(
            member for name in others for member in (name, *plans[name].group)
        )
        plans[first] = replace(plans[first], group=group)
        for name, plan in plans.items():
            if plan.shares == first:
                plans[name] = replace(plan, spec=spec)
            elif plan.shares in leaders:
                reason = f"{plan.reason}; shares the parameters of {first!r}"
                plans[name] = replace(plan, spec=spec, shares=first, group=(), reason=reason)


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


def _node_plan(
    context: Context,
    node: Node,
    reason: str,
    activations: Mapping[str, ActivationPlan] | None = None,
) -> NodePlan:
    """Plan one node: float, or quantized if the activations are given."""
    weights: tuple[WeightPlan, ...] = ()
    bias, alone = None, activations is not None and context.is_weight_only(node)
    if activations is not None:
        weights = tuple(
            _weight(context, node, index, tensor)
            for index, tensor in context.data(node)
            if isinstance(tensor, Constant)
        )
        has_bias = node.op in WEIGHTED and len(node.inputs) > 2 and node.inputs[2].name
        has_bias = has_bias and not alone
        blocks = any(weight.spec.matrix is not None for weight in weights)
        if has_bias and blocks and context.target.bias:
            reason = f"{reason}; float bias: its weights have one scale a block"
        elif has_bias and activations[node.inputs[0].name].spec.tile:
            reason = f"{reason}; float bias: {node.inputs[0].name!r} has one scale a channel"
        elif has_bias and context.target.bias:
            bias = 2
    return NodePlan(
        output=node.outputs[0].name,
        label=label(node),
        op=node.op,
        quantized=activations is not None,
        reason=reason,
        weights=weights,
        bias=bias,
        weight_only=alone,
    )


def _weight(context: Context, node: Node, index: int, tensor: Constant) -> WeightPlan:
    """Plan one constant input of a chosen node."""
    spec = weight_spec(context, node, index, tensor)
    like_activation = context.op(node).role != "compute" and wants_channels(context, node)
    whole = "it is a constant" if like_activation else ""
    return WeightPlan(index=index, name=tensor.name, spec=spec, whole=whole)
