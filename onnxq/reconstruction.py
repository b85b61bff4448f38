"""Round the weights of one layer after the other, in the order of the graph.

The float model and the one with the weights rounded so far run side by side, in pieces, on the same
samples: each layer is shown what it will really read, and makes up for what the layers before it
did. What it reads is rounded to its grid, if it has one.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxq.feeds import Batch
from onnxq.graph.chain import Chain
from onnxq.graph.edit import Names
from onnxq.graph.io import Model, Node, array_of, constant, copied, sync
from onnxq.graph.matrices import matrix_view
from onnxq.graph.session import Runtime
from onnxq.graph.unfold import CONVOLUTIONS, row_reader
from onnxq.numerics.affine import fake_quantize
from onnxq.numerics.matrices import matrices, restored
from onnxq.numerics.rounding import Codes, output_error, reconstructed
from onnxq.numerics.tiles import expand
from onnxq.plan import Key, Plan
from onnxq.types import Array, MatrixView, QuantParams

log = logging.getLogger(__name__)

Values = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer whose weights are rounded.

    Attributes:
        key: Of its weight.
        node: Of the float model.
        weight: What the model with rounded weights calls its weight.
        view: The matrices of the weight.
        params: Their grid.
        grid: That of what it reads; None where it reads floats.
    """

    key: Key
    node: Node
    weight: str
    view: MatrixView
    params: QuantParams
    grid: QuantParams | None

    @property
    def read(self) -> str:
        """Name of the tensor the weights are multiplied with."""
        name: str = self.node.inputs[1 - self.key[1]].name
        return name


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """The weights of a layer, rounded.

    Attributes:
        values: What their codes stand for, float32, shape of the weight.
        before: Squared error of what the layer writes, with the nearest codes, over the square of
            what it shall write.
        after: The same with these.
    """

    values: Array
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class Used:
    """What a quantized model computes with.

    Attributes:
        activations: Parameters by tensor name.
        weights: Parameters by first output of the node and input index.
        rounded: Weights that are not rounded to the nearest codes, likewise.
    """

    activations: Mapping[str, QuantParams]
    weights: Mapping[Key, QuantParams]
    rounded: Mapping[Key, Rounded] = field(default_factory=dict)

    def weight(self, key: Key, exact: Array) -> Array:
        """Return a weight after quantizing and dequantizing."""
        if key in self.rounded:
            return self.rounded[key].values
        return fake_quantize(exact, self.weights[key])


def rounded_weights(
    model: Model,
    plan: Plan,
    params: Used,
    samples: Iterable[Batch],
    runtime: Runtime,
) -> dict[Key, Rounded]:
    """Round the weights of all layers with one matrix, or one a group.

    Memory: what two runs hand on at one place of the model, for all samples, and the products of
    the inputs of one layer.

    Args:
        model: The prepared model the plan was made for; it is left alone.
        plan: What becomes of every node and tensor.
        params: Of activations and weights.
        samples: Inputs to measure on.
        runtime: How to run the model.

    Raises:
        ModelError: A piece of the model cannot run.
    """
    used = copied(model)
    layers = _layers(model, used, plan, params)
    read = {layer.read for layer in layers}
    chains = [Chain(sync(each), each.path.parent, runtime, behind=read) for each in (model, used)]
    states: list[list[Values]] = [[batch.inputs for batch in samples]] * 2
    found: dict[Key, Rounded] = {}
    for index, piece in enumerate(chains[1].pieces):
        made = {name for node in piece.nodes for name in node.output}
        for layer in layers:
            if layer.key[0] in made:
                one = found[layer.key] = _rounded(layer, model, states, runtime)
                chains[1].keep({layer.weight: one.values}, {})
        for side, chain in enumerate(chains):
            states[side] = [chain.run(state, index, index + 1) for state in states[side]]
            chain.forget(index)
    return found


