"""Hold a bound with what costs nothing at run time, and lift layers only for the rest: ``--auto``.

Repairs are tried one after the other, each on top of those that were kept. One is kept if the
cosine to the float model gains more, on samples nothing was fitted on, than its 95 % interval. As
soon as the bounds hold, that is all; if they do not in the end, or when the time is up, layers are
lifted out of the integers as `onnxq.search.lift` does.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from onnxq import pipeline
from onnxq.drafting import Draft, draft
from onnxq.errors import CalibrationError, ModelError, RecipeError, UnsupportedError
from onnxq.graph.query import label
from onnxq.graph.session import Runtime, Session
from onnxq.layers import Layer
from onnxq.metrics.classification import Paired
from onnxq.metrics.unlabelled import Cosine
from onnxq.observing import completed
from onnxq.ranges import range_algorithm
from onnxq.ranges.fixed import Fixed
from onnxq.ranges.given import Given
from onnxq.recipe import Recipe, TensorRule
from onnxq.search.emission import Emission
from onnxq.search.exam import Exam, examined, sides, unfitted
from onnxq.search.lift import Lifted, check_asked, lift
from onnxq.search.lifting import TRIALS, Lifting, LiftProgress
from onnxq.search.samples import read
from onnxq.search.trials import Measured, emitted, first_samples, float_score, measured
from onnxq.sources import Source
from onnxq.table import CalibrationTable

log = logging.getLogger(__name__)

SECONDS = 300.0  # for repairs and lifting together
CANNOT = (CalibrationError, ModelError, RecipeError, UnsupportedError)  # a move, for this model
WORST = 3  # tensors whose range is tried on its own
FEWEST_TRIALS = 16  # of lifting, however little time is left


@dataclass(frozen=True, kw_only=True)
class Move:
    """Something to try.

    Attributes:
        flags: How the command line says it.
        recipe: What it asks for.
        fits: Whether it may mean something for a draft.
    """

    flags: str
    recipe: Recipe
    fits: Callable[[Draft], bool]


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What became of a move.

    Attributes:
        flags: How the command line says it.
        kept: Whether it is part of the result.
        gain: Cosine without and with it, and the interval of the difference; None if it failed.
        reason: Why it failed.
        seconds: What trying it took.
    """

    flags: str
    kept: bool
    gain: Paired | None
    reason: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Automatic:
    """What `auto` did.

    Attributes:
        lifted: The model written, with what was lifted.
        tried: All that was tried, in order.
        samples: How many samples moves were judged on.
        seconds: Wall time of all.
    """

    lifted: Lifted
    tried: tuple[Tried, ...]
    samples: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _State:
    """A recipe with what is known of it."""

    recipe: Recipe
    table: CalibrationTable
    made: Draft
    found: Measured


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """What moves are tried on.

    Attributes:
        model: The float model.
        source: The calibration data.
        exam: The samples to choose on that nothing is fitted on.
        judge: The same, by cosine.
        level: What the float model scores on the exam; None if that is not asked.
        max_opset: Newest operator set the result may need.
        runtime: How to run models.
    """

    model: Path
    source: Source
    exam: Exam
    judge: Exam
    level: float | None
    max_opset: int | None
    runtime: Runtime


def _reads_grids(made: Draft) -> bool:
    """Say whether activations are quantized."""
    return bool(made.plan.activations)


def _multiplies(made: Draft) -> bool:
    """Say whether there is a quantized product with weights, and activations to smooth."""
    nodes = made.plan.nodes.values()
    products = any(n.quantized and n.weights and n.op in ("MatMul", "Gemm") for n in nodes)
    return products and _reads_grids(made)


def _whole(made: Draft) -> bool:
    """Say whether most weights have one scale."""
    weights = [weight.spec for node in made.plan.nodes.values() for weight in node.weights]
    return 2 * sum(not spec.tile for spec in weights) > len(weights)


