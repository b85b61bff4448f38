"""Correct biases by what the quantized model gets wrong on average.

The model is emitted and cut behind every layer with a bias; the pieces run one after the other on
all samples. What a layer writes is compared with what it writes in the float model, the mean error
of each channel, as far as it is more than chance, goes into its bias and the values handed on::

    … ─ Q ─ DQ ─ Conv ─ ŷ ─┊─ ŷ + E[y] − E[ŷ] ─ Relu ─ Q ─ DQ ─ Conv ─ ŷ ─┊─ …

So every layer is measured with the corrections of all layers before it in place, although every
piece runs once: one run of the float model and one of the quantized, in float on its grids.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxq.emit.biases import fit_biases
from onnxq.emit.qdq import emit_qdq, required_opset
from onnxq.feeds import Batch
from onnxq.graph.chain import Chain
from onnxq.graph.edit import Names
from onnxq.graph.io import Constant, Model, Node, array_of, constant, copied, sync
from onnxq.graph.opset import raise_opset
from onnxq.graph.session import Runtime, values_of
from onnxq.numerics.bias import channel_means, likely_shift, shifted
from onnxq.plan import Plan
from onnxq.reconstruction import Used, with_rounded
from onnxq.types import Array

log = logging.getLogger(__name__)

WEIGHTED = ("Conv", "ConvTranspose", "Gemm")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A quantized layer with a bias.

    Attributes:
        output: The tensor behind the bias: of the layer, or of the Add that follows it.
        index: Which input of the node that writes it the bias is.
        axis: Which axis of the output counts the channels.
    """

    output: str
    index: int
    axis: int


def correct_empirically(
    model: Model,
    plan: Plan,
    used: Used,
    samples: Iterable[Batch],
    runtime: Runtime,
) -> int:
    """Replace the biases of quantized layers, in place.

    Args:
        model: The prepared model the plan was made for.
        plan: What becomes of every node and tensor.
        used: What it computes with once it is quantized.
        samples: Inputs to measure on.
        runtime: How to run the model.

    Returns:
        How many biases were corrected.

    Raises:
        ModelError: A piece of the quantized model cannot run.

    Source:
        Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
        2019, appendix D (empirical bias correction): layer by layer in the order of the graph.
        Differs: what a layer writes is corrected as it is handed on instead of running it again,
        and means over few samples are shrunk.
    """
    layers, feeds = layers_of(model, plan), [batch.inputs for batch in samples]
    if not layers or not feeds:
        return 0
    wanted = _float_means(model, layers, feeds, runtime)
    quantized, written = _emitted(model, plan, used, layers)
    shifts = _shifts(quantized, written, wanted, feeds, runtime)
    _apply(model, layers, shifts)
    return len(shifts)


def _apply(model: Model, layers: Sequence[Layer], shifts: Mapping[str, Array]) -> None:
    """Add to the bias of each layer what its output lacks."""
    names, nodes = Names(model), {n.outputs[0].name: n for n in model.graph.nodes if n.outputs}
    for layer in layers:
        if (shift := shifts.get(layer.output)) is not None:
            node = nodes[layer.output]
            bias = node.inputs[layer.index]
            before = array_of(bias)
            values = (before + shift.reshape(before.shape)).astype(before.dtype)
            node.inputs[layer.index] = constant(names.new(f"{bias.name}_corrected"), values)


def layers_of(model: Model, plan: Plan) -> list[Layer]:
    """Return the layers whose biases can be corrected, in the order of the graph.

    They are quantized Conv, ConvTranspose and Gemm with a bias, and quantized MatMul followed by
    nothing but a float Add of a constant, one value a channel.
    """
    found = []
    for node in model.graph.nodes:
        planned = plan.nodes.get(node.outputs[0].name) if node.outputs else None
        if planned is None or not planned.quantized:
            continue
        weighted = [w.index for w in planned.weights] == [1]
        if weighted and node.op in WEIGHTED and _has_bias(node):
            axis = -1 if node.op == "Gemm" else 1
            found.append(Layer(output=planned.output, index=2, axis=axis))
        elif weighted and node.op == "MatMul":
            found += _added(node, plan)
    return found


def _has_bias(node: Node) -> bool:
    """Say whether a layer adds a constant of one value a channel as it is."""
    if len(node.inputs) < 3 or not isinstance(node.inputs[2], Constant):
        return False
    return len(node.inputs[2].shape) == 1 and node.attrs.get("beta", 1.0) == 1.0


def _added(node: Node, plan: Plan) -> list[Layer]:
    """Return the Add that is the bias of a MatMul, if there is one that stays float."""
    tensor = node.outputs[0]
    behind = tensor.outputs[0] if len(tensor.outputs) == 1 else None
    width = node.inputs[1].shape[-1]
    if behind is None or behind.op != "Add" or plan.nodes[behind.outputs[0].name].quantized:
        return []
    for index, tensor in enumerate(behind.inputs):
        vector = isinstance(tensor, Constant) and list(tensor.shape) == [width]
        if vector and len(node.inputs[1].shape) > 1:
            return [Layer(output=behind.outputs[0].name, index=index, axis=-1)]
    return []


def _float_means(
    model: Model,
    layers: Sequence[Layer],
    feeds: Sequence[Mapping[str, Array]],
    runtime: Runtime,
) -> dict[str, Array]:
    """Return what each layer writes in the float model, means by sample and channel, ``(n, C)``."""
    found: dict[str, list[Array]] = {layer.output: [] for layer in layers}
    for values in values_of(model, found, feeds, runtime):
        for layer in layers:
            found[layer.output].append(channel_means(values[layer.output], layer.axis))
    return {output: np.stack(means) for output, means in found.items()}


def _emitted(
    model: Model,
    plan: Plan,
    used: Used,
    layers: Sequence[Layer],
) -> tuple[Model, dict[str, Layer]]:
    """Emit a copy of the model, pairs of Q and DQ in any case.

    Returns:
        The copy, and the layers by what it calls their outputs.
    """
    plan = replace(plan, recipe=replace(plan.recipe, qdq=None))
    copy = raise_opset(copied(model), required_opset(plan)[0])
    with_rounded(copy, used.rounded)
    nodes = {node.outputs[0].name: node for node in copy.graph.nodes if node.outputs}
    fitted = fit_biases(copy, plan, used.activations, used.weights)
    emit_qdq(copy, plan, used.activations, fitted)
    return copy, {nodes[layer.output].outputs[0].name: layer for layer in layers}


def _shifts(
    quantized: Model,
    written: Mapping[str, Layer],
    wanted: Mapping[str, Array],
    feeds: Sequence[Mapping[str, Array]],
    runtime: Runtime,
) -> dict[str, Array]:
    """Return what the output of each layer lacks on average, all before it corrected, ``(C,)``."""
    plain = replace(runtime, fuse=False, arena=False)  # what a kernel holds cannot be looked at
    chain = Chain(sync(quantized), quantized.path.parent, plain, behind=written)
    states: list[dict[str, Any]] = [dict(feed) for feed in feeds]
    found: dict[str, Array] = {}
    for index, piece in enumerate(chain.pieces):
        states = [chain.run(state, index, index + 1) for state in states]
        chain.forget(index)
        for name in written.keys() & set(piece.writes):
            layer = written[name]
            means = [channel_means(state[name], layer.axis) for state in states]
            found[layer.output] = shift = likely_shift(wanted[layer.output] - np.stack(means))
            for state in states:
                state[name] = shifted(state[name], shift, layer.axis)
    return found
