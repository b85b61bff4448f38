"""Correct biases for the mean error that quantization adds to each layer.

For every quantized Conv, and Gemm with the weights transposed, the bias takes up
``E[W x] − E[Ŵ x̂]``, measured on the calibration samples the table keeps. It costs one run of the
float model on them and nothing at run time.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from onnxq.feeds import Batch
from onnxq.graph.edit import Names
from onnxq.graph.io import Constant, Model, Node, array_of, constant
from onnxq.graph.session import Runtime, values_of
from onnxq.numerics.affine import fake_quantize
from onnxq.numerics.bias import channel_means, mean_shift
from onnxq.plan import Plan
from onnxq.reconstruction import Used
from onnxq.types import Array, QuantParams


def correct_biases(
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
    """
    means = input_means(model, plan, used.activations, samples, runtime)
    names = Names(model)
    for node in model.graph.nodes:
        output = node.outputs[0].name if node.outputs else ""
        if output in means:
            weight, bias = array_of(node.inputs[1]), node.inputs[2]
            after = used.weight((output, 1), weight)
            values = corrected(node, array_of(bias), weight, after, means[output])
            node.inputs[2] = constant(names.new(f"{bias.name}_corrected"), values)
    return len(means)


def input_means(
    model: Model,
    plan: Plan,
    activations: Mapping[str, QuantParams],
    samples: Iterable[Batch],
    runtime: Runtime,
) -> dict[str, tuple[Array, Array]]:
    """Return the channel means of what layers read, before and after quantizing it, ``(C,)`` both.

    Args:
        model: The prepared model the plan was made for.
        plan: What becomes of every node and tensor.
        activations: Parameters by tensor name.
        samples: Inputs to measure on.
        runtime: How to run the model.

    Returns:
        By first output of each layer whose bias can be corrected.
    """
    layers = [node for node in model.graph.nodes if node.outputs and _correctable(node, plan)]
    read = {node.inputs[0].name: activations.get(node.inputs[0].name) for node in layers}
    floats = {n.inputs[0].name for n in layers if plan.nodes[n.outputs[0].name].weight_only}
    inputs = {name: used for name, used in read.items() if used is not None or name in floats}
    means = _means(model, inputs, samples, runtime)
    found = {node.outputs[0].name: means.get(node.inputs[0].name) for node in layers}
    return {output: both for output, both in found.items() if both is not None}


def corrected(
    node: Node, bias: Array, weight: Array, used: Array, means: tuple[Array, Array]
) -> Array:
    """Return the bias of a layer that takes up its mean error.

    Args:
        node: The layer.
        bias: Its own.
        weight: Its weights.
        used: The same after quantizing and dequantizing.
        means: Of `input_means`.
    """
    shift = mean_shift(weight, used, *means, node.attrs.get("group", 1))
    values: Array = (bias + shift).astype(bias.dtype)
    return values


def _correctable(node: Node, plan: Plan) -> bool:
    """Say whether a node is a quantized layer with its output channels first and a bias."""
    planned = plan.nodes.get(node.outputs[0].name)
    if planned is None or not planned.quantized or [w.index for w in planned.weights] != [1]:
        return False
    first = node.op == "Conv" or (node.op == "Gemm" and node.attrs.get("transB", 0))
    return bool(first and len(node.inputs) > 2 and isinstance(node.inputs[2], Constant))


def _means(
    model: Model,
    activations: Mapping[str, QuantParams | None],
    samples: Iterable[Batch],
    runtime: Runtime,
) -> dict[str, tuple[Array, Array]]:
    """Return the channel means of tensors before and after quantizing, if so, each ``(C,)``."""
    sums: dict[str, list[Array]] = {}
    feeds = (batch.inputs for batch in samples)
    for values in values_of(model, activations, feeds, runtime):
        for name, params in activations.items():
            after = values[name] if params is None else fake_quantize(values[name], params)
            both = [channel_means(x) for x in (values[name], after)]
            sums.setdefault(name, []).append(np.stack(both))
    return {name: tuple(np.mean(found, axis=0)) for name, found in sums.items()}