def _narrow(made: Draft) -> bool:
    """Say whether weights have less than 8 bits."""
    nodes = made.plan.nodes.values()
    return any(weight.spec.dtype.bits < 8 for node in nodes for weight in node.weights)


def _smoothed(alpha: float) -> Move:
    """Return a move that smooths."""
    return Move(
        flags=f"--smooth {alpha:g} --smooth-insert",
        recipe=Recipe(smooth=alpha, smooth_insert=True),
        fits=_multiplies,
    )


FIRST = (  # what is cheap to try and does much
    Move(flags="--equalize", recipe=Recipe(equalize=True), fits=_whole),
    Move(flags="--weight-range mse", recipe=Recipe(weights=TensorRule(range="mse")), fits=_narrow),
    Move(flags="--reconstruct", recipe=Recipe(reconstruct=True), fits=_narrow),
    _smoothed(0.75),
    _smoothed(0.5),
    Move(
        flags="--bias-correction empirical",
        recipe=Recipe(bias_correction="empirical"),
        fits=lambda made: made.repairs.corrected > 0,
    ),
)
LAST = (
    *(
        Move(
            flags=f"--range {name}",
            recipe=Recipe(activations=TensorRule(range=name)),
            fits=_reads_grids,
        )
        for name in ("outlier-var", "mse", "minmax")
    ),
    Move(flags="--fit-ranges", recipe=Recipe(fit_ranges=True), fits=_reads_grids),
)


RANGES: tuple[tuple[str, dict[str, Any]], ...] = (  # of one tensor
    ("percentile", {"percentile": 99.99}),
    ("percentile", {"percentile": 99.999}),
    ("mse", {}),
    ("minmax", {}),
)
MOST = len(FIRST) + len(LAST) + WORST * len(RANGES)


def auto(  # noqa: PLR0913 - like lift, and how long
    model: Path,
    table: CalibrationTable,
    recipe: Recipe,
    data: tuple[Source, Source],
    output: Path,
    *,
    lifting: Lifting,
    seconds: float = SECONDS,
    runtime: Runtime | None = None,
    report: Callable[[LiftProgress], None] = lambda _: None,
) -> Automatic:
    """Write a model that holds bounds, in bounded time.

    What the recipe says stays as it says.

    Args:
        model: The float model.
        table: Its calibration table.
        recipe: Where to start.
        data: The samples to choose on, which the table was made of, and those to measure on, see
            `onnxq.search.samples.parts`.
        output: Where the model goes; its recipe goes to `onnxq.search.tune.recipe_path` of it.
        lifting: What must hold, and what to do in the end if it does not.
        seconds: For all of it. What has begun is finished.
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
    bench = _bench(model, table, data[0], lifting, runtime or Runtime())
    made = draft(model, table, recipe, max_opset=lifting.max_opset, runtime=bench.runtime)
    with emitted(made, bench.runtime) as session:
        found = measured(bench.exam, session, bench.level)
    state = _State(recipe=recipe, table=table, made=made, found=found)
    longest, tried = time.monotonic() - begun, list[Tried]()

    def is_over() -> bool:
        """Say whether the bounds hold, or the time is up."""
        return lifting.bounds.hold(state.found) or begun + seconds - time.monotonic() < longest

    for stage in (lambda *_: FIRST, _worst, lambda *_: LAST):
        for move in () if is_over() else stage(state, bench):
            if is_over():
                break
            if move.fits(state.made) and _is_open(move, recipe):
                done, cosine = len(tried), state.found.cosine
                report(LiftProgress(done=done, total=MOST, name=move.flags, score=cosine))
                state, told = _after(move, state, bench)
                tried.append(told)
                longest = max(longest, told.seconds)
    trials = int(np.clip((begun + seconds - time.monotonic()) / longest, FEWEST_TRIALS, TRIALS))
    lifted = lift(
        *(model, state.table, state.recipe, data, output),
        lifting=replace(lifting, trials=trials),
        runtime=bench.runtime,
        report=report,
    )
    return Automatic(
        lifted=lifted,
        tried=tuple(tried),
        samples=bench.judge.samples,
        seconds=time.monotonic() - begun,
    )


def _bench(
    model: Path, table: CalibrationTable, source: Source, lifting: Lifting, runtime: Runtime
) -> _Bench:
    """Read the samples, and run the float model on them."""
    reference = Session(model, runtime)
    judged = lifting.bounds.max_drop is not None
    batches = unfitted(read(source, reference), table)
    exam = examined(reference, batches, lifting.metric if judged else Cosine())
    return _Bench(
        model=model,
        source=source,
        exam=exam,
        judge=replace(exam, metric=Cosine()),
        level=float_score(exam) if judged else None,
        max_opset=lifting.max_opset,
        runtime=runtime,
    )


def _worst(state: _State, bench: _Bench) -> Iterator[Move]:
    """Yield other ranges for the tensors whose ranges do most harm to the model's outputs."""
    if not _reads_grids(state.made):
        return
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "state.onnx"
        Emission.of(state.made, path)
        batches = first_samples(bench.exam.batches)
        try:
            layers = pipeline.ranked(bench.model, path, batches, bench.runtime)
        except ModelError as error:
            log.info("the layers cannot be ranked: %s", error)
            return
    blamed = dict.fromkeys(_blamed(state.made, layer) for layer in layers)
    for name in [each for each in blamed if each is not None][:WORST]:
        now = state.made.plan.activations[name].spec.range
        for algorithm, options in RANGES:
            if range_algorithm(algorithm, **options) != now:
                spelled = " ".join([algorithm, *(f"{value}" for value in options.values())])
                rule = TensorRule(range=algorithm, range_options=options)
                yield Move(
                    flags=f"range {spelled} for tensor {name}",
                    recipe=Recipe(tensors={name: rule}),
                    fits=_reads_grids,
                )


