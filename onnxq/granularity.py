"""Which activations take one scale a channel, and why the others take one for all.

One scale a channel needs channels of the tensor's own that were observed, and nobody who takes
its parameters and has other channels: a MaxPool along the other axes may share them, a Reshape
may not.
"""

from collections.abc import Mapping
from typing import Protocol

from onnxq.choose import Context
from onnxq.graph.io import Node, Tensor
from onnxq.graph.query import channel_axis, label
from onnxq.numerics.tiles import channel_tile
from onnxq.recipe import TensorRule, channels
from onnxq.types import QuantSpec, Tile

POOLS = ("MaxPool", "GlobalMaxPool")  # each channel, axis 1, by itself


class Planned(Protocol):
    """What a plan says of an activation, as far as it matters here."""

    @property
    def spec(self) -> QuantSpec:
        """How it is quantized."""

    @property
    def shares(self) -> str:
        """The tensor whose parameters it takes."""


def wants_channels(context: Context, node: Node) -> bool:
    """Say whether the activations of a node shall have one scale a channel."""
    return channels(_granularity(context, node)) is not None


def _granularity(context: Context, node: Node) -> str | None:
    """Return the granularity asked for the activations of a node."""
    asked = context.rule(node).activations.over(context.recipe.activations)
    return asked.over(TensorRule(**context.target.activations)).granularity


def activation_tile(
    context: Context, node: Node, tensor: Tensor, sources: tuple[str, ...]
) -> tuple[Tile, str]:
    """Return how far one scale of an activation reaches.

    Args:
        context: What choosing looked at.
        node: The chosen node that reads or writes it.
        tensor: The activation.
        sources: The tensors whose statistics may give its range.

    Returns:
        The tile, and the reason why there is one scale although channels were asked for.
    """
    asked = channels(_granularity(context, node))
    if asked is None:
        return (), ""
    kind = context.types.get(tensor.name)
    shape = kind.shape if kind is not None else None
    why = _whole(context, tensor, sources)
    if why or shape is None:
        return (), why or "its rank is unknown"
    axis = channel_axis(tensor, len(shape)) if asked == "auto" else asked
    if len(shape) < 2:
        return (), f"its rank is {len(shape)}"
    if not -len(shape) <= axis < len(shape):
        return (), f"it has no axis {axis}"
    if shape[axis] == 1:
        return (), "it has one channel"
    return channel_tile(len(shape), axis), ""


def _whole(context: Context, tensor: Tensor, sources: tuple[str, ...]) -> str:
    """Return why a tensor takes one scale whatever its shape, or nothing."""
    if tensor.name in context.whole:
        return context.whole[tensor.name]
    if len(sources) > 1:
        return f"what was seen is {sources[-1]!r}, which has other channels"
    rules = [context.target.ops[node.op] for node in tensor.inputs if node.op in context.target.ops]
    if any(rule.output_range for rule in rules):
        return "its range is known beforehand"
    return ""


def blocked(
    context: Context, chosen: Mapping[str, Node], plans: Mapping[str, Planned]
) -> dict[str, str]:
    """Find parameters that nodes hand on to tensors with other channels.

    Args:
        context: What choosing looked at.
        chosen: The nodes to quantize.
        plans: What becomes of the activations.

    Returns:
        The tensor whose parameters they are, to the reason why these must be one scale.
    """
    found = {}
    for node in chosen.values():
        plan = plans.get(context.result(node).name)
        if plan is None or not plan.spec.tile:
            continue
        if context.op(node).unify:
            found[plan.shares] = f"{label(node)} has one grid for all it reads and writes"
        elif context.op(node).share and not (node.op in POOLS and plan.spec.tile[1] == 1):
            found[plan.shares] = f"{label(node)} hands its parameters on"
    return found
