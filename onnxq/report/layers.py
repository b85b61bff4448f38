"""Layers and the error they add: lines, plain values, and what to try."""

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from onnxq.layers import Layer
from onnxq.numerics.tiles import is_blocked
from onnxq.plan import Plan
from onnxq.report.values import number

NAMED = 3  # layers a warning names


def layer_lines(layers: Sequence[Layer], top: int) -> Iterator[str]:
    """Yield the worst layers, a line each: the name comes last, however long it is."""
    harmless = sum(1 for layer in layers if layer.noise.added == 0)
    shown = layers[:top]
    yield f"layers by the error they add: {len(shown)} of {len(layers)}; {harmless} add none"
    yield "  effect   added carried   total  input weights output  layer"
    for layer in shown:
        levels = (layer.effect_sqnr, layer.added_sqnr, layer.carried_sqnr, layer.sqnr)
        numbers = " ".join(f"{db:7.1f}" for db in levels)
        inputs, weights, output = (100 * share for share in layer.shares.values())
        shares = f"{inputs:4.0f} % {weights:5.0f} % {output:4.0f} %"
        yield f" {numbers} {shares}  {layer.op} {layer.name}"
    yield "SQNR in dB. effect: of the outputs, if only this layer added an error."
    yield "added, carried, total: of what the layer writes; total is both together."
    yield "input, weights, output: what makes the added error: ranges of its input, weights and"
    yield "bias, range of its output."


def layer_dicts(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """Return all layers as plain values, in their order."""
    return [
        {
            "name": layer.name,
            "op": layer.op,
            "output": layer.output,
            "effect_db": number(layer.effect_sqnr),
            "added_db": number(layer.added_sqnr),
            "carried_db": number(layer.carried_sqnr),
            "sqnr_db": number(layer.sqnr),
            "added_by": layer.shares,
        }
        for layer in layers
    ]


def advice(layers: Sequence[Layer], plan: Plan) -> Iterator[str]:
    """Yield the worst layers and the flags that may help.

    Args:
        layers: Worst first.
        plan: How the model was quantized; what it already does is not advised.
    """
    worst = [layer for layer in layers[:NAMED] if layer.noise.added > 0]
    flags = list(_flags(worst, plan))
    if worst:
        named = ", ".join(f"{layer.name} ({_cause(layer)})" for layer in worst)
        yield f"the layers that add most of the error: {named}"
        names = "|".join(re.escape(layer.name) for layer in worst)
        flags.append("--exclude " + shlex.quote(f"^({names})$"))
    yield f"try: {', or '.join([*flags, 'more calibration samples'])}"


def _flags(worst: Sequence[Layer], plan: Plan) -> Iterator[str]:
    """Yield flags that change ranges and granularity."""
    weights = [weight.spec for node in plan.nodes.values() for weight in node.weights]
    by_weights = sum(layer.shares["weights"] for layer in worst) > len(worst) / 2
    if not any(spec.tile for spec in weights):
        yield "--per-channel"
    alone = all(node.weight_only for node in plan.nodes.values() if node.quantized)
    able = plan.target.blocks == "any" or (plan.target.blocks == "float" and alone)
    cut = any(spec.matrix is not None or is_blocked(spec.tile) for spec in weights)
    if by_weights and able and not cut:
        yield "--weight-granularity block:32"
    if by_weights and not plan.recipe.reconstruct:
        yield "--reconstruct"
    if by_weights and all(spec.range.name != "mse" for spec in weights):
        yield "--weight-range mse"
    used = {activation.spec.range.name for activation in plan.activations.values()}
    if used and not by_weights:
        others = [name for name in ("mse", "percentile", "minmax") if name not in used]
        yield from (f"--range {name}" for name in others[:1])


def _cause(layer: Layer) -> str:
    """Say what of a layer adds its error, and what the error is worth."""
    words = {"inputs": "range of its input", "weights": "weights", "output": "range of its output"}
    cause = max(layer.shares, key=lambda part: layer.shares[part])
    return f"{words[cause]}; alone {layer.effect_sqnr:.1f} dB"
