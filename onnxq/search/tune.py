"""Refine scales by the task's own metric, tensor by tensor: ``onnxq tune``.

The recipe's range algorithms give the start. Then each tensor in the order of the graph is moved to
where the metric is best (`onnxq.search.refine`), on samples whose labels, if the metric needs any,
are known; what comes out is a recipe that gives the tensors that moved their ranges, and the model
quantized by it. Both are measured on samples that were not tuned on.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from onnxq import pipeline
from onnxq.drafting import draft
from onnxq.errors import RecipeError
from onnxq.feeds import Batch
from onnxq.files import check_target, staged
from onnxq.graph import io
from onnxq.graph.session import Runtime, Session
from onnxq.metrics.answers import Metric
from onnxq.recipe import Recipe
from onnxq.results import Quantized
from onnxq.search.checkpoint import Checkpoint
from onnxq.search.emission import Emission
from onnxq.search.exam import Exam, Side, answers_of, easy_last, examined, shuffled, sides
from onnxq.search.samples import identity, read
from onnxq.search.settings import Move, TuneProgress, Tuning
from onnxq.search.walk import Search
from onnxq.sources import Source
from onnxq.table import CalibrationTable


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What `tune` did.

    Attributes:
        quantized: The model written.
        recipe: What it was written by.
        recipe_path: The file of that.
        metric: The metric's name.
        moves: Every tensor that was looked at, in order.
        kept: Scores on the samples tuned on.
        held: Scores on samples not used.
        improved: Whether the tuned model scored better on the samples tuned on; if not, the
            model written and measured is the one the recipe asked for.
        evaluations: Candidates tried.
        runs: Batches run to the end for them, out of how many without giving up.
        pieces: Into how many pieces the model was cut.
        seconds: Wall time of the search alone.
    """

    quantized: Quantized
    recipe: Recipe
    recipe_path: Path
    metric: str
    moves: tuple[Move, ...]
    kept: Side
    held: Side
    improved: bool
    evaluations: int
    runs: tuple[int, int]
    pieces: int
    seconds: float


def recipe_path(output: Path) -> Path:
    """Return where the recipe of a tuned model goes."""
    return output.with_name(f"{output.name}.recipe.yaml")


def tune(  # noqa: PLR0913 - like quantize, and how to tune
    model: Path,
    table: CalibrationTable,
    recipe: Recipe,
    data: tuple[Source, Source],
    output: Path,
    *,
    tuning: Tuning | None = None,
    runtime: Runtime | None = None,
    report: Callable[[TuneProgress], None] = lambda _: None,
) -> Tuned:
    """Refine the scales a recipe chooses, and write the model and its recipe.

    Memory: the samples, their float outputs, and what the tensors between two pieces of the model
    hold for all samples.

    Args:
        model: The float model.
        table: Its calibration table.
        recipe: Where to start.
        data: The samples to tune on and those to measure on, see `onnxq.search.samples.parts`.
        output: Where the model goes; its recipe goes to `recipe_path` of it.
        tuning: How to tune.
        runtime: How to run models.
        report: Called before every tensor.

    Raises:
        ModelError: The model cannot be loaded or run, or holds nothing to quantize or to tune.
        CalibrationError: Table, data, labels or checkpoint do not fit, or the metric fails.
        RecipeError: The recipe or the metric does not fit the model.
        UnsupportedError: The target cannot express the recipe.
        OutputError: An output cannot be written, or is an input.
        Interrupted: Ctrl-C; what was found so far is in the checkpoint.
    """
    runtime, tuning = runtime or Runtime(), tuning or Tuning()
    if recipe.qdq is False:
        raise RecipeError(
            "tune measures what Q and DQ compute: tune with them, then quantize by the recipe it "
            "writes with --no-qdq"
        )
    if recipe.reconstruct and tuning.over != "activations":
        raise RecipeError(
            "reconstruct rounds weights for the scale they have: tune with --over activations"
        )
    for target in (output, recipe_path(output)):
        check_target(target, io.files_of(model))
    reference = Session(model, runtime)
    kept, held = (read(source, reference) for source in data)
    with TemporaryDirectory() as folder:
        start = Path(folder) / output.name
        others = examined(reference, held, tuning.metric)
        others.evidence(0, others.references[0])  # what does not fit is refused before the work
        emitted = Emission.of(draft(model, table, recipe, runtime=runtime), start)
        before = Session(start, runtime)
        exam = _ordered(reference, before, shuffled(kept, tuning.seed), tuning.metric)
        begun = time.monotonic()
        search = Search(emitted, exam, before, tuning, runtime)
        ways = [tuning.over, tuning.min_gain, tuning.target, tuning.sweeps]
        ways += [tuning.drop, tuning.seed]
        run = identity(table, recipe, data, tuning.metric, ways)
        checkpoint = Checkpoint(tuning.checkpoint, run, resume=tuning.resume, steps="tensors")
        moves = search.run(checkpoint, report)
        seconds = time.monotonic() - begun
        tuned = Recipe(tensors=search.rules()).over(recipe)
        result = pipeline.quantize(model, table, tuned, output, explain=False, runtime=runtime)
        side = sides(exam, (before, Session(output, runtime)))
        improved = side.gain.difference > 0
        if tuned != recipe and not improved:
            tuned = recipe
            result = pipeline.quantize(model, table, tuned, output, explain=False, runtime=runtime)
            side = sides(exam, (before, Session(output, runtime)))
        other = sides(others, (before, Session(output, runtime)))
    write_recipe(tuned, recipe_path(output))
    if tuning.checkpoint is not None:
        tuning.checkpoint.unlink(missing_ok=True)
    return Tuned(
        quantized=result,
        recipe=tuned,
        recipe_path=recipe_path(output),
        metric=tuning.metric.name,
        moves=tuple(moves),
        kept=side,
        held=other,
        improved=improved,
        evaluations=search.bench.evaluations,
        runs=(search.bench.runs, (search.bench.evaluations + 1) * len(exam.batches)),
        pieces=len(search.chain.pieces),
        seconds=seconds,
    )


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe as YAML."""
    with staged(path) as temporary:
        temporary.write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False), encoding="utf-8")


def _ordered(reference: Session, before: Session, batches: Sequence[Batch], metric: Metric) -> Exam:
    """Return the samples with the float model's answers, what leaves something to gain first."""
    exam = examined(reference, batches, metric)
    better = easy_last(exam, [answers_of(before, batch.inputs) for batch in batches])
    return exam if better is batches else examined(reference, better, metric)
