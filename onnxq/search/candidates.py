"""What may be tried for each tensor: the positions of a power of two, or wider and narrower ranges.

Powers of two: the positions ``p0 … p0 + b − 1``; of weights with one a channel, all of them moved
by the same number. Other scales: the range that was chosen, times ``2^(k/8)``, down to half of it
and up to what was seen. Choices go from wide to narrow.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxq.emit.constants import Place
from onnxq.graph.io import Model, array_of
from onnxq.numerics.affine import params_of
from onnxq.numerics.fixed_point import (
    Bins,
    candidates,
    divergences,
    finest,
    positions,
    weight_curve,
)
from onnxq.parameters import weight_stats
from onnxq.plan import NodePlan, Plan, WeightPlan
from onnxq.ranges.fixed import Fixed
from onnxq.ranges.given import Given
from onnxq.recipe import TensorRule
from onnxq.types import Array, QuantParams, QuantSpec, Range, TensorStats

STEPS = 8  # of a scale, a factor of two
OVER = ("activations", "weights", "both")


@dataclass(frozen=True, kw_only=True)
class Coordinate:
    """One parameter that can be moved.

    Attributes:
        name: The tensor.
        kind: ``activation`` or ``weight``.
        reason: Which node it belongs to.
        places: Those who take the parameters: activations, or inputs of nodes.
        choices: What may be asked for, from wide to narrow.
        params: What each choice means.
        start: The one used now.
        cost: Decides between choices of equal score, lower is better.
    """

    name: str
    kind: str
    reason: str
    places: tuple[Place, ...]
    choices: tuple[Given, ...]
    params: tuple[QuantParams, ...]
    start: int
    cost: Callable[[int], float] = field(compare=False)

    def change(self, choice: int) -> dict[Place, QuantParams]:
        """Return the parameters of all who take them."""
        return dict.fromkeys(self.places, self.params[choice])

    def rule(self, choice: int) -> TensorRule:
        """Return what a recipe says to get a choice."""
        given = self.choices[choice]
        options = {"lo": given.lo, "hi": given.hi, "position": given.position}
        used = {name: value for name, value in options.items() if value is not None}
        return TensorRule(range=Given.name, range_options=used)


def coordinates(
    model: Model,
    plan: Plan,
    seen: Mapping[str, TensorStats],
    used: Mapping[Place, QuantParams],
    over: str,
) -> list[Coordinate]:
    """Return what can be moved, in the order of the graph: weights of a node before its output.

    Tensors whose range is given, or known beforehand, stay.

    Args:
        model: The prepared model.
        plan: What becomes of it.
        seen: Statistics of the activations.
        used: The parameters now.
        over: ``activations``, ``weights`` or ``both``.
    """
    found = []
    if over != "weights":
        found += list(_activations(plan, seen, used))
    if over != "activations":
        found += list(_weights(model, plan, used))
    order: dict[str, int] = {}
    for number, node in enumerate(model.graph.nodes):
        for tensor in (*node.inputs, *node.outputs):
            order.setdefault(tensor.name, number)
    return sorted(found, key=lambda each: (order[each.name], each.kind == "activation"))


def _activations(
    plan: Plan, seen: Mapping[str, TensorStats], used: Mapping[Place, QuantParams]
) -> Iterator[Coordinate]:
    """Yield the activations that lead others or stand alone."""
    for name, activation in plan.activations.items():
        if activation.shares != name or isinstance(activation.spec.range, (Fixed, Given)):
            continue
        places = [each for each, other in plan.activations.items() if other.shares == name]
        first = _Choosing(activation.spec, seen[name], used[name])
        yield from first.coordinate(name, "activation", activation.reason, tuple(places))


def _weights(model: Model, plan: Plan, used: Mapping[Place, QuantParams]) -> Iterator[Coordinate]:
    """Yield the weights; those that nodes want in different ways stay."""
    constants = model.graph.tensors()
    readers: dict[str, list[tuple[NodePlan, WeightPlan]]] = {}
    for node in plan.nodes.values():
        for weight in node.weights:
            readers.setdefault(weight.name, []).append((node, weight))
    for name, found in readers.items():
        node, weight = found[0]
        agree = all(other.spec == weight.spec for _, other in found)
        if not agree or isinstance(weight.spec.range, Given):
            continue
        places = tuple((reader.output, each.index) for reader, each in found)
        stats = weight_stats(weight, array_of(constants[name]))
        choosing = _Choosing(weight.spec, stats, used[places[0]])
        yield from choosing.coordinate(name, "weight", f"of {node.label}", places)


@dataclass(frozen=True)
class _Choosing:
    """One tensor: what is asked of it, what was seen, what is used."""

    spec: QuantSpec
    stats: TensorStats
    used: QuantParams

    def coordinate(
        self, name: str, kind: str, reason: str, places: tuple[Place, ...]
    ) -> Iterator[Coordinate]:
        """Yield the coordinate, unless there is nothing to choose."""
        choices = self._positions() if self.spec.power_of_two else self._ranges()
        params = [params_of(self._range(given), self.spec) for given in choices]
        same = [i for i, each in enumerate(params) if _equal(each, self.used)]
        if len(choices) < 2 or not same:
            return
        start = same[0]
        yield Coordinate(
            name=name,
            kind=kind,
            reason=reason,
            places=places,
            choices=tuple(choices),
            params=tuple(params),
            start=start,
            cost=self._cost(choices, start),
        )

    def _range(self, given: Given) -> Range:
        """Return the range of a choice, as it will be when the recipe asks for it."""
        return given(self.stats, self.spec).within(*self.spec.bounds)

    def _positions(self) -> list[Given]:
        """Return the positions, coarse to fine."""
        now = positions(self.used)
        if not self.spec.tile:
            lo, hi = float(np.min(self.stats.lo)), float(np.max(self.stats.hi))
            whole = {*candidates(min(lo, 0.0), max(hi, 0.0), self.spec).tolist(), int(now)}
            return [Given(position=position) for position in sorted(whole)]
        bits, (least, most) = self.spec.dtype.bits, self.spec.positions
        full = Range.containing_zero(self.stats.lo, self.stats.hi)
        first = np.minimum(np.clip(finest(full.lo, full.hi, bits), least, most), now)
        last = np.maximum(np.clip(first + bits - 1, least, most), now)
        moved = [np.clip(now + step, first, last) for step in range(1 - bits, bits)]
        different = dict.fromkeys(tuple(each.reshape(-1).tolist()) for each in moved)
        return [Given(position=list(each)) for each in different]

    def _ranges(self) -> list[Given]:
        """Return the ranges, wide to narrow."""
        chosen = self.spec.range(self.stats, self.spec).within(*self.spec.bounds)
        full = Range.containing_zero(self.stats.lo, self.stats.hi).within(*self.spec.bounds)
        found = []
        for step in range(STEPS, -STEPS - 1, -1):
            factor = 2.0 ** (step / STEPS)
            lo, hi = chosen.lo * factor, chosen.hi * factor
            if step > 0 and (lo < full.lo).all() and (hi > full.hi).all():
                continue
            if step > 0:
                lo, hi = np.maximum(lo, full.lo), np.minimum(hi, full.hi)
            found.append(Given(lo=_plain(lo), hi=_plain(hi)))
        return list(dict.fromkeys(found))

    def _cost(self, choices: list[Given], start: int) -> Callable[[int], float]:
        """Return the KL divergence of positions where it is known, else the distance."""
        histograms = self.stats.histograms
        if not self.spec.power_of_two or self.spec.tile or not histograms:
            return lambda choice: abs(choice - start)
        reach = max(-float(np.min(self.stats.lo)), float(np.max(self.stats.hi)))
        if histograms[0].total == histograms[0].zeros or not reach > 0:
            return lambda choice: abs(choice - start)
        ends = self.stats.ends[0] if self.stats.ends else None
        bits = self.spec.dtype.bits

        def cost(choice: int) -> float:
            """Return the divergence of one position."""
            bins = Bins.of(histograms[0], reach, ends)
            tried = np.array([choices[choice].position])
            return float(divergences(bins, tried, bits, weight_curve(bins, bits))[0])

        return cost


def _equal(one: QuantParams, other: QuantParams) -> bool:
    """Say whether two parameters are the same."""
    codes = np.array_equal(one.zero_point, other.zero_point)
    return codes and np.array_equal(one.scale, other.scale)


def _plain(values: Array) -> Any:
    """Return a number, or a list of them."""
    return float(values) if values.ndim == 0 else values.reshape(-1).tolist()
