"""Fold BatchNormalization into the Conv, ConvTranspose or Gemm before or behind it.

Before:
    c = Conv(x, W, b)
    y = BatchNormalization(c, γ, β, μ, σ²)

After:
    y = Conv(x, W·s, b·s + t)        s = γ/√(σ² + ε), t = β − μ·s, one value an output channel

Before:
    n = BatchNormalization(x, γ, β, μ, σ²)
    y = Conv(n, W, b)

After:
    y = Conv(x, W·s, b + Σ W·t)      one s and t an input channel

The layer before is taken where both would do. Refused: (1) something else reads the tensor between
the two, or it is a graph output; (2) weights or statistics are not constant; (3) the layer's output
channels are not one axis of its weights (a grouped ConvTranspose before), or its form does more
than multiply and add (Gemm with α, β ≠ 1 or a transposed input); (4) the BatchNormalization is in
training form, or has statistics for every position (``spatial = 0`` before opset 9); (5) another
layer has the same weights: two that differ would take their place; (6) in front of a layer t is
not 0, and not every output position sums it over all weights: a Conv that pads, since zeros are
put in behind the normalization, or a ConvTranspose that does more than mix channels; (7) the
layer behind is in a subgraph.
"""

import onnx_graphsurgeon as gs

from onnxq.graph.edit import Names, set_inputs
from onnxq.graph.io import Model, array_of, constant
from onnxq.graph.query import is_standard, label, output_channel_axis
from onnxq.numerics.fold import batchnorm_affine, fold_affine, fold_affine_before
from onnxq.passes import PassReport
from onnxq.types import Array

LINEAR = ("Conv", "ConvTranspose", "Gemm")


def fold_batchnorm(model: Model) -> PassReport:
    """Apply the pass until nothing changes, since one normalization may stand behind another."""
    outputs = {tensor.name for tensor in model.graph.outputs}
    names = Names(model)
    changed: list[str] = []
    while True:
        skipped, done = [], len(changed)
        for norm in [n for n in model.graph.nodes if n.op == "BatchNormalization"]:
            if not is_standard(norm):
                continue
            name, reason = label(norm), _fold(model, names, norm, outputs)
            if reason:
                skipped.append((name, reason))
            else:
                changed.append(name)
        if len(changed) == done:
            return PassReport(name="fold_batchnorm", changed=tuple(changed), skipped=tuple(skipped))


def _fold(model: Model, names: Names, norm: gs.Node, outputs: set[str]) -> str:
    """Fold one normalization, or return why not."""
    before, behind = _layer(norm.inputs[0].inputs), _layer(norm.outputs[0].outputs)
    reasons = []
    if before:
        reasons.append(_refuse_before(before, norm, outputs))
        if not reasons[-1]:
            _fold_before(model, names, before, norm)
            return ""
    if behind:
        reasons.append(_refuse_behind(norm, behind, model, outputs))
        if not reasons[-1]:
            _fold_behind(model, names, norm, behind)
            return ""
    nothing = "no Conv, ConvTranspose or Gemm comes before it or reads it"
    return "; ".join(dict.fromkeys(reasons)) or nothing


def _layer(nodes: list[gs.Node]) -> gs.Node | None:
    """Return the first layer to fold into among the nodes at one end of a normalization."""
    return next((node for node in nodes if node.op in LINEAR and is_standard(node)), None)


def _refuse_before(layer: gs.Node, norm: gs.Node, outputs: set[str]) -> str:
    """Return why a normalization cannot go into the layer before it, or nothing."""
    middle = layer.outputs[0]
    if len(middle.outputs) != 1 or middle.name in outputs:
        return "the layer's output has other readers"  # case 1
    reason = _refuse_pair(layer, norm)
    if reason:
        return reason
    if output_channel_axis(layer, 1, array_of(layer.inputs[1]).ndim) is None:
        return "its weights are grouped along the output channels"  # case 3
    return ""


def _refuse_behind(norm: gs.Node, layer: gs.Node, model: Model, outputs: set[str]) -> str:
    """Return why a normalization cannot go into the layer that reads it, or nothing."""
    middle = norm.outputs[0]
    if len(middle.outputs) != 1 or middle.name in outputs:
        return "not only the layer behind it reads it"  # case 1
    if not any(layer is node for node in model.graph.nodes):
        return "the layer behind it is in a subgraph"  # case 7
    reason = _refuse_pair(layer, norm)
    if reason:
        return reason
    if layer.attrs.get("transA", 0):
        return "the Gemm behind it transposes its input"  # case 3
    if _affine(norm)[1].any() and not _sums_all(layer):
        return "what it adds does not reach every output position alike"  # case 6
    return ""


