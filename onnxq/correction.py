"""Correct biases for the mean error that quantization adds to each layer.

For every quantized Conv, and Gemm with the weights transposed, the bias takes up
``E[W x] − E[Ŵ x̂]``, measured on the calibration samples the table keeps. It costs one run of the
float model on them and nothing at run time.
"""

from collections.abc import Iterable, Mapping, Sequence

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
    read = corrected_inputs(model, plan, activations)
    wanted = {name: [activations.get(name)] for name in read.values()}
    means = means_of(model, wanted, samples, runtime)
    return {output: means[name][0] for output, name in read.items() if name in means}


def corrected_inputs(
    model: Model, plan: Plan, activations: Mapping[str, QuantParams]
) -> dict[str, str]:
    """Return what each layer whose bias can be corrected reads, by its first output.

    Args:
        model: The prepared model the plan was made for.
        plan: What becomes of every node and tensor.
        activations: Parameters by tensor name.
    """
    layers = [node for node in model.graph.nodes if node.outputs and _correctable(node, plan)]
    read = {node.outputs[0].name: node.inputs[0].name for node in layers}
    return {
        output: name
        for output, name in read.items()
        if name in activations or plan.nodes[output].weight_only
    }


def means_of(
    model: Model,
    wanted: Mapping[str, Sequence[QuantParams | None]],
    samples: Iterable[Batch],
    runtime: Runtime,
) -> dict[str, list[tuple[Array, Array]]]:
    """Return channel means of tensors before and after quantizing them, each ``(C,)``.

    Args:
        model: The prepared model.
        wanted: By tensor, the ways to quantize it; None leaves it as it is.
        samples: Inputs to measure on; without any nothing is returned.
        runtime: How to run the model.
    """
    sums: dict[str, list[Array]] = {}
    feeds = (batch.inputs for batch in samples)
    for values in values_of(model, wanted, feeds, runtime):
        for name, ways in wanted.items():
            before = values[name]
            after = [before if way is None else fake_quantize(before, way) for way in ways]
            means = [channel_means(x) for x in (before, *after)]
            sums.setdefault(name, []).append(np.stack(means))
    found = {name: np.mean(each, axis=0) for name, each in sums.items()}
    return {name: [(each[0], after) for after in each[1:]] for name, each in found.items()}


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
