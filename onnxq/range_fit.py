"""Choose the ranges of activations by the output of the layers that read them.

For a tensor x that a Conv, Gemm or MatMul f reads, ``‖f(x̂) − f(x)‖²`` on the samples the table
keeps says what rounding and clipping x costs; f stays float. f is linear, so that is
``‖W (x̂ − x)‖²``, one run of the layer alone for each candidate.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxq.feeds import Batch
from onnxq.graph.io import Constant, Model, Node, Tensor, array_of
from onnxq.graph.query import label
from onnxq.graph.session import Runtime, Session, values_of
from onnxq.graph.unfold import alone
from onnxq.numerics.range_fit import Fit, fit_range, rounding_error
from onnxq.plan import ActivationPlan, Plan
from onnxq.ranges.fixed import Fixed
from onnxq.ranges.given import Given
from onnxq.types import Array, QuantParams

log = logging.getLogger(__name__)

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
AT_ONCE = 1 << 28  # bytes of activations to hold; one tensor may be larger
WIDEST = 16  # bits of codes that float32 holds


@dataclass(frozen=True)
class Reader:
    """A layer that reads a tensor, or all that take the tensor as it is.

    Attributes:
        tensor: What it reads: the tensor to fit, or one that shares its parameters.
        node: The layer; None for all other readers of that tensor.
    """

    tensor: str
    node: Node | None

    @property
    def needs(self) -> list[str]:
        """Names of the tensors it computes from."""
        inputs = self.node.inputs[:2] if self.node is not None else ()
        return [self.tensor, *(t.name for t in inputs if not isinstance(t, Constant))]


def fitted_ranges(
    model: Model,
    plan: Plan,
    activations: Mapping[str, QuantParams],
    samples: Iterable[Batch],
    runtime: Runtime,
) -> dict[str, Fit]:
    """Search parameters of activations with the least error of the layers that read them.

    The error is the sum over the readers of a tensor of their noise relative to their signal:
    squared errors of the output, bias left out, for a layer, of the tensor itself for the other
    readers together, if they do not read it as float. For tensors that no layer reads there
    is no choice, nor for ranges that are given or known beforehand, or have several scales.

    Args:
        model: The prepared model the plan was made for.
        plan: What becomes of every node and tensor.
        activations: Parameters to begin with, by tensor name.
        samples: Inputs to measure on.
        runtime: How to run the model.

    Returns:
        What was found, by the tensor whose parameters others share.
    """
    feeds = [batch.inputs for batch in samples]
    wanted = {name: readers_of(model, plan, name) for name in activations if _is_free(plan, name)}
    wanted = {name: found for name, found in wanted.items() if any(r.node for r in found)}
    if not feeds or not wanted:
        return {}
    fits = {}
    for names, values in _held(model, wanted, feeds, runtime):
        for name in names:
            error = _OutputError(model, wanted[name], values, runtime)
            fits[name] = fit = fit_range(activations[name], plan.activations[name].spec, error)
            log.info("%s: error %.3g to %.3g, %d ranges", name, fit.before, fit.after, fit.tried)
    return fits


def with_fits(
    plan: Plan, activations: Mapping[str, QuantParams], fits: Mapping[str, Fit]
) -> dict[str, QuantParams]:
    """Return parameters of all activations, those that were fitted and who shares them moved."""
    return {
        name: fits[planned.shares].params if planned.shares in fits else activations[name]
        for name, planned in plan.activations.items()
    }


def _is_free(plan: Plan, name: str) -> bool:
    """Say whether an activation has one scale of its own that may be chosen."""
    planned = plan.activations[name]
    spec = planned.spec
    known = isinstance(spec.range, (Fixed, Given)) or spec.tile or spec.dtype.bits > WIDEST
    return planned.shares == name and not known


def readers_of(model: Model, plan: Plan, name: str) -> list[Reader]:
    """Return who reads a tensor quantized, itself or what shares its parameters.

    Args:
        model: The prepared model.
        plan: What becomes of every node and tensor.
        name: An activation with parameters of its own.
    """
    tensors = model.graph.tensors()
    found: list[Reader] = []
    for shared in plan.activations.values():
        if shared.shares == name:
            found += _readers(plan, shared, tensors[shared.name])
    return found


def _readers(plan: Plan, planned: ActivationPlan, tensor: Tensor) -> Iterator[Reader]:
    """Yield who reads one tensor quantized, once each, those that only move it left out."""
    others = False
    for node in {id(node): node for node in tensor.outputs}.values():
        output = node.outputs[0].name if node.outputs else ""
        integer = output in plan.nodes and plan.nodes[output].quantized
        integer = integer and not plan.nodes[output].weight_only
        moved = output in plan.activations and plan.activations[output].shares == planned.shares
        if integer and node.op in LINEAR:
            yield Reader(planned.name, node)
        elif not moved:
            others = others or integer or planned.written
    if others:
        yield Reader(planned.name, None)


Held = Sequence[Mapping[str, Array]]  # values of tensors, by name; one entry a sample


def _held(
    model: Model,
    wanted: Mapping[str, Sequence[Reader]],
    feeds: Sequence[Mapping[str, Array]],
    runtime: Runtime,
) -> Iterator[tuple[list[str], Held]]:
    """Yield names of tensors to fit, with the values that takes; few enough to be held at once."""
    needs = {name: [n for r in readers for n in r.needs] for name, readers in wanted.items()}
    names = {needed for found in needs.values() for needed in found}
    sizes: dict[str, int] = {}
    for values in values_of(model, names, feeds[:1], runtime):
        sizes = {name: values[name].nbytes * len(feeds) for name in names}
    group: list[str] = []
    held: set[str] = set()
    for name in wanted:
        more = held | set(needs[name])
        if group and sum(sizes[each] for each in more) > AT_ONCE:
            yield group, list(_only(model, held, feeds, runtime))
            group, more = [], set(needs[name])
        group.append(name)
        held = more
    yield group, list(_only(model, held, feeds, runtime))


def _only(
    model: Model, names: set[str], feeds: Sequence[Mapping[str, Array]], runtime: Runtime
) -> Iterator[dict[str, Array]]:
    """Yield values of some tensors and of nothing else."""
    for values in values_of(model, names, feeds, runtime):
        yield {name: values[name] for name in names}


class _OutputError:
    """Says what parameters of a tensor cost its readers."""

    def __init__(
        self, model: Model, readers: Sequence[Reader], values: Held, runtime: Runtime
    ) -> None:
        self._values = values
        self._parts = [_Part(model, reader, runtime) for reader in readers]
        self._signals = [
            sum(part.power(each, each[part.reader.tensor]) for each in values)
            for part in self._parts
        ]

    def __call__(self, params: QuantParams) -> Array:
        """Return what each sample adds to the sum of the relative noise of all readers."""
        found = []
        for each in self._values:
            made: dict[str, Array] = {}
            noise = 0.0
            for part, signal in zip(self._parts, self._signals, strict=True):
                name = part.reader.tensor
                if name not in made:
                    made[name] = rounding_error(each[name], params)
                noise += part.power(each, made[name]) / signal if signal > 0 else 0.0
            found.append(noise)
        return np.array(found)


class _Part:
    """One reader, as a linear function of the tensor.

    Attributes:
        reader: Which.
    """

    def __init__(self, model: Model, reader: Reader, runtime: Runtime) -> None:
        self.reader = reader
        self._session: Session | None = None
        if (node := reader.node) is not None:
            held = {t.name: array_of(t) for t in node.inputs[:2] if isinstance(t, Constant)}
            log.debug("%s alone", label(node))
            self._session = Session(alone(model, node, held), runtime)

    def power(self, values: Mapping[str, Array], given: Array) -> float:
        """Return the sum of squares of what it makes of ``given`` in place of its tensor."""
        made = given
        if self._session is not None:
            read = {info.name: values[info.name] for info in self._session.inputs}
            (made,) = self._session.run({**read, self.reader.tensor: given})
        flat = made.reshape(-1)
        return float(np.vdot(flat, flat))
