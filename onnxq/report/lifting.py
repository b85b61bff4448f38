"""What was lifted out of the integers to hold a bound, for people and for machines."""

from collections.abc import Iterator
from typing import Any

from rich.markup import escape
from rich.table import Table

from onnxq.comparison import Latency
from onnxq.report.plain import quantized_dict
from onnxq.report.tuning import side_dict, sides_table
from onnxq.report.values import compact, number
from onnxq.search.auto import Automatic
from onnxq.search.lift import Lifted
from onnxq.search.trials import Measured
from onnxq.search.tune import recipe_path


def lifted_tables(result: Lifted) -> Iterator[Table | str]:
    """Yield the layers lifted, how the bounds are kept, the scores, and what it cost."""
    if result.layers:
        yield from map(escape, _layers(result))
    bounds, (before, after) = result.lifting.bounds, result.measured
    yield f"before: {bounds.spelled(before, result.metric)}"
    if result.layers:
        yield f"after: {bounds.spelled(after, result.metric)}"
    if not result.reached:
        yield "warning: the bound was not reached: this is the nearest model that was tried"
    sides = {"chosen on": result.kept}
    if result.held is not None:
        sides["not chosen on"] = result.held
    yield sides_table(result.metric, "after", sides)
    if result.held is None:
        yield "chosen and checked on the same samples, those the table keeps: --data gives others"
    elif _missed_elsewhere(result):
        yield "warning: on the samples it was not chosen on the bound is missed"
    yield from _costs(result)
    yield escape(f"recipe: {recipe_path(result.quantized.path)}")


def _layers(result: Lifted) -> Iterator[str]:
    """Yield the layers lifted, and what each bought after those above it: the name comes last."""
    how = {"float": "kept float", "16bit": "given 16-bit activations"}[result.lifting.how or ""]
    judged = result.lifting.bounds.max_drop is not None
    yield f"{len(result.layers)} layers {how}, each after those above it:"
    score = f" {result.metric:>14}" if judged else ""
    yield f"    macs   share   alone dB   SQNR dB   cosine{score}  layer"
    before = result.measured[0]
    for layer in result.layers:
        bought = " " * (18 + len(score))
        if layer.after is not None:
            bought = _bought(before, layer.after, judged=judged)
            before = layer.after
        cost = f"{compact(layer.macs):>8} {100 * layer.share:5.1f} % {layer.effect_sqnr:10.1f}"
        yield f"{cost} {bought}  {layer.op} {layer.name}"
    if any(layer.after is None for layer in result.layers):
        yield "what several bought together is beside the last of them"


def _bought(before: Measured, after: Measured, *, judged: bool) -> str:
    """Spell the changes that layers brought."""
    near = f"{after.sqnr - before.sqnr:+9.2f} {after.cosine - before.cosine:+8.5f}"
    return f"{near} {after.score - before.score:+14.5f}" if judged else near


def _missed_elsewhere(result: Lifted) -> bool:
    """Say whether the bounds are missed on the samples that were not chosen on."""
    held = result.held
    assert held is not None
    bounds, near = result.lifting.bounds, held.similarities[1]
    return not bounds.hold(
        Measured(cosine=near.cosine, sqnr=near.sqnr, drop=-held.after.difference)
    )


def _costs(result: Lifted) -> Iterator[str]:
    """Yield multiply-adds, size and time before and after, and what the search cost."""
    before, after, total = result.macs
    if total:
        kind = "at less than 16 bits" if result.lifting.how == "16bit" else "in integers"
        shares = f"{100 * before / total:.1f} % → {100 * after / total:.1f} %"
        yield f"multiply-adds {kind}: {shares} of {total / 1e6:.1f} million"
    sizes = " → ".join(f"{size / 1e6:.2f} MB" for size in result.sizes)
    times = " → ".join(f"{timed.ratio:.2f}" for timed in result.latencies)
    yield f"size {sizes}; latency ÷ float {times}"
    yield f"{result.trials} models quantized, {result.seconds:.1f} s"


def automatic_lines(result: Automatic, again: str) -> Iterator[str]:
    """Yield what was tried, what it brought, and the command that makes the same again."""
    for each in result.tried:
        what = "kept" if each.kept else "left out"
        why = each.reason
        if each.gain is not None:
            near = f"{each.gain.before:.5f} → {each.gain.after:.5f} ± {each.gain.half_width:.5f}"
            why = f"cosine {near} on {result.samples} samples nothing was fitted on"
        yield escape(f"{each.flags}: {what}: {why}; {each.seconds:.1f} s")
    if not result.tried:
        yield "no repair was needed" if result.lifted.reached else "there was no repair to try"
    yield escape(f"kept: {', '.join(e.flags for e in result.tried if e.kept) or 'nothing'}")
    yield escape(f"the same without a search: {again}")


def automatic_dict(result: Automatic, again: str) -> dict[str, Any]:
    """Return what `auto` did as plain values."""
    tried = [
        {
            "flags": each.flags,
            "kept": each.kept,
            "cosine": None if each.gain is None else vars(each.gain),
            "reason": each.reason or None,
            "seconds": each.seconds,
        }
        for each in result.tried
    ]
    return {
        **lifted_dict(result.lifted),
        "tried": tried,
        "command": again,
        "judged_on": result.samples,
        "all_seconds": result.seconds,
    }


def lifted_dict(result: Lifted) -> dict[str, Any]:
    """Return what `lift` did as plain values."""
    bounds, before = result.lifting.bounds, result.measured[0]
    macs = dict(zip(("before", "after", "all"), result.macs, strict=True))
    layers = []
    for layer in result.layers:
        layers.append(
            {
                "name": layer.name,
                "op": layer.op,
                "multiply_adds": layer.macs,
                "share": layer.share,
                "effect_db": number(layer.effect_sqnr),
                "bought": _bought_dict(before, layer.after),
            }
        )
        before = layer.after or before
    return {
        "model": quantized_dict(result.quantized),
        "recipe": str(recipe_path(result.quantized.path)),
        "fallback": result.lifting.how,
        "bounds": {"min_cosine": bounds.min_cosine, "max_drop": bounds.max_drop},
        "reached": result.reached,
        "metric": result.metric,
        "layers": layers,
        "before": measured_dict(result.measured[0]),
        "after": measured_dict(result.measured[1]),
        "chosen_on": side_dict(result.kept, "after"),
        "not_chosen_on": side_dict(result.held, "after") if result.held else None,
        "multiply_adds": macs,
        "bytes": dict(zip(("before", "after"), result.sizes, strict=True)),
        "latency": {
            name: _latency_dict(timed)
            for name, timed in zip(("before", "after"), result.latencies, strict=True)
        },
        "trials": result.trials,
        "seconds": result.seconds,
    }


def measured_dict(found: Measured) -> dict[str, Any]:
    """Return how near a model is as plain values; null for what was not asked."""
    return {
        "cosine": number(found.cosine),
        "sqnr_db": number(found.sqnr),
        "score": number(found.score),
        "drop": number(found.drop),
    }


def _bought_dict(before: Measured, after: Measured | None) -> dict[str, Any] | None:
    """Return the changes that layers brought; None where that was not measured."""
    if after is None:
        return None
    return {
        "cosine": number(after.cosine - before.cosine),
        "sqnr_db": number(after.sqnr - before.sqnr),
        "score": number(after.score - before.score),
    }


def _latency_dict(timed: Latency) -> dict[str, Any]:
    """Return the time of a model beside the float model's."""
    return {
        "float_ms": timed.float_ms,
        "quantized_ms": timed.quantized_ms,
        "ratio": timed.ratio,
        "threads": timed.threads,
    }
