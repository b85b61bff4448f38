"""The stages in order: the library's front door, and all the command line calls.

table = calibrate(Path("model.onnx"), Source("calib/"))
result = quantize(Path("model.onnx"), table, Recipe(), Path("model.int8.onnx"))
print(compare(Path("model.onnx"), Path("model.int8.onnx"), Source("eval/")).cosine)
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxq import calibration, comparison
from onnxq.comparison import Comparison, Latency
from onnxq.correction import correct_biases
from onnxq.emit.qdq import emit_qdq, required_opset
from onnxq.errors import CalibrationError, ModelError, QualityError, UnsupportedError
from onnxq.feeds import Batch, Cut, batches
from onnxq.files import check_target, staged
from onnxq.graph import io
from onnxq.graph.io import Model
from onnxq.graph.opset import lowest_onnxruntime, raise_opset
from onnxq.graph.session import Recorded, Runtime, Session
from onnxq.layers import Layer, rank
from onnxq.numerics.affine import params_of
from onnxq.numerics.extremes import extremes
from onnxq.passes import PassReport
from onnxq.passes.prepare import prepare
from onnxq.plan import Plan, WeightPlan, observable, resolve
from onnxq.readers import Reader, about, open_reader
from onnxq.recipe import Recipe, dumps
from onnxq.results import Compared, Progress, Quantized
from onnxq.table import CalibrationTable
from onnxq.targets import names, target
from onnxq.types import QuantParams, TensorStats

log = logging.getLogger(__name__)

SAME_FUNCTION = 60.0  # dB; what folding and a raised operator set may cost in float32
TIMED_BYTES = 1 << 29  # a larger float model is not loaded again only to be timed
WARN_COSINE = 0.99  # an output farther from the float model than this is warned about


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where data comes from.

    Attributes:
        data: A path, ``random``, or ``module:Class``.
        reader: Name of a reader; None to choose by the path.
        options: Options of the reader.
        cut: Batch size, number of samples, shard.
    """

    data: str
    reader: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    cut: Cut = field(default_factory=Cut)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a result must hold; None for no limit.

    Attributes:
        min_cosine: Least cosine between the outputs and the float model's on the kept samples.
        max_opset: Newest operator set the result may need.
    """

    min_cosine: float | None = None
    max_opset: int | None = None


def calibrate(
    model: Path,
    source: Source,
    *,
    recipe: Recipe | None = None,
    keep_samples: int = 8,
    runtime: Runtime | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> CalibrationTable:
    """Run data through a float model and collect statistics.

    Args:
        model: The float model.
        source: The calibration data.
        recipe: Observe only what this recipe needs; None for the default of every target.
        keep_samples: How many samples to keep in the table, for checking results.
        runtime: How to run the model.
        report: Called after each batch.

    Returns:
        The table; `onnxq.table_file.save` writes it.

    Raises:
        ModelError: The model cannot be loaded, run or quantized.
        CalibrationError: The data does not fit the model.
    """
    runtime = runtime or Runtime()
    prepared = io.load(model)
    prepare(prepared)
    if recipe is None:
        tensors = list(dict.fromkeys(t for n in names() for t in observable(prepared, target(n))))
    else:
        tensors = resolve(prepared, _target(recipe), recipe).observed
    session = calibration.observer(prepared, tensors, runtime)
    reader = _open(source, session)
    data = _cut(source, reader, session)
    start = calibration.empty(prepared, source.cut.batch_size, keep_samples)
    total = _total(reader, source.cut)
    return calibration.calibrate(
        session, tensors, data, start, lambda done: report(Progress(done=done, total=total))
    )


def _target(recipe: Recipe | None) -> Any:
    """Return the target of a recipe, cpu by default."""
    return target((recipe.target if recipe else None) or "cpu")


def _open(source: Source, session: Session) -> Reader:
    """Open a source and pass on what its reader wants the user to know."""
    reader = open_reader(source.data, session.inputs, source.reader, source.options)
    for note in getattr(reader, "notes", ()):
        log.warning("%s", note)
    return reader


def _total(reader: Reader, cut: Cut) -> int | None:
    """Return how many samples a cut of a reader will yield, or None if it cannot tell."""
    try:
        there = len(reader)  # type: ignore[arg-type]
    except TypeError:
        return None
    return min(there, cut.samples or there) // cut.shard[1]


def _batches(source: Source, session: Session) -> Iterator[Batch]:
    """Open a source and cut it into batches."""
    return _cut(source, _open(source, session), session)


def _cut(source: Source, reader: Reader, session: Session) -> Iterator[Batch]:
    """Cut a reader into batches; errors say which data they are about."""
    try:
        yield from batches(reader, session.inputs, source.cut)
    except CalibrationError as error:
        raise about(source.data, error) from error


def quantize(
    model: Path,
    table: CalibrationTable,
    recipe: Recipe,
    output: Path,
    *,
    limits: Limits | None = None,
    runtime: Runtime | None = None,
) -> Quantized:
    """Write the quantized model.

    The file is checked, loaded, run on the samples the table keeps, and only then put in place.

    Args:
        model: The float model.
        table: Its calibration table.
        recipe: What is asked.
        output: Where the quantized model goes.
        limits: What the result must hold.
        runtime: How to run the models.

    Raises:
        ModelError: The model cannot be loaded, or holds nothing to quantize.
        CalibrationError: The table is of another model, or lacks a tensor.
        RecipeError: The recipe means nothing here.
        UnsupportedError: The target cannot express the recipe.
        QualityError: The result is below the cosine asked for; nothing is written.
        OutputError: The output cannot be written, or is an input.
    """
    runtime, limits = runtime or Runtime(), limits or Limits()
    inputs = io.files_of(model)
    for target_file in (output, output.with_name(f"{output.name}.data")):
        check_target(target_file, inputs)
    prepared, plan, passes, before = _plan(model, recipe, table, limits.max_opset)
    stats = calibration.statistics(table, prepared, plan)
    samples = [
        Batch(inputs=feed, labels={}, samples=1, splittable=False)
        for feed in table.kept.feeds.values()
    ]
    reference = Recorded(Session(model, runtime), [sample.inputs for sample in samples])
    _check_function(prepared, reference, samples, runtime)
    activations, weights = _activation_params(plan, stats), _weight_params(plan, prepared)
    corrected = 0
    wanted = plan.target.correct_bias if recipe.correct_bias is None else recipe.correct_bias
    if wanted and samples:
        corrected = correct_biases(prepared, plan, activations, weights, samples, runtime)
    emitted = emit_qdq(prepared, plan, activations, weights)
    _record(prepared, plan, table)
    with staged(output) as temporary:
        io.write(prepared, temporary)
        result = Session(temporary, runtime)
        check = comparison.compare(reference, result, samples) if samples else None
        _check_quality(output, check, limits.min_cosine)
        worst = _worst(model, temporary, samples, check, runtime)
        timed = _timed(model, result, samples, runtime)
        size = io.size_of(temporary)
    return Quantized(
        path=output,
        plan=plan,
        emitted=emitted,
        corrected=corrected,
        passes=tuple(passes),
        opset=(before, prepared.opset),
        onnxruntime=lowest_onnxruntime(prepared.opset),
        sizes=(io.size_of(model), size),
        check=check,
        latency=timed,
        layers=worst,
    )


def _prepared(path: Path) -> Model:
    """Load a float model as quantizing sees it: what it inlines has layers to compare."""
    model = io.load(path)
    prepare(model)
    io.sync(model)
    return model


def _worst(
    model: Path, result: Path, samples: list[Batch], check: Comparison | None, runtime: Runtime
) -> tuple[Layer, ...]:
    """Return the layers of a result that is far from the float model, worst first."""
    if check is None or not check.cosine < WARN_COSINE:
        return ()
    try:
        return tuple(rank(_prepared(model), io.load(result), samples, runtime))
    except ModelError as error:  # the result stands without it
        log.info("the layers cannot be ranked: %s", error)
        return ()


def _timed(model: Path, result: Session, samples: list[Batch], runtime: Runtime) -> Latency | None:
    """Time the result beside the float model on one sample; large models are not loaded again."""
    if not samples or io.size_of(model) > TIMED_BYTES:
        return None
    reference = Session(model, runtime)
    return comparison.latency(reference, result, samples[0].inputs, runtime.threads, seconds=0.3)


def _check_quality(output: Path, check: Comparison | None, min_cosine: float | None) -> None:
    """Refuse a result that is not as near as asked for, or of which that is not known."""
    if min_cosine is not None and (check is None or not check.cosine >= min_cosine):
        found = f"is {check.cosine:.5f}" if check else "is unknown: the table keeps no samples"
        raise QualityError(f"{output}: the cosine {found}, asked for {min_cosine}: nothing written")


def _plan(
    model: Path, recipe: Recipe, table: CalibrationTable, max_opset: int | None
) -> tuple[Model, Plan, list[PassReport], int]:
    """Load, prepare and plan, at the operator set the plan needs; return that of the file too."""
    prepared = io.load(model)
    before = prepared.opset
    fixed = io.overridable(prepared)
    if fixed:
        log.warning(
            "weights that are inputs too: %r, %d in all: they are taken for constants, and can no "
            "longer be given at run time where they were quantized or folded",
            fixed[0],
            len(fixed),
        )
    passes = prepare(prepared)
    plan = resolve(prepared, _target(recipe), recipe)
    needed, feature = required_opset(plan)
    if max_opset is not None and max(needed, before) > max_opset:
        what = f"{feature} need opset {needed}" if needed > before else f"the model is at {before}"
        raise UnsupportedError(f"{model}: {what}, above the {max_opset} allowed")
    unfit: dict[str, str] = {}
    if before < needed:
        known = set(prepared.graph.tensors())
        prepared = _raised(prepared, needed, feature)
        plan = resolve(prepared, _target(recipe), recipe)
        unfit = {
            name: "was not there to be observed: raising the operator set made it"
            for name, activation in plan.activations.items()
            if not known & set(activation.sources)
        }
        if unfit:
            plan = resolve(prepared, _target(recipe), recipe, unfit)
    while new := calibration.unfit(calibration.statistics(table, prepared, plan)):
        unfit |= new
        plan = resolve(prepared, _target(recipe), recipe, unfit)
    return prepared, plan, passes, before


def _raised(model: Model, needed: int, feature: str) -> Model:
    """Raise the operator set; a failure names the flag that does without."""
    try:
        return raise_opset(model, needed)
    except UnsupportedError as error:
        if not feature.startswith("per-channel"):
            raise
        raise UnsupportedError(f"{error}, or use --per-tensor") from error


def _check_function(
    prepared: Model, reference: Session, samples: list[Batch], runtime: Runtime
) -> None:
    """Make sure that preparing did not change what the model computes."""
    if not samples:
        return
    session = Session(prepared, runtime)
    for output in comparison.compare(reference, session, samples).outputs:
        near = output.similarity
        if near.samples and (near.unequal or near.sqnr < SAME_FUNCTION):
            raise ModelError(
                f"{prepared.path}: folding or raising the operator set changed output "
                f"{output.name!r} (SQNR {near.sqnr:.1f} dB): please report this model"
            )


def _activation_params(plan: Plan, seen: Mapping[str, TensorStats]) -> dict[str, QuantParams]:
    """Choose range and parameters of every activation; sharers get the same."""
    chosen: dict[str, QuantParams] = {}
    for name, activation in plan.activations.items():
        if activation.shares != name:
            chosen[name] = chosen[activation.shares]
            continue
        spec, stats = activation.spec, seen[name]
        chosen[name] = params_of(spec.range(stats, spec).within(*spec.bounds), spec)
    return chosen


def _weight_params(plan: Plan, model: Model) -> dict[tuple[str, int], QuantParams]:
    """Choose range and parameters of every weight, directly from its values."""
    constants = model.graph.tensors()
    chosen = {}
    for key, node in plan.nodes.items():
        for weight in node.weights:
            stats = _weight_stats(weight, constants[weight.name])
            chosen[key, weight.index] = params_of(
                weight.spec.range(stats, weight.spec), weight.spec
            )
    return chosen


def _weight_stats(weight: WeightPlan, tensor: Any) -> TensorStats:
    """Look at a weight as closely as its range algorithm needs."""
    values = io.array_of(tensor)
    if not weight.spec.range.needs_histogram:
        return extremes(values, weight.spec.tile)
    from onnxq.numerics.observe import observe  # noqa: PLC0415  the compiler is slow to load

    return observe(values, weight.spec.tile)


def _record(model: Model, plan: Plan, table: CalibrationTable) -> None:
    """Write into the model how it was made."""
    record = {
        "onnxq.recipe": dumps(plan.recipe.over(Recipe(target=plan.target.name))),
        "onnxq.float_model_sha256": model.sha256,
        "onnxq.versions": json.dumps(dict(table.versions), sort_keys=True),
        "onnxq.calibration_samples": str(table.samples),
    }
    kept = [entry for entry in model.proto.metadata_props if entry.key not in record]
    del model.proto.metadata_props[:]
    model.proto.metadata_props.extend(kept)
    for key, value in record.items():
        model.proto.metadata_props.add(key=key, value=value)


def compare(
    reference: Path,
    quantized: Path,
    source: Source,
    *,
    measure_latency: bool = False,
    measure_layers: bool = False,
    runtime: Runtime | None = None,
) -> Compared:
    """Compare two models on data.

    Args:
        reference: The float model.
        quantized: The quantized model.
        source: The evaluation data; labels in it give accuracies.
        measure_latency: Also time both models, with ``runtime.threads`` (1 if that is 0).
        measure_layers: Also rank the layers by the error they add.
        runtime: How to run the models.

    Raises:
        ModelError: A model cannot be loaded or run, or the two do not have the same interface.
        CalibrationError: The data does not fit the models.
    """
    runtime = runtime or Runtime()
    sessions = [Session(io.load(path).path, runtime) for path in (reference, quantized)]
    found = comparison.compare(sessions[0], sessions[1], _batches(source, sessions[0]))
    timed = _latency(reference, quantized, source, runtime) if measure_latency else None
    layers = None
    if measure_layers:
        models = _prepared(reference), io.load(quantized)
        layers = tuple(rank(*models, _batches(source, sessions[0]), runtime))
    return Compared(
        comparison=found,
        sizes=(io.size_of(reference), io.size_of(quantized)),
        latency=timed,
        layers=layers,
    )


def _latency(reference: Path, quantized: Path, source: Source, runtime: Runtime) -> Latency:
    """Time both models on the first batch."""
    runtime = replace(runtime, threads=runtime.threads or 1)
    sessions = [Session(path, runtime) for path in (reference, quantized)]
    first = next(_batches(source, sessions[0]))
    return comparison.latency(sessions[0], sessions[1], first.inputs, runtime.threads)
