"""Search for the strategy that quantizes a model best: ``onnxq search``."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from onnxq import pipeline, table_file
from onnxq.errors import Interrupted, ModelError, OnnxqError, QualityError, RecipeError
from onnxq.files import check_target
from onnxq.graph import io
from onnxq.graph.session import Runtime, Session
from onnxq.metrics.classification import Paired
from onnxq.metrics.judge import scored
from onnxq.observing import completed
from onnxq.recipe import Recipe, dumps
from onnxq.search.exam import Exam, examined, shuffled
from onnxq.search.hunt import Hunt
from onnxq.search.laboratory import Laboratory
from onnxq.search.opening import space_of
from onnxq.search.records import Records
from onnxq.search.samples import identity, read
from onnxq.search.searching import Finalist, Generation, Row, Searched, Searching
from onnxq.search.space import Genes, Space
from onnxq.search.stock import Stock
from onnxq.search.store import Store
from onnxq.search.strategy import decode, factors_of, space_id
from onnxq.search.trials import float_score
from onnxq.search.tune import recipe_path, write_recipe
from onnxq.sources import Source
from onnxq.table import CalibrationTable

TABLE = "table.calib"  # in the folder of a search
COMPLETED = "chosen.calib"  # the same, with what the chosen strategy rescales
FINALISTS = 12  # of the front, measured on samples not searched on


def evolve(  # noqa: PLR0913 - like quantize, and how to search
    model: Path,
    table: CalibrationTable,
    recipe: Recipe,
    data: tuple[Source, Source],
    output: Path,
    *,
    searching: Searching,
    runtime: Runtime | None = None,
    report: Callable[[Row | Generation], None] = lambda _: None,
) -> Searched:
    """Search for the strategy that quantizes a model best, and write that model and its recipe.

    What the recipe says stays as it says; all else that `Searching.opened` names is open.

    Memory: the samples, their float outputs, and codes and parameters of every tensor for every
    option that was tried.

    Args:
        model: The float model.
        table: Its calibration table.
        recipe: What is not to be searched.
        data: The samples to search on, which the table was made of, and those to measure on, see
            `onnxq.search.samples.parts`.
        output: Where the model goes; its recipe goes to `onnxq.search.tune.recipe_path` of it.
        searching: How to search.
        runtime: How to run models.
        report: Called with every strategy evaluated, and with how far the search is then.

    Raises:
        UsageError: The recipe leaves nothing to choose, or a factor is none.
        ModelError: The model cannot be loaded or run, or holds nothing to quantize.
        CalibrationError: Table, data, labels or store do not fit, or the metric fails.
        RecipeError: The recipe or the metric does not fit the model.
        UnsupportedError: The target cannot express the recipe.
        QualityError: No strategy that was tried holds the bounds; nothing is written.
        OutputError: An output cannot be written, or is an input.
    """
    runtime, begun = runtime or Runtime(), time.monotonic()
    _check(model, recipe, output)
    reference = Session(model, runtime)
    kept, held = (read(source, reference) for source in data)
    others = examined(reference, held, searching.metric)
    float_score(others)  # what does not fit is refused before the work
    exam = examined(reference, shuffled(kept, searching.seed), searching.metric)
    laboratory = opened(model, table, recipe, searching, data[0], runtime)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        store = _store(Path(folder) / "store", table, recipe, data, searching, laboratory.space)
        hunt = Hunt(Records(laboratory, exam, searching, store, float_score(exam), report))
        hunt.run()
        found = _finished(hunt, (exam, others), (model, table, output), runtime)
    return replace(found, seconds=time.monotonic() - begun)


def opened(
    model: Path,
    table: CalibrationTable,
    recipe: Recipe,
    searching: Searching,
    source: Source | None,
    runtime: Runtime,
) -> Laboratory:
    """Return the space of a model, and what it takes to try its strategies.

    Args:
        model: The float model.
        table: Its calibration table.
        recipe: What is not to be searched.
        searching: How to search: which factors are open, and up to which operator set.
        source: The data of the table: what is rescaled is observed on it.
        runtime: How to run models.

    Raises:
        UsageError: The recipe leaves nothing to choose, or a factor is none.
        OnnxqError: Of any kind: recipe, table and model do not fit.
    """
    stock = Stock(model, table, recipe, runtime, searching.max_opset)
    groups = [number for number, group in enumerate(table.groups) if group.samples]
    space = space_of(stock.prepared, stock.plan, recipe, searching.opened, groups)
    return Laboratory(space, stock, source)


def strategy_of(
    code: str,
    model: Path,
    table: CalibrationTable,
    recipe: Recipe,
    source: Source | None,
    runtime: Runtime,
) -> tuple[Recipe, tuple[int, ...] | None]:
    """Return the recipe of a strategy, and the groups of samples it takes; None for all.

    Args:
        code: The strategy, as `search` names it.
        model: The float model.
        table: Its calibration table.
        recipe: What was not searched.
        source: The data of the table, if it is at hand.
        runtime: How to run models.

    Raises:
        RecipeError: It is no code, or of another space.
        OnnxqError: Of any kind: recipe, table and model do not fit.
    """
    searching = Searching(factors=factors_of(code), evaluations=1)
    laboratory = opened(model, table, recipe, searching, source, runtime)
    genes = decode(laboratory.space, code)
    return laboratory.resolved(genes), laboratory.space.groups(genes)


def _check(model: Path, recipe: Recipe, output: Path) -> None:
    """Refuse before the work what could only fail behind it."""
    for path in (output, recipe_path(output)):
        check_target(path, io.files_of(model))
    if recipe.qdq is False:
        raise RecipeError(
            "search measures what Q and DQ compute: search with them, then quantize by the recipe "
            "it writes with --no-qdq"
        )


def _store(
    spare: Path,
    table: CalibrationTable,
    recipe: Recipe,
    data: tuple[Source, Source],
    searching: Searching,
    space: Space,
) -> Store:
    """Open the store: the one that is asked for, or one that is gone afterwards."""
    store = Store(searching.store or spare)
    about = {
        "space": space_id(space),
        "model": table.model_sha256,
        "recipe": dumps(recipe),
        "metric": searching.metric.name,
        "objectives": list(searching.objectives),
        "table, data, metric or seed": identity(
            *(table, recipe, data, searching.metric),
            ways=[searching.drop, searching.seed, searching.population],
        ),
    }
    store.open(about, go_on=searching.resume or searching.shared)
    if not searching.shared:
        store.forget_claims()
    if searching.store is not None and not (searching.store / TABLE).exists():
        table_file.save(table, searching.store / TABLE)
    return store


def _finished(
    hunt: Hunt,
    exams: tuple[Exam, Exam],
    asked: tuple[Path, CalibrationTable, Path],
    runtime: Runtime,
) -> Searched:
    """Write what was found, and measure it on samples not searched on."""
    model, table, output = asked
    records = hunt.records
    laboratory, searching = records.laboratory, records.searching
    best = _best(hunt, output)
    groups = laboratory.space.groups(best.genes)
    recipe = laboratory.resolved(best.genes)
    default = records.seen[(0,) * len(best.genes)]
    others = {"default": default, "uniform": hunt.uniform}
    front = _spread(records.front(), best)
    held, gains = _held_out(laboratory, exams[1], best, others, front)
    if laboratory.source is not None:
        table = completed(model, table, recipe, laboratory.source, runtime)
    result = pipeline.quantize(
        *(model, table if groups is None else table.only(groups), recipe, output),
        limits=pipeline.Limits(max_opset=searching.max_opset),
        explain=False,
        runtime=runtime,
    )
    if searching.store is not None and recipe.rescales:
        table_file.save(table, searching.store / COMPLETED)
    write_recipe(recipe, recipe_path(output))
    return Searched(
        quantized=result,
        recipe=recipe,
        recipe_path=recipe_path(output),
        groups=groups,
        space=laboratory.space,
        searching=searching,
        rows=tuple(records.rows),
        generations=tuple(hunt.generations),
        chosen=held[best.genes],
        default=held[default.genes],
        uniform=held[others["uniform"].genes],
        front=tuple(held[row.genes] for row in front),
        shares=hunt.shares(best.genes),
        gains=gains,
        reached=records.holds(best),
        interrupted=hunt.interrupted,
        samples=(exams[0].samples, exams[1].samples),
        seconds=0.0,
    )


def _best(hunt: Hunt, output: Path) -> Row:
    """Return the best strategy there is; refuse if there is none that may be written."""
    records = hunt.records
    rows, bounds = records.complete(), records.searching.bounds
    why: OnnxqError
    if not rows:
        failed = next((f": {row.found.error}" for row in records.rows if row.found.error), "")
        why = ModelError(f"no strategy could be evaluated{failed}")
    else:
        best = records.best(rows)
        if bounds is None or records.holds(best) or records.searching.best_effort:
            return best
        near = bounds.spelled(records.measured(best), records.searching.metric.name)
        why = QualityError(f"{output}: {near}, the nearest strategy found: nothing written")
    if hunt.interrupted:
        raise Interrupted(f"{why}; --resume goes on")
    raise why


def _held_out(
    laboratory: Laboratory, exam: Exam, best: Row, others: Mapping[str, Row], front: Sequence[Row]
) -> tuple[dict[Genes, Finalist], dict[str, Paired]]:
    """Measure strategies on samples not searched on; return what the best gains over others."""
    found = {
        row.genes: (row, *laboratory.examined(row.genes, exam))
        for row in (best, *others.values(), *front)
    }
    finalists = {genes: Finalist(row=row, held=held) for genes, (row, held, _) in found.items()}
    mine = found[best.genes][2]
    gains = {
        name: scored(exam.metric, found[row.genes][2], mine).paired
        for name, row in others.items()
        if mine and found[row.genes][2]
    }
    return finalists, gains


def _spread(front: Sequence[Row], best: Row) -> list[Row]:
    """Return what of a front is measured again, evenly spread, the best among it."""
    if len(front) <= FINALISTS:
        return list(front)
    step = (len(front) - 1) / (FINALISTS - 1)
    chosen = {front[round(step * i)].genes for i in range(FINALISTS)} | {best.genes}
    return [row for row in front if row.genes in chosen]
