"""From what was seen to the parameters that are used: range algorithms at work on a plan."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from onnxq.graph import io
from onnxq.graph.io import Model
from onnxq.numerics.affine import params_of
from onnxq.numerics.ends import ends
from onnxq.numerics.extremes import extremes
from onnxq.numerics.fixed_point import beyond
from onnxq.numerics.matrices import matrices
from onnxq.plan import ActivationPlan, Plan, WeightPlan
from onnxq.types import Array, QuantParams, QuantSpec, Range, TensorStats

log = logging.getLogger(__name__)


@dataclass
class Known:
    """What was computed before of the same tensors.

    Attributes:
        params: By the name of a tensor and what is asked of it.
        stats: Of weights, by name and by how they were looked at.
    """

    params: dict[tuple[str, str], QuantParams] = field(default_factory=dict)
    stats: dict[tuple[str, str], TensorStats] = field(default_factory=dict)


def key_of(params: QuantParams) -> bytes:
    """Return what tells parameters apart."""
    kind = f"{params.dtype.name} {params.tile} {params.matrix}"
    return b"\0".join((kind.encode(), params.scale.tobytes(), params.zero_point.tobytes()))


def activation_params(
    plan: Plan, seen: Mapping[str, TensorStats], known: Known | None = None
) -> dict[str, QuantParams]:
    """Choose range and parameters of every activation; sharers get the same.

    Args:
        plan: What becomes of every node and tensor.
        seen: Statistics of every activation.
        known: What was chosen before, from the same statistics; what is chosen now is added.
    """
    known = known or Known()
    chosen: dict[str, QuantParams] = {}
    for name, activation in plan.activations.items():
        own = activation.shares == name
        found = activation_param(activation, seen[name], known) if own else None
        chosen[name] = found or chosen[activation.shares]
    return chosen


def activation_param(activation: ActivationPlan, stats: TensorStats, known: Known) -> QuantParams:
    """Choose range and parameters of one activation that shares no other's.

    Args:
        activation: What becomes of it.
        stats: What was seen of it, and of those that take its parameters.
        known: What was chosen before, from the same statistics; what is chosen now is added.
    """
    name, spec = activation.name, activation.spec
    key = name, repr((spec, activation.group))
    if key not in known.params:
        interval = _filled(spec.range(stats, spec)).within(*spec.bounds)
        known.params[key] = params_of(interval, spec)
        _warn_beyond(name, stats, spec)
    return known.params[key]


def _warn_beyond(name: str, stats: TensorStats, spec: QuantSpec) -> None:
    """Warn of a tensor for which the chip has no position worth choosing."""
    if spec.power_of_two and beyond(Range.containing_zero(stats.lo, stats.hi), spec).any():
        least, most = spec.positions
        log.warning(
            "%s: no position within %d … %d fits its values: the nearest is used",
            name,
            least,
            most,
        )


def _filled(chosen: Range) -> Range:
    """Give channels that held only zeros the ends of all others: other data may wake them."""
    if not chosen.lo.ndim:
        return chosen
    asleep = (chosen.lo == 0) & (chosen.hi == 0)
    low, high = chosen.lo.min(), chosen.hi.max()
    return Range(np.where(asleep, low, chosen.lo), np.where(asleep, high, chosen.hi))


def weight_params(
    plan: Plan, model: Model, known: Known | None = None
) -> dict[tuple[str, int], QuantParams]:
    """Choose range and parameters of every weight, directly from its values.

    Args:
        plan: What becomes of every node and tensor.
        model: The prepared model.
        known: What was chosen before, for the same values; what is chosen now is added.
    """
    known, constants = known or Known(), model.graph.tensors()
    return {
        (output, weight.index): weight_param(weight, io.array_of(constants[weight.name]), known)
        for output, node in plan.nodes.items()
        for weight in node.weights
    }


def weight_param(weight: WeightPlan, array: Array, known: Known) -> QuantParams:
    """Choose range and parameters of one weight.

    Args:
        weight: What becomes of it.
        array: Its values.
        known: What was computed before, for the same values; what is computed now is added.
    """
    spec = weight.spec
    key = weight.name, repr(spec)
    if key not in known.params:
        needs = spec.range.needs_histogram, spec.range.needs_ends
        seen = weight.name, repr((spec.tile, spec.matrix, needs))
        if seen not in known.stats:
            known.stats[seen] = weight_stats(weight, array)
        _warn_beyond(weight.name, known.stats[seen], spec)
        known.params[key] = params_of(spec.range(known.stats[seen], spec), spec)
    return known.params[key]


def weight_stats(weight: WeightPlan, array: Array) -> TensorStats:
    """Look at the values of a weight as closely as its range algorithm needs."""
    values, algorithm = matrices(array, weight.spec.matrix), weight.spec.range
    if algorithm.needs_histogram:
        from onnxq.numerics.observe import observe  # noqa: PLC0415  the compiler is slow to load

        stats = observe(values, weight.spec.tile)
    else:
        stats = extremes(values, weight.spec.tile)
    return replace(stats, ends=ends(values, weight.spec.tile)) if algorithm.needs_ends else stats
