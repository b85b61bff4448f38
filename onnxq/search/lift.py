"""Hold a bound by taking the fewest multiply-adds out of integers: ``quantize --fallback``.

The layers are ranked by what the error each adds does to the model's outputs, alone
(`onnxq.layers`). These effects are taken to add up, which tells how long a list of layers must be;
what it says is verified by really quantizing and running the model, and the length of the list
halved between what holds and what does not. Two lists are tried, most effect for the work first
and most effect first. Then layers are put back, the largest first, as long as the bound holds.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from onnxq import comparison, pipeline
from onnxq.comparison import Latency
from onnxq.drafting import draft
from onnxq.errors import CalibrationError, QualityError, RecipeError
from onnxq.feeds import Batch
from onnxq.files import check_target
from onnxq.graph import io
from onnxq.graph.session import Runtime, Session
from onnxq.metrics.unlabelled import Cosine
from onnxq.planning import target_of
from onnxq.readers import Feed
from onnxq.recipe import Recipe
from onnxq.results import Quantized
from onnxq.search.costs import costs
from onnxq.search.emission import Emission
from onnxq.search.exam import Exam, Side, examined, sides, unfitted
from onnxq.search.ledger import Ledger
from onnxq.search.lifting import (
    LiftedLayer,
    Lifting,
    LiftProgress,
    lifted_dtype,
)
from onnxq.search.samples import read
from onnxq.search.trials import (
    Measured,
    Trial,
    Workshop,
    first_samples,
    float_score,
    measured,
)
from onnxq.search.tune import recipe_path, write_recipe
from onnxq.sources import Source
from onnxq.table import CalibrationTable

STEPS = 8  # models quantized to tell what the layers bought, one after the other
SECONDS = 0.5  # to time a model beside the float model


@dataclass(frozen=True, kw_only=True)
class Lifted:
    """What `lift` did.

    Attributes:
        quantized: The model written.
        recipe: What it was written by; it is in `onnxq.search.tune.recipe_path` too.
        lifting: What was asked.
        layers: What was lifted, most effect first.
        reached: Whether the bounds hold.
        measured: The model as the recipe asked, and the one written, on the samples chosen on.
        kept: Scores on the samples that the choice was made on.
        held: Scores on others; None where there are none.
        metric: What they are scores of.
        macs: Multiply-adds in integers before and after, and in all; with ``16bit`` those of the
            layers that were not lifted.
        sizes: Bytes of the model before and after.
        latencies: Time for one sample before and after, each beside the float model.
        trials: Models quantized.
        seconds: Wall time of the search.
    """

    quantized: Quantized
    recipe: Recipe
    lifting: Lifting
    layers: tuple[LiftedLayer, ...]
    reached: bool
    measured: tuple[Measured, Measured]
    kept: Side
    held: Side | None
    metric: str
    macs: tuple[int, int, int]
    sizes: tuple[int, int]
    latencies: tuple[Latency, Latency]
    trials: int
    seconds: float


def lift(  # noqa: PLR0913 - like quantize, and how to lift
    model: Path,
    table: CalibrationTable,
    recipe: Recipe,
    data: tuple[Source, Source] | None,
    output: Path,
    *,
    lifting: Lifting,
    runtime: Runtime | None = None,
    report: Callable[[LiftProgress], None] = lambda _: None,
) -> Lifted:
    """Write the quantized model, with as much of it lifted as the bounds need.

    Memory: the samples and their float outputs.

    Args:
        model: The float model.
        table: Its calibration table.
        recipe: What is asked of the layers that are not lifted.
        data: The samples to choose on and those to measure on, see `onnxq.search.samples.parts`;
            None for the samples the table keeps, and no others.
        output: Where the quantized model goes; its recipe goes to `recipe_path` of it.
        lifting: What must hold, and how to get there.
        runtime: How to run models.
        report: Called before every model that is quantized.

    Raises:
        ModelError: The model cannot be loaded or run, or holds nothing to quantize.
        CalibrationError: Table, data or labels do not fit, or the metric fails.
        RecipeError: The recipe or the metric does not fit the model.
        UnsupportedError: The target cannot express the recipe, or has no 16-bit activations.
        QualityError: No model that was tried holds the bounds; nothing is written.
        OutputError: The output cannot be written, or is an input.
    """
    check_asked(model, recipe, output)
    begun = time.monotonic()
    shop, held = _opened(model, table, recipe, data, lifting, runtime or Runtime())
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        start = Path(folder) / output.name
        Emission.of(shop.made, start)
        before = Session(start, shop.runtime)
        ledger = _searched(shop, (start, before), lifting, report)
        chosen = _chosen(ledger, lifting, output, shop.exam.metric.name)
        layers = _layers(ledger, chosen)
        seconds = time.monotonic() - begun
        result, found = _written(shop, ledger.ordered(chosen.lifted), output)
        after = Session(output, shop.runtime)
        side = sides(shop.exam, (before, after))
        other = sides(held, (before, after)) if held is not None else None
        timed = _timed(shop, before, after)
        size = io.size_of(start)
    write_recipe(found, recipe_path(output))
    plain = ledger.found[0]
    return Lifted(
        quantized=result,
        recipe=found,
        lifting=lifting,
        layers=layers,
        reached=lifting.bounds.hold(chosen.measured),
        measured=(plain.measured, chosen.measured),
        kept=side,
        held=other,
        metric=shop.exam.metric.name,
        macs=_macs(ledger, chosen),
        sizes=(size, result.sizes[1]),
        latencies=timed,
        trials=ledger.count,
        seconds=seconds,
    )


def check_asked(model: Path, recipe: Recipe, output: Path) -> None:
    """Refuse before the work what could only fail behind it.

    Raises:
        RecipeError: The recipe leaves the graph float.
        OutputError: An output cannot be written, or is an input.
    """
    for path in (output, recipe_path(output)):
        check_target(path, io.files_of(model))
    if recipe.qdq is False:
        raise RecipeError("--no-qdq leaves nothing to lift: bounds need Q and DQ")


def _opened(
    model: Path,
    table: CalibrationTable,
    recipe: Recipe,
    data: tuple[Source, Source] | None,
    lifting: Lifting,
    runtime: Runtime,
) -> tuple[Workshop, Exam | None]:
    """Read the samples and draft the model; return what to choose on, and what to measure on.

    What does not fit is refused before the work.
    """
    target = target_of(recipe)
    asked = recipe.activations.dtype or target.activations["dtype"]
    dtype = lifted_dtype(target, lifting.how, asked)
    judged = lifting.bounds.max_drop is not None
    metric = lifting.metric if judged else Cosine()
    reference = Session(model, runtime)
    parts = (unfitted(read(each, reference), table) for each in data or ())
    exams = [examined(reference, each, metric) for each in parts]
    scores = [float_score(exam) for exam in exams] if judged else []
    if judged and not exams:
        raise CalibrationError(
            "a drop of a metric needs labelled data, and a table keeps no labels"
        )
    made = draft(model, table, recipe, max_opset=lifting.max_opset, runtime=runtime)
    if not (exams or made.samples):
        raise CalibrationError(
            "nothing to check the bound on: the calibration table keeps no samples; give --data"
        )
    shop = Workshop(
        model=model,
        table=table,
        recipe=recipe,
        exam=exams[0] if exams else examined(reference, made.samples, metric),
        made=made,
        level=next(iter(scores), None),
        dtype=dtype,
        max_opset=lifting.max_opset,
        runtime=runtime,
    )
    return shop, exams[1] if exams else None


def _macs(ledger: Ledger, chosen: Trial) -> tuple[int, int, int]:
    """Return the multiply-adds in integers before and after, and in all."""
    counted = ledger.costs
    after = counted.integer(chosen.plan, chosen.lifted)
    return counted.integer(ledger.found[0].plan), after, counted.macs


def _timed(shop: Workshop, before: Session, after: Session) -> tuple[Latency, Latency]:
    """Time two models, each beside the float model, on one sample."""
    reference, feed = Session(shop.model, shop.runtime), _one(shop.exam.batches[0])
    threads = shop.runtime.threads
    first, second = (
        comparison.latency(reference, each, feed, threads, seconds=SECONDS)
        for each in (before, after)
    )
    return first, second


def _searched(
    shop: Workshop,
    start: tuple[Path, Session],
    lifting: Lifting,
    report: Callable[[LiftProgress], None],
) -> Ledger:
    """Measure the model as the recipe asks, and look for what to lift if that is not enough."""
    path, session = start
    exam, made, runtime = shop.exam, shop.made, shop.runtime
    found = measured(exam, session, shop.level)
    plain = Trial(lifted=frozenset(), measured=found, plan=made.plan)
    counted = costs(made.prepared, made.plan, _one(exam.batches[0]), runtime)
    if lifting.how is None or lifting.bounds.hold(found):
        return Ledger(shop, plain, (), counted, lifting)
    ranked = pipeline.ranked(shop.model, path, first_samples(exam.batches), runtime)
    names = {node.label for node in made.plan.nodes.values() if node.quantized}
    able = {layer.name: layer for layer in ranked if layer.name in names}
    ledger = Ledger(shop, plain, tuple(able.values()), counted, lifting)
    ledger.search(report)
    return ledger


def _chosen(ledger: Ledger, lifting: Lifting, output: Path, metric: str) -> Trial:
    """Return the model to write.

    Raises:
        QualityError: None holds the bounds, and the nearest is not asked for.
    """
    best = ledger.best
    if best is not None:
        return best
    nearest = ledger.nearest
    if lifting.best_effort:
        return nearest
    how = f" with {len(nearest.lifted)} layers lifted" if lifting.how else ""
    tried = f", the nearest of {ledger.count}" if ledger.count > 1 else ""
    told = lifting.bounds.spelled(nearest.measured, metric)
    raise QualityError(f"{output}: {told}{how}{tried}: nothing written")


def _written(
    shop: Workshop, layers: Sequence[tuple[str, str]], output: Path
) -> tuple[Quantized, Recipe]:
    """Write the model with layers lifted; return its recipe too."""
    recipe = shop.lifting(layers)
    limits = pipeline.Limits(max_opset=shop.max_opset)
    result = pipeline.quantize(
        shop.model,
        shop.table,
        recipe,
        output,
        limits=limits,
        explain=False,
        runtime=shop.runtime,
    )
    return result, recipe


def _layers(ledger: Ledger, chosen: Trial) -> tuple[LiftedLayer, ...]:
    """Return what was lifted, and what it bought in at most `STEPS` steps."""
    layers = [layer for layer in ledger.ranked if layer.name in chosen.lifted]
    count = len(layers)
    ends = {-(-count * step // STEPS) for step in range(1, STEPS + 1)}
    found = []
    for number, layer in enumerate(layers, 1):
        trial = ledger.trial(each.name for each in layers[:number]) if number in ends else None
        macs = ledger.costs.of(layer.name).macs
        found.append(
            LiftedLayer(
                name=layer.name,
                op=layer.op,
                macs=macs,
                share=ledger.costs.share(macs),
                effect_sqnr=layer.effect_sqnr,
                after=trial.measured if trial is not None else None,
            )
        )
    return tuple(found)


def _one(batch: Batch) -> Feed:
    """Return the first sample of a batch."""
    return next(batch.rows())