def _blamed(made: Draft, layer: Layer) -> str | None:
    """Return the tensor whose range makes most of the error of a layer, if one does."""
    cause = max(layer.shares, key=lambda part: layer.shares[part])
    nodes = (node for node in made.prepared.graph.nodes if label(node) == layer.name)
    node = next(nodes, None)
    if cause == "weights" or node is None:
        return None
    plan = made.plan.activations.get(layer.output if cause == "output" else node.inputs[0].name)
    known = plan is None or isinstance(plan.spec.range, (Fixed, Given))
    return None if plan is None or known else plan.shares


def _is_open(move: Move, recipe: Recipe) -> bool:
    """Say whether a recipe leaves what a move asks for to us."""
    asked = recipe.to_dict()
    return not any(
        key in asked and (not isinstance(value, dict) or value.keys() & asked[key].keys())
        for key, value in move.recipe.to_dict().items()
    )


def _after(move: Move, state: _State, bench: _Bench) -> tuple[_State, Tried]:
    """Try a move; return the state behind it if it is kept, and what became of it."""
    begun, recipe = time.monotonic(), move.recipe.over(state.recipe)

    def told(gain: Paired | None, reason: str = "", *, kept: bool = False) -> Tried:
        """Return what became of it."""
        seconds = time.monotonic() - begun
        return Tried(flags=move.flags, kept=kept, gain=gain, reason=reason, seconds=seconds)

    try:
        table = completed(bench.model, state.table, recipe, bench.source, bench.runtime)
        made = draft(bench.model, table, recipe, max_opset=bench.max_opset, runtime=bench.runtime)
    except CANNOT as error:
        log.info("%s: %s", move.flags, error)
        return state, told(None, str(error))
    with emitted(state.made, bench.runtime) as before, emitted(made, bench.runtime) as after:
        gain = sides(bench.judge, (before, after)).gain
        if not gain.difference > gain.half_width:
            return state, told(gain)
        found = measured(bench.exam, after, bench.level)
    after_it = _State(recipe=recipe, table=table, made=made, found=found)
    return after_it, told(gain, kept=True)
