"""Anneal the order of channels on tiles: ``onnxq anneal``.

Two channels of a random family change places, the tiles they lie in are quantized again, and the
model is measured; a better order stays, a worse one with probability exp(gain/T), less often as T
falls. The best order seen is what comes out: a file for ``--reorder``, and the model.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from onnxq import pipeline
from onnxq.correction import input_means
from onnxq.drafting import Draft, draft, fit_samples
from onnxq.files import check_target, staged
from onnxq.graph import io
from onnxq.graph.session import Runtime, Session
from onnxq.metrics.answers import Metric
from onnxq.metrics.unlabelled import Cosine
from onnxq.recipe import Recipe
from onnxq.reordering import layout_of, mode_of, order_dict
from onnxq.repairs import corrects
from onnxq.results import Quantized
from onnxq.search.annealing import Annealing
from onnxq.search.arrangement import Arrangement
from onnxq.search.checkpoint import Checkpoint
from onnxq.search.cooling import AnnealProgress, Cooling
from onnxq.search.exam import Side, examined, shuffled, sides
from onnxq.search.samples import identity, read
from onnxq.sources import Source
from onnxq.table import CalibrationTable
from onnxq.types import Array


@dataclass(frozen=True, kw_only=True)
class Annealed:
    """What `anneal` did.

    Attributes:
        quantized: The model written.
        order_path: The file of the order.
        metric: The metric's name.
        kept: Scores on the samples annealed on.
        held: Scores on samples not used.
        scores: Of the order to begin with and of the best, as measured while annealing.
        improved: Whether the annealed model scored better on the samples annealed on; if not, the
            model written and measured is in the order to begin with.
        swaps: How many were tried.
        accepted: How many were accepted.
        runs: Batches run to the end for them, out of how many without giving up.
        pieces: Into how many pieces the model was cut.
        seconds: Wall time of the search alone.
    """

    quantized: Quantized
    order_path: Path
    metric: str
    kept: Side
    held: Side
    scores: tuple[float, float]
    improved: bool
    swaps: int
    accepted: int
    runs: tuple[int, int]
    pieces: int
    seconds: float


def order_path(output: Path) -> Path:
    """Return where the order of an annealed model goes."""
    return output.with_name(f"{output.name}.order.json")


def anneal(  # noqa: PLR0913 - like quantize, and how to anneal
    model: Path,
    table: CalibrationTable,
    recipe: Recipe,
    data: tuple[Source, Source],
    output: Path,
    *,
    metric: Metric | None = None,
    cooling: Cooling | None = None,
    runtime: Runtime | None = None,
    report: Callable[[AnnealProgress], None] = lambda _: None,
) -> Annealed:
    """Improve the order of channels on tiles, and write the model and the order.

    Differs: the publication accepts a swap when exp(gain/T) exceeds a preset probability and ends
    at the first that does not (`Cooling.threshold`); here that is the probability with which a
    worse order is accepted.

    Args:
        model: The float model.
        table: Its calibration table.
        recipe: Where to start: its ``reorder`` says in which order.
        data: The samples to anneal on and those to measure on, see `onnxq.search.samples.parts`.
        output: Where the model goes; its order goes to `order_path` of it.
        metric: What to improve; cosine by default.
        cooling: How to anneal.
        runtime: How to run models.
        report: Called after every swap.

    Raises:
        ModelError: The model cannot be loaded or run, or nothing in it can change places.
        CalibrationError: Table, data, labels or checkpoint do not fit, or the metric fails.
        RecipeError: The recipe or the metric does not fit the model.
        UnsupportedError: The target cannot express the recipe.
        OutputError: An output cannot be written, or is an input.
        Interrupted: Ctrl-C; what was found so far is in the checkpoint.

    Source:
        Kirkpatrick, Gelatt, Vecchi, "Optimization by Simulated Annealing", Science 220, 1983;
        docs/crossbar.md, "Annealing".
    """
    runtime, cooling, metric = runtime or Runtime(), cooling or Cooling(), metric or Cosine()
    for target in (output, order_path(output)):
        check_target(target, io.files_of(model))
    reference = Session(model, runtime)
    kept, held = (read(source, reference) for source in data)
    others = examined(reference, held, metric)
    others.evidence(0, others.references[0])  # what does not fit is refused before the work
    exam = examined(reference, shuffled(kept, cooling.seed), metric)
    plain = replace(  # the search does without
        recipe, correct_bias=False, bias_correction=None, tile_scales=None, reconstruct=None
    )
    made = draft(model, table, plain, runtime=runtime)
    begun = time.monotonic()
    search = Annealing(arranged(made, table, recipe, runtime), exam, cooling, runtime)
    run = _identity(table, recipe, data, metric, cooling)
    checkpoint = Checkpoint(cooling.checkpoint, run, resume=cooling.resume, steps="swaps")
    search.run(checkpoint, report)
    seconds = time.monotonic() - begun
    found = replace(recipe, reorder=str(order_path(output)))

    def written(orders: Sequence[Array]) -> Quantized:
        """Write orders and the model in them."""
        _write_order(made, orders, order_path(output))
        return pipeline.quantize(model, table, found, output, explain=False, runtime=runtime)

    with TemporaryDirectory() as folder:
        start = Path(folder) / output.name
        pipeline.quantize(model, table, recipe, start, explain=False, runtime=runtime)
        before = Session(start, runtime)
        result = written(search.orders)
        side = sides(exam, (before, Session(output, runtime)))
        improved = side.gain.difference > 0
        if search.best > search.start and not improved:
            result = written([np.arange(len(order)) for order in search.orders])
            side = sides(exam, (before, Session(output, runtime)))
        other = sides(others, (before, Session(output, runtime)))
    if cooling.checkpoint is not None:
        cooling.checkpoint.unlink(missing_ok=True)
    return Annealed(
        quantized=result,
        order_path=order_path(output),
        metric=metric.name,
        kept=side,
        held=other,
        scores=(search.start, search.best),
        improved=improved,
        swaps=search.done,
        accepted=search.accepted,
        runs=(search.bench.runs, (search.bench.evaluations + 1) * len(exam.batches)),
        pieces=len(search.chain.pieces),
        seconds=seconds,
    )


def arranged(made: Draft, table: CalibrationTable, recipe: Recipe, runtime: Runtime) -> Arrangement:
    """Return a draft with its channels to be moved.

    Args:
        made: The draft, no biases corrected.
        table: The calibration table; biases are corrected on the samples it keeps.
        recipe: Says whether they shall be.
        runtime: How to run models.
    """
    samples = fit_samples(table)
    layout, channels = layout_of(made.prepared, made.plan, samples, runtime)
    means = {}
    if samples and corrects(replace(made.plan, recipe=recipe)):
        means = input_means(made.prepared, made.plan, made.activations, samples, runtime)
    return Arrangement(made, layout, channels, means)


def _write_order(made: Draft, orders: Sequence[Array], path: Path) -> None:
    """Write the order of every family, counted from the model's own."""
    if made.reordering is not None:
        both = zip(made.reordering.orders, orders, strict=True)
        orders = [start[order] for start, order in both]
    content = order_dict(mode_of(made.plan), orders, made.prepared.sha256)
    with staged(path) as temporary:
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")


def _identity(
    table: CalibrationTable,
    recipe: Recipe,
    data: tuple[Source, Source],
    metric: Metric,
    cooling: Cooling,
) -> str:
    """Return what a checkpoint must agree on with a run."""
    ways = [cooling.swaps, cooling.temperature, cooling.restarts, cooling.threshold]
    ways += [cooling.drop, cooling.seed]
    return identity(table, recipe, data, metric, ways)
