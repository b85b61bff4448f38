"""Equalize the weights of layers by factors a channel between them.

Before:
    y = Conv(x, W₁, b₁)
    z = Conv(Relu(y), W₂, b₂)

After:
    y_equalized_… = Conv(x, W₁/s, b₁/s)        s: one positive factor a channel of y
    z = Conv(Relu(y_equalized_…), W₂·s, b₂)

`onnxq.graph.families` says which tensors share their factors, `onnxq.numerics.equalization` which
factors make one scale a weight serve all channels. Tensors with other values get other names, so
that no statistics of the old ones can be taken for theirs. Clip(0, 6) has one end for all
channels: a channel takes part if interval arithmetic proves that it never reaches that end
(`onnxq.graph.bounds`), before and after; the others keep their factor of 1. Where asked for, and
where many channels would have few codes otherwise, they take part too, and a Relu and a Min with
one end a channel, 6/s, take the place of the Clip.

Refused: (1) the channels reach an operator that does not hand a factor on, or the model's inputs
or outputs; (2) every channel may reach the end of a Clip; (3) no factor would be far from 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxq.graph.bounds import Bounds, channel_bounds
from onnxq.graph.edit import Names, remove_nodes, set_inputs
from onnxq.graph.families import Family, Place, families
from onnxq.graph.io import Model, Node, Tensor, Variable, array_of, constant
from onnxq.graph.linear import by_group, name_after, rescale
from onnxq.graph.query import activation_bounds, label
from onnxq.numerics.equalization import WIDEST, Limits, Weight, clip_room, equalizing, room, weak
from onnxq.passes import PassReport
from onnxq.types import Array

SAME = 1e-3  # a factor nearer to 1 is none
BROADCASTS = 8  # operator set from which Min and Max do
LOST = 0.05  # of the channels of a layer, from which a Min is worth its time
SUFFIX = "_equalized"


@dataclass(frozen=True, kw_only=True)
class _Free:
    """A family that can be scaled.

    Attributes:
        family: The family.
        limits: How far its factors may go with the Clips there are.
        beyond: How far they may go without them.
        exact: Of each Clip inside, the factors for which it may stay; least and most.
    """

    family: Family
    limits: Limits
    beyond: Limits
    exact: tuple[tuple[Array, Array], ...]


def equalize(
    model: Model, maxima: Mapping[str, Array] | None = None, *, cut: bool = False
) -> PassReport:
    """Apply the pass in place.

    Args:
        model: The prepared model.
        maxima: Largest magnitude of each channel on data, by the names `seen_tensors` gives: no
            channel is made larger than the largest of its tensor. None where there is no data.
        cut: Let a Min with an end a channel take the place of a Clip where that keeps more than
            `LOST` of the channels of a layer from having few codes.
    """
    found, bounds = families(model), channel_bounds(model)
    free = [_free(each, bounds, maxima or {}) for each in found if not each.reason]
    factors = _factors(free, cut=cut and model.opset >= BROADCASTS)
    skipped = [(label(family.writers[0]), family.reason) for family in found if family.reason]
    scaled = []
    for each, factor in zip(free, factors, strict=True):
        name = label(each.family.writers[0])
        if np.abs(np.log(factor)).max() >= SAME:
            scaled.append((each, factor))
        elif (each.limits.least == each.limits.most).all():
            skipped.append((name, "every channel may reach the end of a Clip"))  # case 2
        else:
            skipped.append((name, "its weights are alike as they are"))  # case 3
    changed = tuple(dict.fromkeys(label(n) for each, _ in scaled for n in _layers(each.family)))
    _apply(model, scaled)
    return PassReport(name="equalize", changed=changed, skipped=tuple(skipped))


def seen_tensors(model: Model) -> dict[str, int]:
    """Return the tensors whose largest values say how far factors may go, with their axis."""
    free = [family for family in families(model) if not family.reason]
    return {tensor.name: family.axis for family in free for tensor in _read(family)}


def _read(family: Family) -> list[Tensor]:
    """Return the tensors of a family that something else than an activation reads."""
    return [
        tensor
        for tensor in family.tensors
        if any(node.op not in ("Relu", "Clip") for node in tensor.outputs)
    ]


def _factors(free: Sequence[_Free], *, cut: bool) -> list[Array]:
    """Return the factors of each family; Clips are in the way only if they may not be cut."""
    weights, limits = _weights([each.family for each in free]), [each.limits for each in free]
    factors = equalizing(weights, limits)
    if not cut:
        return factors
    lost = [weak(weights, factors, family) for family in range(len(free))]
    released = [
        each.beyond if part > LOST else each.limits for each, part in zip(free, lost, strict=True)
    ]
    return equalizing(weights, released)


def _free(family: Family, bounds: Bounds, maxima: Mapping[str, Array]) -> _Free:
    """Return a family with how far its factors may go."""
    least = np.full(family.channels, 1 / WIDEST)
    most = np.full(family.channels, WIDEST)
    for tensor in _read(family):
        if tensor.name in maxima:
            least = np.maximum(least, room(maxima[tensor.name]))
    beyond, exact = Limits(least=least, most=most), []
    for clip in family.clips:
        anything = np.full(1, -np.inf), np.full(1, np.inf)
        reached = bounds.get(clip.node.inputs[0].name, anything)
        exact.append(clip_room(reached, activation_bounds(clip.node)))
        least, most = np.maximum(least, exact[-1][0]), np.minimum(most, exact[-1][1])
    limits = Limits(least=np.minimum(least, most), most=most)
    return _Free(family=family, limits=limits, beyond=beyond, exact=tuple(exact))


def _layers(family: Family) -> list[Node]:
    """Return the layers around a family."""
    return [*family.writers, *family.readers]


def _weights(free: Sequence[Family]) -> list[Weight]:
    """Return the weights of all layers around some families."""
    reads = {id(node): i for i, family in enumerate(free) for node in family.readers}
    writes = {id(node): i for i, family in enumerate(free) for node in family.writers}
    nodes = {id(node): node for family in free for node in _layers(family)}
    return [
        Weight(
            sizes=np.abs(by_group(node, array_of(node.inputs[1]))).max(axis=3).astype(np.float64),
            reads=reads.get(key),
            writes=writes.get(key),
        )
        for key, node in nodes.items()
    ]


def _apply(model: Model, scaled: Sequence[tuple[_Free, Array]]) -> None:
    """Give layers and constants their new values, and tensors new names."""
    names = Names(model)
    reads = {id(node): factors for each, factors in scaled for node in each.family.readers}
    writes = {id(node): factors for each, factors in scaled for node in each.family.writers}
    nodes = {id(node): node for each, _ in scaled for node in _layers(each.family)}
    for key, node in nodes.items():
        rescale(names, node, SUFFIX, reads=reads.get(key), writes=writes.get(key))
    for each, factors in scaled:
        family = each.family
        for place in family.offsets:
            _divide(names, place, _broadcast(factors, place, family.axis))
        for tensor in family.tensors:
            tensor.name = name_after(names, tensor, SUFFIX, factors)
        for place, (least, most) in zip(family.clips, each.exact, strict=True):
            if (factors < least).any() or (factors > most).any():
                _cut(model, names, place, _broadcast(factors, place, family.axis))


def _broadcast(factors: Array, place: Place, axis: int) -> Array:
    """Return factors in a shape that broadcasts against what a node reads."""
    shape = [1] * place.rank
    shape[axis] = -1
    return factors.reshape(shape)


def _divide(names: Names, place: Place, factors: Array) -> None:
    """Divide a constant that is added to a family."""
    tensor = place.node.inputs[place.index]
    divided = (array_of(tensor) / factors).astype(np.float32)
    inputs = list(place.node.inputs)
    inputs[place.index] = constant(names.new(f"{tensor.name}{SUFFIX}"), divided)
    set_inputs(place.node, inputs)


def _cut(model: Model, names: Names, place: Place, factors: Array) -> None:
    """Put operators with an end a channel in the place of a Clip."""
    read, result = place.node.inputs[0], place.node.outputs[0]
    ends = [(op, end) for op, end in zip(("Max", "Min"), activation_bounds(place.node), strict=True)
            if np.isfinite(end)]  # fmt: skip
    nodes = model.graph.nodes
    at = next(number for number, node in enumerate(nodes) if node is place.node)
    set_inputs(place.node, [])
    place.node.outputs.clear()
    remove_nodes(model, [place.node])
    for number, (op, end) in enumerate(ends):
        last = number == len(ends) - 1
        after = result if last else Variable(names.new(f"{result.name}_{op.lower()}"))
        inputs = [read]
        if end:
            values = (end / factors).astype(np.float32)
            inputs.append(constant(names.new(f"{result.name}_{op.lower()}_end"), values))
        node = Node(op if end else "Relu", f"{after.name}_{op}", inputs=inputs, outputs=[after])
        nodes.insert(at + number, node)
        read = after
