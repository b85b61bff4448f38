"""Fold BatchNormalization into the Conv, ConvTranspose or Gemm before it.

Before:
    c = Conv(x, W, b)
    y = BatchNormalization(c, γ, β, μ, σ²)

After:
    y = Conv(x, W', b')     W' = W·γ/√(σ² + ε), b' = (b − μ)·γ/√(σ² + ε) + β

Refused: (1) the layer's output has other readers, or is a graph output; (2) weights or
statistics are not constant; (3) the layer's output channels are not one axis of its weights
(grouped ConvTranspose), or its form does more than multiply and add (Gemm with α, β ≠ 1);
(4) the BatchNormalization is in training form, or has statistics for every position
(``spatial = 0`` before opset 9). Weights shared with another layer are copied under a new name,
so that the other layer keeps its own.
"""

import onnx_graphsurgeon as gs

from onnxq.graph.edit import Names, set_inputs
from onnxq.graph.io import Model, array_of, constant
from onnxq.graph.query import is_standard, label, output_channel_axis
from onnxq.numerics.fold import batchnorm_affine, fold_affine
from onnxq.passes import PassReport

LINEAR = ("Conv", "ConvTranspose", "Gemm")


def fold_batchnorm(model: Model) -> PassReport:
    """Apply the pass; the folded layer's output takes the BatchNormalization's output name."""
    changed, skipped = [], []
    outputs = {tensor.name for tensor in model.graph.outputs}
    names = Names(model)
    for norm in [n for n in model.graph.nodes if n.op == "BatchNormalization" and is_standard(n)]:
        producers = norm.inputs[0].inputs
        if len(producers) != 1 or producers[0].op not in LINEAR or not is_standard(producers[0]):
            skipped.append((label(norm), "no Conv, ConvTranspose or Gemm comes before it"))
            continue
        reason = _refuse(producers[0], norm, outputs)
        if reason:
            skipped.append((label(norm), reason))
        else:
            changed.append(label(norm))
            _fold(model, names, producers[0], norm)
    return PassReport(name="fold_batchnorm", changed=tuple(changed), skipped=tuple(skipped))


def _refuse(layer: gs.Node, norm: gs.Node, outputs: set[str]) -> str:
    """Return why a pair cannot be folded, or nothing."""
    middle = layer.outputs[0]
    if len(middle.outputs) != 1 or middle.name in outputs:
        return "the layer's output has other readers"  # case 1
    constants = [layer.inputs[1], *_bias(layer), *norm.inputs[1:]]
    if not all(isinstance(tensor, gs.Constant) for tensor in constants):
        return "weights or statistics are not constant"  # case 2
    weight = array_of(layer.inputs[1])
    if output_channel_axis(layer, 1, weight.ndim) is None:
        return "its weights are grouped along the output channels"  # case 3
    scaled = [layer.attrs.get(key, 1.0) for key in ("alpha", "beta")] != [1.0, 1.0]
    if scaled or any(array_of(bias).ndim != 1 for bias in _bias(layer)):
        return "the Gemm scales by alpha or beta, or its bias is no vector"  # case 3
    trains = len(norm.outputs) != 1 or norm.attrs.get("training_mode", 0)
    if trains or not norm.attrs.get("spatial", 1):
        return "it is in training form, or has statistics for every position"  # case 4
    return ""


def _bias(layer: gs.Node) -> list[gs.Tensor]:
    """Return the bias of a layer, or nothing if it has none."""
    return [tensor for tensor in layer.inputs[2:3] if tensor.name]


def _fold(model: Model, names: Names, layer: gs.Node, norm: gs.Node) -> None:
    """Replace the pair by the layer with folded weights."""
    weight = array_of(layer.inputs[1])
    bias = next((array_of(tensor) for tensor in _bias(layer)), None)
    gamma, beta, mean, variance = (array_of(tensor) for tensor in norm.inputs[1:5])
    epsilon = norm.attrs.get("epsilon", 1e-5)
    scale, shift = batchnorm_affine(gamma, beta, mean, variance, epsilon)
    axis = output_channel_axis(layer, 1, weight.ndim)
    assert axis is not None
    folded, shifted = fold_affine(weight, bias, scale, shift, axis)
    stem = norm.outputs[0].name
    new_weight = constant(names.new(f"{stem}.weight"), folded)
    new_bias = constant(names.new(f"{stem}.bias"), shifted)
    set_inputs(layer, [layer.inputs[0], new_weight, new_bias])
    result = norm.outputs[0]
    norm.outputs.clear()
    norm.inputs.clear()
    layer.outputs[0] = result
    model.graph.nodes.remove(norm)
