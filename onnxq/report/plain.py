"""Results as plain values: what ``--json`` writes."""

from collections.abc import Mapping
from typing import Any

from onnxq.comparison import Comparison
from onnxq.metrics.classification import Paired
from onnxq.numerics.range_fit import Fit
from onnxq.reordering import Reordering
from onnxq.report.layers import layer_dicts
from onnxq.report.values import number, pass_dict
from onnxq.results import Compared, Quantized


def comparison_dict(comparison: Comparison) -> dict[str, Any]:
    """Return cosine, SQNR and the rest of every output, and accuracies where there are any."""
    outputs = {
        output.name: {
            "cosine": number(output.similarity.cosine),
            "cosine_min": number(output.similarity.cosine_min),
            "sqnr_db": number(output.similarity.sqnr),
            "max_abs": number(output.similarity.max_abs),
            "agreement": output.agreement,
        }
        for output in comparison.outputs
    }
    found: dict[str, Any] = {"samples": comparison.samples, "outputs": outputs}
    for name, accuracy in (("top1", comparison.top1), ("top5", comparison.top5)):
        if accuracy is not None:
            found[name] = _paired_dict(accuracy)
    if comparison.metric is not None:
        scored = comparison.metric
        kinds = {"name": scored.name, "interval_by": scored.interval}
        found["metric"] = kinds | _paired_dict(scored.paired)
    return found


def _paired_dict(paired: Paired) -> dict[str, Any]:
    """Return both means and the interval of their difference."""
    return {
        "float": paired.before,
        "quantized": paired.after,
        "difference": paired.difference,
        "interval95": number(paired.half_width),
        "samples": paired.samples,
    }


def compared_dict(result: Compared) -> dict[str, Any]:
    """Return what ``compare`` measured."""
    found = comparison_dict(result.comparison)
    found["bytes"] = {"float": result.sizes[0], "quantized": result.sizes[1]}
    if result.latency is not None:
        found["latency"] = {
            "float_ms": result.latency.float_ms,
            "quantized_ms": result.latency.quantized_ms,
            "ratio": result.latency.ratio,
            "batch_size": result.latency.batch_size,
            "threads": result.latency.threads,
            "runs": result.latency.runs,
        }
    if result.layers is not None:
        found["layers"] = layer_dicts(result.layers)
    return found


def _crossbar_dict(result: Quantized) -> dict[str, Any] | None:
    """Return the map of the tiles without the single tiles."""
    table = result.emitted.table
    if table is None or not result.plan.target.tiled:
        return None
    layers = [{k: v for k, v in layer.items() if k != "tiles"} for layer in table["layers"]]
    return {**table, "layers": layers}


def _reordering_dict(moved: Reordering | None) -> dict[str, Any] | None:
    """Return what became of the order of the channels."""
    if moved is None:
        return None
    return {
        "how": moved.how,
        "mode": moved.mode,
        "families": moved.families,
        "channels": moved.channels,
        "predicted_noise": {"before": moved.before, "after": moved.after},
        "refused": moved.refused or None,
        "nothing": moved.nothing or None,
    }


def _fits_dict(fits: Mapping[str, Fit] | None) -> dict[str, Any] | None:
    """Return what became of each range: the relative noise of its readers, and its parameters."""
    if fits is None:
        return None
    return {
        name: {
            "moved": fit.moved,
            "noise": {"before": fit.before, "after": fit.after},
            "scale": float(fit.params.scale),
            "zero_point": int(fit.params.zero_point),
        }
        for name, fit in fits.items()
    }


def _rounded_dict(result: Quantized) -> dict[str, Any] | None:
    """Return the relative noise of the layers whose weights were reconstructed."""
    rounded, nodes = result.repairs.used.rounded, result.plan.nodes
    if not result.plan.recipe.reconstruct:
        return None
    return {
        nodes[output].label: {"noise": {"nearest": each.before, "reconstructed": each.after}}
        for (output, _), each in rounded.items()
    }


def quantized_dict(result: Quantized) -> dict[str, Any]:
    """Return what ``quantize`` did, node by node."""
    return {
        "path": str(result.path),
        "target": result.plan.target.name,
        "recipe": result.plan.recipe.to_dict(),
        "opset": {"float": result.opset[0], "quantized": result.opset[1]},
        "onnxruntime": result.onnxruntime,
        "bytes": {"float": result.sizes[0], "quantized": result.sizes[1]},
        "corrected_biases": result.repairs.corrected,
        "fitted_ranges": _fits_dict(result.repairs.fits),
        "reconstructed": _rounded_dict(result),
        "saturating_pairs": list(result.emitted.saturating),
        "raised_scales": dict(result.emitted.raised),
        "fixed_point": result.emitted.table if result.plan.target.power_of_two else None,
        "crossbar": _crossbar_dict(result),
        "reordering": _reordering_dict(result.reordering),
        "passes": [pass_dict(report) for report in result.passes],
        "overflowing": list(result.emitted.overflowing),
        "nodes": [
            {"name": n.label, "op": n.op, "quantized": n.quantized, "reason": n.reason}
            for n in result.plan.nodes.values()
        ],
        "activations": [
            {"name": a.name, "dtype": a.spec.dtype.name, "shares": a.shares, "reason": a.reason}
            for a in result.plan.activations.values()
        ],
        "check": comparison_dict(result.check) if result.check else None,
        "layers": layer_dicts(result.layers),
    }
