"""What a search found, for people and for machines."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from onnxq.metrics.classification import Paired
from onnxq.report.plain import quantized_dict
from onnxq.report.values import compact, number
from onnxq.search.laboratory import Evaluation
from onnxq.search.searching import Finalist, Generation, Row, Searched
from onnxq.search.space import Gene, Space
from onnxq.search.strategy import space_id

SHOWN = 20  # of the tensors that were asked for something else
LONGEST = 60  # of a code, for people


def searched_tables(result: Searched, again: str) -> Iterator[Table | str]:
    """Yield the answer, what it asks of single tensors, and what the search cost."""
    yield _finalists(result)
    for name, gain in result.gains.items():
        yield f"over the {name} on {gain.samples} samples not searched on: {_gain(gain)}"
    changed = [each for each in _layers(result) if each["choice"] != each["default"]]
    changed.sort(key=lambda each: -(each["noise_less"] or 0.0))
    if changed:
        yield _changed(changed[:SHOWN])
    if len(changed) > SHOWN:
        yield f"{len(changed) - SHOWN} more are in {result.recipe_path}"
    if len(result.searching.objectives) > 1:
        yield _front(result)
    yield _course(result)
    if not result.reached:
        yield "warning: no strategy holds the bounds: this is the nearest"
    yield f"recipe: {result.recipe_path}"
    yield escape(f"the same again: {again}")


def _finalists(result: Searched) -> Table:
    """Return the chosen strategy beside those it must beat."""
    table = Table()
    metric = result.searching.metric.name
    for heading in ("strategy", metric, "SQNR dB", "cosine", "weight bits", "bytes", "latency"):
        table.add_column(heading, justify="left" if heading == "strategy" else "right")
    sides = {"default": result.default, "best uniform": result.uniform, "chosen": result.chosen}
    for name, each in sides.items():
        table.add_row(name, *_cells(each))
    return table


def _cells(each: Finalist) -> tuple[str, ...]:
    """Return a strategy's numbers, on the samples searched on and on others."""
    found, held = each.row.found, each.held
    ratio = "" if math.isnan(found.latency) else f"{found.latency:.2f}"
    return (
        f"{found.score:.5f} / {held.score:.5f}",
        f"{found.sqnr:.2f} / {held.sqnr:.2f}",
        f"{found.cosine:.5f} / {held.cosine:.5f}",
        compact(found.bits),
        compact(found.bytes),
        ratio,
    )


def _gain(gain: Paired) -> str:
    """Spell a difference, and whether it is one."""
    beyond = abs(gain.difference) > gain.half_width
    verdict = "" if beyond else ": no difference beyond the interval"
    return f"{gain.difference:+.5f} ± {gain.half_width:.5f}{verdict}"


def _changed(layers: Sequence[Mapping[str, Any]]) -> Table:
    """Return what is asked of tensors and nodes that the recipe alone does not ask."""
    table = Table(
        title="chosen, with the noise it saves by the additive model", title_justify="left"
    )
    for heading in ("what", "of", "recipe", "chosen"):
        table.add_column(heading)
    table.add_column("noise less", justify="right")
    for each in layers:
        cells = (each["name"], each["reason"], each["default"], each["choice"])
        less = each["noise_less"]
        table.add_row(*map(escape, cells), "–" if less is None else f"{less:.2g}")
    return table


def _front(result: Searched) -> Table:
    """Return what nothing dominates."""
    table = Table(title="front", title_justify="left")
    for heading in (
        result.searching.metric.name,
        "SQNR dB",
        "cosine",
        "weight bits",
        "bytes",
        "latency",
    ):
        table.add_column(heading, justify="right")
    table.add_column("strategy")
    for each in result.front:
        table.add_row(*_cells(each), _short(each.row.code))
    return table


def _short(code: str) -> str:
    """Return a code, or its beginning."""
    return code if len(code) <= LONGEST else f"{code[:LONGEST]}…"


def _course(result: Searched) -> str:
    """Return what the search cost."""
    rows, last = result.rows, result.generations[-1] if result.generations else Generation()
    whole = sum(row.found.complete for row in rows)
    failed = sum(bool(row.found.error) for row in rows)
    screened = sum(each.screened for each in result.generations)
    early = len(rows) - whole - failed
    told = [
        f"{len(rows)} strategies evaluated, {early} given up early, {failed} failed",
        f"{screened} screened",
        f"{len(result.generations)} generations in {result.seconds:.1f} s",
    ]
    if not math.isnan(last.rank_correlation):
        told.append(f"rank correlation of what was predicted {last.rank_correlation:.2f}")
    return "; ".join(told)


