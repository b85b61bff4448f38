"""Which layers add the error of a quantized model, and which only carry it.

The quantized model runs once with the value of every boundary exposed; ``x̂`` is what a layer
reads in it and ``ŷ`` what it writes. The float model runs too, which gives ``y``, and the float
counterpart ``f`` of each layer runs on ``x̂``. Then, exactly,

    ŷ − y  =  (ŷ − f(x̂))  +  (f(x̂) − y)
    error  =     added     +    carried

What a layer adds is what its own weights, biases and grids do to the values it really gets; what
it carries is what it would have passed on had it stayed float. A float layer adds nothing, nor
does one that only moves values. What an added error is worth shows at the outputs: the float
model runs again with nothing but that error added to that tensor. See docs/layers.md.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import numpy as np

from onnxq.errors import ModelError
from onnxq.feeds import Batch
from onnxq.graph.io import Model
from onnxq.graph.segments import Cut, Segment, disturbance
from onnxq.graph.session import Runtime, Session
from onnxq.metrics.similarity import decibel, similarity
from onnxq.types import Array

SIDE_BY_SIDE = 16  # layers a session: few sessions, and few tensors at a time
EFFECT_SAMPLES = 8  # a run of the float model a layer and batch is dear


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Sums of squares over all elements of all samples; add two to combine them.

    Attributes:
        signal: Σ y²
        total: Σ (ŷ − y)²
        carried: Σ (f(x̂) − y)²
        added: Σ (ŷ − f(x̂))²
        inputs: Of the added, what rounding x̂ to the grids the layer reads with does.
        grid: Of the added, what rounding f(x̂) to the grid of the output does.
    """

    signal: float = 0.0
    total: float = 0.0
    carried: float = 0.0
    added: float = 0.0
    inputs: float = 0.0
    grid: float = 0.0

    def __add__(self, other: "Noise") -> "Noise":
        """Combine two sets of samples."""
        return Noise(
            signal=self.signal + other.signal,
            total=self.total + other.total,
            carried=self.carried + other.carried,
            added=self.added + other.added,
            inputs=self.inputs + other.inputs,
            grid=self.grid + other.grid,
        )


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What one layer does to the error.

    Attributes:
        name: Its node, as rules match it.
        op: Operator type of that node.
        output: The tensor it is measured at.
        readers: The layers that read that tensor.
        noise: What was measured.
        effect: Noise relative to the signal of the outputs when the added error of this layer
            is the only one, at the output where it is largest.
    """

    name: str
    op: str
    output: str
    readers: tuple[str, ...] = ()
    noise: Noise = field(default_factory=Noise)
    effect: float = 0.0

    @property
    def added(self) -> float:
        """Added noise relative to the signal."""
        return _ratio(self.noise.added, self.noise.signal)

    @property
    def sqnr(self) -> float:
        """SQNR of the output in dB."""
        return decibel(self.noise.signal, self.noise.total)

    @property
    def carried_sqnr(self) -> float:
        """SQNR the output would have if only this layer were float."""
        return decibel(self.noise.signal, self.noise.carried)

    @property
    def added_sqnr(self) -> float:
        """SQNR the output would have of what this layer adds alone."""
        return decibel(self.noise.signal, self.noise.added)

    @property
    def effect_sqnr(self) -> float:
        """SQNR of the model's outputs if nothing but this layer added an error."""
        return decibel(1.0, self.effect)

    @property
    def shares(self) -> dict[str, float]:
        """Shares of the added noise: ``inputs`` and ``output`` grids, the rest ``weights``."""
        if not 0 < self.noise.added < math.inf:
            return {"inputs": 0.0, "weights": 0.0, "output": 0.0}
        inputs = min(self.noise.inputs / self.noise.added, 1.0)
        output = min(self.noise.grid / self.noise.added, 1.0 - inputs)
        return {"inputs": inputs, "weights": 1.0 - inputs - output, "output": output}


def rank(
    reference: Model, quantized: Model, data: Iterable[Batch], runtime: Runtime
) -> list[Layer]:
    """Measure every layer and return them, worst first: by effect, then by what they add.

    Memory is that of one batch: the boundary tensors of both models. Every batch runs once in
    the quantized model and about three times in the float model; the first `EFFECT_SAMPLES`
    samples run in it once more for each layer.

    Args:
        reference: The float model.
        quantized: The model made from it.
        data: Batches.
        runtime: How to run the models.

    Raises:
        ModelError: The quantized model has no layers, was not made from the float model, or a
            model cannot run.
    """
    meter = _Meter(reference, quantized, runtime)
    for batch in data:
        meter.add(batch)
    return sorted(meter.layers(), key=lambda layer: (-layer.effect, -layer.added))


