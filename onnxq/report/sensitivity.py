"""Which layers matter and what they cost, for people and for machines."""

from collections.abc import Iterator
from typing import Any

from onnxq.report.layers import layer_dicts
from onnxq.report.lifting import measured_dict
from onnxq.report.values import compact, number
from onnxq.search.sensitivity import Sensitive, Sensitivity


def sensitivity_lines(found: Sensitivity) -> Iterator[str]:
    """Yield the layers, a line each, most effect first: the name comes last."""
    inside, total = found.macs
    share = f"{100 * inside / total:.1f} % of {total / 1e6:.1f} million" if total else "none"
    yield f"{len(found.layers)} layers on {found.plan.target.name}"
    yield f"multiply-adds in integers: {share}"
    near = found.measured
    levels = f"SQNR {near.sqnr:.2f} dB, cosine {near.cosine:.5f}"
    yield f"quantized: {levels} on {found.samples} samples"
    yield "  effect   added  input weights output    macs   share    bytes  kept float  layer"
    for each in found.layers:
        yield _line(each, near.sqnr)
    yield "effect: SQNR in dB of the outputs, if only this layer added an error."
    yield "added: SQNR in dB of what the layer writes, of the error it adds."
    yield "input, weights, output: what makes that error. macs: multiply-adds for one sample."
    yield "bytes: of its weights, as floats. kept float: SQNR of the outputs with only this layer"
    yield "float, less that of the quantized model, measured."


def _line(each: Sensitive, sqnr: float) -> str:
    """Return a layer."""
    layer, cost = each.layer, each.cost
    inputs, weights, output = (100 * share for share in layer.shares.values())
    levels = f"{layer.effect_sqnr:8.1f} {layer.added_sqnr:7.1f}"
    shares = f"{inputs:4.0f} % {weights:5.0f} % {output:4.0f} %"
    costs = f"{compact(cost.macs):>7} {100 * each.share:5.1f} % {compact(cost.weight_bytes):>8}"
    bought = f"{each.alone.measured.sqnr - sqnr:+8.2f} dB" if each.alone else " " * 11
    return f"{levels} {shares} {costs} {bought}  {layer.op} {layer.name}"


def sensitivity_dict(found: Sensitivity) -> dict[str, Any]:
    """Return all layers and the quantized model as plain values."""
    plain = layer_dicts([each.layer for each in found.layers])
    return {
        "target": found.plan.target.name,
        "recipe": found.plan.recipe.to_dict(),
        "samples": found.samples,
        "quantized": measured_dict(found.measured),
        "multiply_adds": {"integer": found.macs[0], "all": found.macs[1]},
        "layers": [
            {**layer, **_cost_dict(each, found.measured.sqnr)}
            for layer, each in zip(plain, found.layers, strict=True)
        ],
    }


def _cost_dict(each: Sensitive, sqnr: float) -> dict[str, Any]:
    """Return what a layer costs, and what keeping it float did."""
    alone = each.alone
    kept = (
        {
            **measured_dict(alone.measured),
            "bought_db": number(alone.measured.sqnr - sqnr),
            "multiply_adds_out": alone.macs,
        }
        if alone
        else None
    )
    return {
        "multiply_adds": each.cost.macs,
        "share": each.share,
        "weight_bytes": each.cost.weight_bytes,
        "kept_float": kept,
    }
