"""Equalize the weights of layers by factors a channel between them.

Before:
    y = Conv(x, W₁, b₁)
    z = Conv(Relu(y), W₂, b₂)

After:
    y_equalized = Conv(x, W₁/s, b₁/s)        s: one positive factor a channel of y
    z = Conv(Relu(y_equalized), W₂·s, b₂)

`onnxq.graph.families` says which tensors share their factors, `onnxq.numerics.equalization` which
factors make one scale a weight serve all channels. Tensors with other values get other names, so
that no statistics of the old ones can be taken for theirs. Clip(0, 6) has one end for all
channels: a channel takes part if interval arithmetic proves that it never reaches that end
(`onnxq.graph.bounds`), before and after; the others keep their factor of 1, and the function is
the same to the last bit of rounding.

Refused: (1) the channels reach an operator that does not hand a factor on, or the model's inputs
or outputs; (2) every channel may reach the end of a Clip; (3) no factor would be far from 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxq.graph.bounds import Bounds, channel_bounds
from onnxq.graph.edit import Names, set_inputs
from onnxq.graph.families import Family, Offset, families
from onnxq.graph.io import Model, Node, Tensor, array_of, constant
from onnxq.graph.linear import by_group, rescale
from onnxq.graph.query import activation_bounds, label
from onnxq.numerics.equalization import WIDEST, Limits, Weight, clip_room, equalizing, room
from onnxq.passes import PassReport
from onnxq.types import Array

SAME = 1e-3  # a factor nearer to 1 is none
SUFFIX = "_equalized"


@dataclass(frozen=True, kw_only=True)
class _Scaled:
    """A family with its factors."""

    family: Family
    factors: Array


def equalize(model: Model, maxima: Mapping[str, Array] | None = None) -> PassReport:
    """Apply the pass in place.

    Args:
        model: The prepared model.
        maxima: Largest magnitude of each channel on data, by the names `seen_tensors` gives: no
            channel is made larger than the largest of its tensor. None where there is no data.
    """
    found = families(model)
    free = [family for family in found if not family.reason]
    bounds = channel_bounds(model)
    limits = [_limits(family, bounds, maxima or {}) for family in free]
    factors = equalizing(_weights(free), limits)
    skipped = [(label(family.writers[0]), family.reason) for family in found if family.reason]
    scaled = []
    for family, limit, each in zip(free, limits, factors, strict=True):
        if (limit.least == limit.most).all():
            skipped.append((label(family.writers[0]), "all channels may reach the end of a Clip"))
        elif np.abs(np.log(each)).max() < SAME:
            skipped.append((label(family.writers[0]), "its weights are alike as they are"))
        else:
            scaled.append(_Scaled(family=family, factors=each))
    changed = tuple(dict.fromkeys(label(n) for each in scaled for n in _layers(each.family)))
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


def _limits(family: Family, bounds: Bounds, maxima: Mapping[str, Array]) -> Limits:
    """Return how far the factors of a family may go."""
    least = np.full(family.channels, 1 / WIDEST)
    most = np.full(family.channels, WIDEST)
    for tensor in _read(family):
        if tensor.name in maxima:
            least = np.maximum(least, room(maxima[tensor.name]))
    for clip in family.clips:
        anything = np.full(1, -np.inf), np.full(1, np.inf)
        reached = bounds.get(clip.inputs[0].name, anything)
        low, high = clip_room(reached, activation_bounds(clip))
        least, most = np.maximum(least, low), np.minimum(most, high)
    return Limits(least=np.minimum(least, most), most=most)


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


def _apply(model: Model, scaled: Sequence[_Scaled]) -> None:
    """Give layers and constants their new values, and tensors new names."""
    names = Names(model)
    reads = {id(node): each.factors for each in scaled for node in each.family.readers}
    writes = {id(node): each.factors for each in scaled for node in each.family.writers}
    nodes = {id(node): node for each in scaled for node in _layers(each.family)}
    for key, node in nodes.items():
        rescale(names, node, SUFFIX, reads=reads.get(key), writes=writes.get(key))
    for each in scaled:
        for offset in each.family.offsets:
            _divide(names, offset, each)
        for tensor in each.family.tensors:
            tensor.name = names.new(f"{tensor.name}{SUFFIX}")


def _divide(names: Names, offset: Offset, scaled: _Scaled) -> None:
    """Divide a constant that is added to a family."""
    tensor = offset.node.inputs[offset.index]
    shape = [1] * offset.rank
    shape[scaled.family.axis] = -1
    divided = (array_of(tensor) / scaled.factors.reshape(shape)).astype(np.float32)
    inputs = list(offset.node.inputs)
    inputs[offset.index] = constant(names.new(f"{tensor.name}{SUFFIX}"), divided)
    set_inputs(offset.node, inputs)