class _Meter:
    """Runs both models and sums up."""

    def __init__(self, reference: Model, quantized: Model, runtime: Runtime) -> None:
        self._cut = Cut(reference, quantized)
        self._runtime = runtime = replace(runtime, arena=False)  # several sessions at a time
        segments = self._cut.segments
        inputs = {tensor.name for tensor in reference.graph.inputs}
        self._outputs = [tensor.name for tensor in reference.graph.outputs]
        ends = [segment.output for segment in segments]
        read = [name for segment in segments for name in segment.inputs]
        inside = [name for name in dict.fromkeys([*read, *ends]) if name not in inputs]
        self._float = Session(reference, runtime, expose=[*dict.fromkeys([*ends, *self._outputs])])
        self._quantized = Session(quantized, runtime, expose=inside)
        starts = range(0, len(segments), SIDE_BY_SIDE)
        self._groups = [_Group(segments[i : i + SIDE_BY_SIDE]) for i in starts]
        self._noise = dict.fromkeys(ends, Noise())
        self._effects: _Effects | None = None
        self._samples = 0

    def add(self, batch: Batch) -> None:
        """Take in one batch."""
        got = dict(batch.inputs)
        got.update(zip(self._quantized.outputs, self._quantized.run(batch.inputs), strict=True))
        made = dict(zip(self._float.outputs, self._float.run(batch.inputs), strict=True))
        outputs = [made[name] for name in self._outputs]
        if self._effects is None:
            types = {name: np.asarray(made[name]).dtype for name in self._noise}
            self._effects = _Effects(Session(self._cut.disturbed(types), self._runtime))
        for group in self._groups:
            for segment, alone, rounded in group.run(self._cut, got, self._runtime):
                name = segment.output
                self._noise[name] += _noise(segment, made[name], got[name], alone, rounded)
                if self._samples < EFFECT_SAMPLES:
                    with np.errstate(invalid="ignore"):
                        error = np.nan_to_num(got[name] - alone, posinf=0.0, neginf=0.0)
                    self._effects.add(name, error, batch, outputs)
                if name not in self._outputs:
                    del made[name]
        self._samples += batch.samples

    def layers(self) -> Iterator[Layer]:
        """Yield what was measured."""
        for segment in self._cut.segments:
            yield Layer(
                name=segment.label,
                op=segment.op,
                output=segment.output,
                readers=segment.readers,
                noise=self._noise[segment.output],
                effect=self._effects.of(segment.output) if self._effects else 0.0,
            )


class _Effects:
    """Runs the float model with the error of one layer at a time."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._sums: dict[tuple[str, int], tuple[float, float]] = {}

    def add(self, name: str, error: Array, batch: Batch, wanted: Sequence[Any]) -> None:
        """Compare the outputs of one batch with and without an error."""
        if not error.any():
            return
        got = self._session.run({**batch.inputs, disturbance(name): error})
        for position, (y, z) in enumerate(zip(wanted, got, strict=True)):
            if isinstance(y, np.ndarray) and y.dtype.kind == "f" and y.shape == z.shape:
                near = similarity(y.reshape(1, -1), z.reshape(1, -1))
                signal, noise = self._sums.get((name, position), (0.0, 0.0))
                self._sums[name, position] = signal + near.signal, noise + near.noise

    def of(self, name: str) -> float:
        """Return the relative noise at the output where it is largest."""
        found = (sums for (layer, _), sums in self._sums.items() if layer == name)
        return max((_ratio(noise, signal) for signal, noise in found), default=0.0)


class _Group:
    """The float counterparts of some layers, side by side in one session."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = segments
        self._session: Session | None = None

    def run(
        self, cut: Cut, values: Mapping[str, Array], runtime: Runtime
    ) -> Iterator[tuple[Segment, Array, Array]]:
        """Yield each layer with what it makes, in float, of values of the quantized model.

        The second array is what it makes of them rounded to the grids it reads them with.
        """
        read = dict.fromkeys(name for segment in self._segments for name in segment.inputs)
        feed = {name: np.asarray(values[name]) for name in read}
        if self._session is None:
            types = {name: array.dtype for name, array in feed.items()}
            self._session = Session(cut.part(self._segments, types), runtime)
        made = self._session.run(feed)
        grids = {k: grid for s in self._segments for k, grid in s.input_grids.items() if k in feed}
        feed.update((name, grid.rounded(feed[name])) for name, grid in grids.items())
        rounded = self._session.run(feed) if grids else made
        yield from zip(self._segments, made, rounded, strict=True)


def _ratio(noise: float, signal: float) -> float:
    """Divide; no noise is nothing, any noise beside no signal infinite."""
    if noise == 0:
        return 0.0
    return noise / signal if signal else math.inf


def _noise(segment: Segment, *values: Any) -> Noise:
    """Compare one layer on one batch; elements that are not finite everywhere are left out."""
    arrays = [np.asarray(array) for array in values]
    shapes = [array.shape for array in arrays]
    if len(set(shapes)) > 1:
        raise ModelError(
            f"layer {segment.label!r} writes {segment.output!r} of shape {shapes[0]} in the float "
            f"model and {shapes[1]} in the quantized one: was it made from it?"
        )
    noise = _sums(segment, *arrays)
    if all(map(math.isfinite, astuple(noise))):
        return noise
    finite = np.logical_and.reduce([np.isfinite(array) for array in arrays])
    return _sums(segment, *(array[finite].astype(np.float64) for array in arrays))


def _sums(segment: Segment, y: Array, got: Array, alone: Array, rounded: Array) -> Noise:
    """Return the sums of squares of one batch: y, ŷ, f(x̂), and f of x̂ on the input grids."""
    with np.errstate(over="ignore", invalid="ignore"):
        on_grid = segment.grid.rounded(alone) if segment.grid is not None else alone
        return Noise(
            signal=_power(y),
            total=_power(got - y),
            carried=_power(alone - y),
            added=_power(got - alone),
            inputs=_power(rounded - alone) if rounded is not alone else 0.0,
            grid=_power(on_grid - alone),
        )


def _power(values: Array) -> float:
    """Return the sum of squares."""
    flat = values.reshape(-1)
    return float(np.dot(flat, flat))