def space_tables(space: Space) -> Iterator[Table | str]:
    """Yield what a search may choose from."""
    table = Table(title=f"space {space_id(space)}", title_justify="left")
    for heading in ("what", "kind", "of", "options, the recipe's first"):
        table.add_column(heading)
    for gene in space.genes:
        options = " | ".join(option.label for option in gene.options)
        table.add_row(*map(escape, (gene.name, gene.kind, gene.reason, options)))
    yield table
    yield (
        f"{len(space.genes)} choices, 10^{space.log10_strategies:.1f} strategies; open: "
        f"{', '.join(space.factors)}"
    )


def space_dict(space: Space) -> dict[str, Any]:
    """Return what a search may choose from as plain values."""
    return {
        "id": space_id(space),
        "factors": list(space.factors),
        "genes": [_gene_dict(gene) for gene in space.genes],
        "log10_strategies": space.log10_strategies,
    }


def _gene_dict(gene: Gene) -> dict[str, Any]:
    """Return a choice."""
    options = [option.label for option in gene.options]
    return {"name": gene.name, "kind": gene.kind, "of": gene.reason, "options": options}


def row_dict(row: Row) -> dict[str, Any]:
    """Return an evaluated strategy as plain values."""
    found = row.found
    return {
        "number": row.number,
        "code": row.code,
        "origin": row.origin,
        "score": number(found.score),
        "complete": found.complete,
        "samples": found.samples,
        "error": found.error,
        "sqnr": number(found.sqnr),
        "cosine": number(found.cosine),
        "size_bits": found.bits,
        "latency": number(found.latency),
        "seconds": row.seconds,
    }


def generation_dict(each: Generation) -> dict[str, Any]:
    """Return how far a search was as plain values."""
    return {
        "number": each.number,
        "evaluations": each.evaluations,
        "best": number(each.best),
        "front": each.front,
        "screened": each.screened,
        "rank_correlation": number(each.rank_correlation),
        "uses_screen": each.uses_screen,
        "seconds": each.seconds,
    }


def searched_dict(result: Searched, model: Path, again: str) -> dict[str, Any]:
    """Return what a search found as plain values.

    Args:
        result: What it found.
        model: The float model.
        again: The command that writes the same model again.
    """
    how, rows = result.searching, result.gains.items()
    special = {"chosen": result.chosen.row.genes, "uniform": result.uniform.row.genes}
    return {
        "model": model.name,
        "quantized": quantized_dict(result.quantized),
        "recipe": str(result.recipe_path),
        "groups": result.groups,
        "target": result.space.target,
        "metric": how.metric.name,
        "objectives": list(how.objectives),
        "samples": result.samples[0],
        "held_samples": result.samples[1],
        "seed": how.seed,
        "seconds": result.seconds,
        "interrupted": result.interrupted,
        "reached": result.reached,
        "space": {
            "id": space_id(result.space),
            "genes": len(result.space.genes),
            "log10_strategies": result.space.log10_strategies,
        },
        "evaluations": [row_dict(row) for row in result.rows],
        "generations": [generation_dict(each) for each in result.generations],
        "front": [_finalist_dict(each, special) for each in result.front],
        "chosen": _finalist_dict(result.chosen, special),
        "default": _finalist_dict(result.default, special),
        "uniform": _finalist_dict(result.uniform, special),
        "gain": {f"over_{name}": _gain_dict(gain) for name, gain in rows},
        "layers": list(_layers(result)),
        "command": again,
    }


def _finalist_dict(each: Finalist, special: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return a strategy on both sets of samples."""
    row: dict[str, Any] = row_dict(each.row)
    held = {f"held_{name}": value for name, value in _held(each.held).items()}
    named = {name: each.row.genes == genes for name, genes in special.items()}
    return {**row, **held, **named, "file_bytes": each.row.found.bytes or None}


def _held(found: Evaluation) -> dict[str, Any]:
    """Return what samples not searched on say."""
    return {
        "score": number(found.score),
        "sqnr": number(found.sqnr),
        "cosine": number(found.cosine),
    }


def _gain_dict(gain: Paired) -> dict[str, Any]:
    """Return a difference with half the width of its interval."""
    return {
        "difference": gain.difference,
        "half_width": number(gain.half_width),
        "samples": gain.samples,
    }


def _layers(result: Searched) -> Iterator[dict[str, Any]]:
    """Yield what was chosen for each gene."""
    chosen = result.space.chosen(result.chosen.row.genes)
    for (gene, option), share in zip(chosen, result.shares, strict=True):
        yield {
            "name": gene.name,
            "kind": gene.kind,
            "reason": gene.reason,
            "choice": option.label,
            "default": gene.options[0].label,
            "noise_less": number(share),
        }