def with_rounded(model: Model, rounded: Mapping[Key, Rounded]) -> None:
    """Give a model its rounded weights, in place; a node that shares its weight gets its own."""
    names, nodes = Names(model), {n.outputs[0].name: n for n in model.graph.nodes if n.outputs}
    for (output, index), each in rounded.items():
        node = nodes[output]
        name = names.new(f"{node.inputs[index].name}_rounded")
        node.inputs[index] = constant(name, each.values)


def _layers(model: Model, used: Model, plan: Plan, all_params: Used) -> list[Layer]:
    """Return the layers in the order of the graph; each gets a weight of its own in the copy."""
    names, copies = Names(used), {n.outputs[0].name: n for n in used.graph.nodes if n.outputs}
    found = []
    for node in model.graph.nodes:
        for index in (0, 1):
            key = (node.outputs[0].name if node.outputs else "", index)
            if key not in all_params.weights or plan.target.ops[node.op].role != "compute":
                continue
            params, weight = all_params.weights[key], node.inputs[index]
            view = params.matrix or matrix_view(node, index, tuple(weight.shape))
            if node.op not in CONVOLUTIONS and view.shape[0] > 1:
                log.info("%s: a stack of matrices is rounded to the nearest codes", key[0])
                continue
            name = names.new(f"{weight.name}_rounded")
            copies[key[0]].inputs[index] = constant(name, array_of(weight))
            alone = plan.nodes[key[0]].weight_only
            read = node.inputs[1 - index].name
            grid = None if alone else all_params.activations.get(read)
            found.append(
                Layer(key=key, node=node, weight=name, view=view, params=params, grid=grid)
            )
    return found


def _rounded(
    layer: Layer, model: Model, states: Sequence[Sequence[Values]], runtime: Runtime
) -> Rounded:
    """Round the weights of one layer on what both models hand on to it."""
    weight = array_of(layer.node.inputs[layer.key[1]])
    stack = matrices(weight, layer.view).astype(np.float64)
    gram, wanted, power = _products(layer, stack, model, states, runtime)
    grid = _grid(layer, weight.shape)
    values = reconstructed(stack, gram, wanted, grid)
    errors = [output_error(each, gram, wanted).sum() for each in (grid.rounded(stack), values)]
    before, after = (float(power + error) / power if power else 0.0 for error in errors)
    whole = restored(values, layer.view, weight.shape).astype(np.float32)
    return Rounded(values=whole, before=before, after=after)


def _products(
    layer: Layer,
    stack: Array,
    model: Model,
    states: Sequence[Sequence[Values]],
    runtime: Runtime,
) -> tuple[Array, Array, float]:
    """Return ``Σ x̂ x̂ᵀ``, ``Σ x̂ xᵀ W`` and ``Σ |Wᵀ x|²`` of what a layer reads."""
    index, (groups, rows, _) = layer.key[1], layer.view.shape
    rows_of = row_reader(model, layer.node, index, layer.view, runtime)
    gram, wanted, power = np.zeros((groups, rows, rows)), np.zeros(stack.shape), 0.0
    for exact, used in zip(*states, strict=True):
        values = used[layer.read]
        values = fake_quantize(values, layer.grid) if layer.grid is not None else values
        made, real = rows_of(values), rows_of(exact[layer.read])
        outputs = stack.astype(np.float32).transpose(0, 2, 1) @ real
        gram += made @ made.transpose(0, 2, 1)
        wanted += made @ outputs.transpose(0, 2, 1)
        power += float(np.vdot(outputs, outputs))
    return gram, wanted, power


def _grid(layer: Layer, shape: tuple[int, ...]) -> Codes:
    """Return the grid of every weight of a layer, as matrices."""
    params, seen = layer.params, shape if layer.params.matrix is None else layer.view.shape

    def spread(values: Array) -> Array:
        """Give every weight its value."""
        wide = np.broadcast_to(expand(values, seen, params.tile), seen)
        stack = wide if params.matrix is not None else matrices(wide, layer.view)
        return stack.astype(np.float64)

    ends = params.dtype.qmin, params.dtype.qmax
    return Codes(scale=spread(params.scale), zero_point=spread(params.zero_point), ends=ends)