def _refuse_pair(layer: gs.Node, norm: gs.Node) -> str:
    """Return why a layer and a normalization cannot be joined at either end, or nothing."""
    constants = [layer.inputs[1], *_bias(layer), *norm.inputs[1:]]
    if not all(isinstance(tensor, gs.Constant) for tensor in constants):
        return "weights or statistics are not constant"  # case 2
    scaled = [layer.attrs.get(key, 1.0) for key in ("alpha", "beta")] != [1.0, 1.0]
    if scaled or any(array_of(bias).ndim != 1 for bias in _bias(layer)):
        return "the Gemm scales by alpha or beta, or its bias is no vector"  # case 3
    trains = len(norm.outputs) != 1 or norm.attrs.get("training_mode", 0)
    if trains or not norm.attrs.get("spatial", 1):
        return "it is in training form, or has statistics for every position"  # case 4
    if len(layer.inputs[1].outputs) != 1:
        return "another layer has the same weights"  # case 5
    return ""


def _sums_all(layer: gs.Node) -> bool:
    """Say whether every output position is a sum over all weights of its channel."""
    if layer.op == "Gemm":
        return True
    if layer.op == "ConvTranspose":
        one = set(array_of(layer.inputs[1]).shape[2:]) | set(layer.attrs.get("strides", [1])) == {1}
        return one and not any(layer.attrs.get(k) for k in ("output_padding", "output_shape"))
    padded = any(layer.attrs.get("pads") or [])
    return not padded and layer.attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")


def _bias(layer: gs.Node) -> list[gs.Tensor]:
    """Return the bias of a layer, or nothing if it has none."""
    return [tensor for tensor in layer.inputs[2:3] if tensor.name]


def _affine(norm: gs.Node) -> tuple[Array, Array]:
    """Return what a normalization multiplies by and what it adds, one value a channel."""
    gamma, beta, mean, variance = (array_of(tensor) for tensor in norm.inputs[1:5])
    return batchnorm_affine(gamma, beta, mean, variance, norm.attrs.get("epsilon", 1e-5))


def _values(layer: gs.Node) -> tuple[Array, Array | None]:
    """Return weights and bias of a layer."""
    bias = next((array_of(tensor) for tensor in _bias(layer)), None)
    return array_of(layer.inputs[1]), bias


def _fold_before(model: Model, names: Names, layer: gs.Node, norm: gs.Node) -> None:
    """Give the layer before a normalization new weights, and the normalization's output."""
    weight, bias = _values(layer)
    axis = output_channel_axis(layer, 1, weight.ndim)
    assert axis is not None
    result = norm.outputs[0]
    folded = fold_affine(weight, bias, *_affine(norm), axis)
    _set_weights(names, layer, layer.inputs[0], folded, result.name)
    _remove(model, norm)
    layer.outputs[0] = result


def _fold_behind(model: Model, names: Names, norm: gs.Node, layer: gs.Node) -> None:
    """Give the layer behind a normalization new weights, and the normalization's input."""
    weight, bias = _values(layer)
    axis = 1 if layer.op == "Conv" or layer.attrs.get("transB", 0) else 0
    groups = layer.attrs.get("group", 1)
    folded = fold_affine_before(weight, bias, *_affine(norm), axis, groups)
    _set_weights(names, layer, norm.inputs[0], folded, layer.outputs[0].name)
    _remove(model, norm)


def _remove(model: Model, norm: gs.Node) -> None:
    """Take a normalization out of the graph."""
    norm.outputs.clear()
    norm.inputs.clear()
    model.graph.nodes.remove(norm)


def _set_weights(
    names: Names, layer: gs.Node, read: gs.Tensor, folded: tuple[Array, Array], stem: str
) -> None:
    """Let a layer read a tensor, with new weights and a new bias."""
    weight, bias = folded
    new_weight = constant(names.new(f"{stem}.weight"), weight)
    set_inputs(layer, [read, new_weight, constant(names.new(f"{stem}.bias"), bias)])
