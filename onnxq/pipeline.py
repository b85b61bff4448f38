"""The stages in order: the library's front door, and all the command line calls.

table = calibrate(Path("model.onnx"), Source("calib/"))
result = quantize(Path("model.onnx"), table, Recipe(), Path("model.int8.onnx"))
print(compare(Path("model.onnx"), Path("model.int8.onnx"), Source("eval/")).cosine)
"""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnxq import comparison
from onnxq.calibrating import Collection, calibrate
from onnxq.comparison import Comparison, Latency
from onnxq.drafting import draft
from onnxq.emit import emit
from onnxq.emit.qdq import Emitted
from onnxq.errors import ModelError, QualityError
from onnxq.feeds import Batch
from onnxq.files import check_target, staged
from onnxq.graph import io
from onnxq.graph.io import Model
from onnxq.graph.opset import lowest_onnxruntime, raise_opset
from onnxq.graph.session import Runtime, Session
from onnxq.layers import Layer, rank
from onnxq.metrics.answers import Metric
from onnxq.observing import completed
from onnxq.passes.prepare import prepare
from onnxq.plan import Plan
from onnxq.recipe import Recipe, dumps, order_file
from onnxq.reordering import Reordering, follow, recorded
from onnxq.results import SIDECARS, Compared, Quantized
from onnxq.sources import Source, batches_of
from onnxq.table import CalibrationTable

__all__ = ["Collection", "Limits", "Source", "calibrate", "compare", "quantize"]

log = logging.getLogger(__name__)

TIMED_BYTES = 1 << 29  # a larger float model is not loaded again only to be timed
ORDER = "onnxq.channel_order"  # in the metadata of a model whose channels were reordered
WARN_COSINE = 0.99  # an output farther from the float model than this is warned about


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a result must hold; None for no limit.

    Attributes:
        min_cosine: Least cosine between the outputs and the float model's on the kept samples.
        max_opset: Newest operator set the result may need.
    """

    min_cosine: float | None = None
    max_opset: int | None = None


def quantize(  # noqa: PLR0913 - what to hold and what to tell is a keyword each
    model: Path,
    table: CalibrationTable,
    recipe: Recipe,
    output: Path,
    *,
    limits: Limits | None = None,
    explain: bool = True,
    runtime: Runtime | None = None,
    source: Source | None = None,
) -> Quantized:
    """Write the quantized model.

    The file is checked, loaded, run on the samples the table keeps, and only then put in place,
    with ``<output>.json``, a table of positions, where scales are powers of two; on crossbars that
    is a map of all tiles, and ``<output>.npz`` holds their codes and scales.

    Args:
        model: The float model.
        table: Its calibration table.
        recipe: What is asked.
        output: Where the quantized model goes.
        limits: What the result must hold.
        explain: Rank the layers of a result that is far from the float model.
        runtime: How to run the models.
        source: The data of the table: what equalization and smoothing rescale is observed on it.

    Raises:
        ModelError: The model cannot be loaded, or holds nothing to quantize.
        CalibrationError: The table is of another model, or lacks a tensor.
        RecipeError: The recipe means nothing here.
        UnsupportedError: The target cannot express the recipe.
        QualityError: The result is below the cosine asked for; nothing is written.
        OutputError: The output cannot be written, or is an input.
    """
    runtime, limits = runtime or Runtime(), limits or Limits()
    order = order_file(recipe.reorder)
    inputs = [*io.files_of(model), *([order] if order else [])]
    for suffix in ("", ".data", *SIDECARS):
        check_target(output.with_name(f"{output.name}{suffix}"), inputs)
    if source is not None:
        table = completed(model, table, recipe, source, runtime)
    made = draft(model, table, recipe, max_opset=limits.max_opset, runtime=runtime)
    prepared, plan, samples, reference = made.prepared, made.plan, made.samples, made.reference
    emitted = emit(prepared, plan, made.activations, made.weights)
    _record(prepared, plan, table, made.reordering)
    with staged(output) as temporary:
        io.write(prepared, temporary)
        _write_table(temporary, emitted)
        result = Session(temporary, runtime)
        check = comparison.compare(reference, result, samples) if samples else None
        _check_quality(output, check, limits.min_cosine)
        worst = _worst(model, temporary, samples, check, runtime) if explain else ()
        timed = _timed(model, result, samples, runtime)
        size = io.size_of(temporary)
    return Quantized(
        path=output,
        plan=plan,
        emitted=emitted,
        repairs=made.repairs,
        passes=made.passes,
        opset=(made.opset, prepared.opset),
        onnxruntime=lowest_onnxruntime(prepared.opset, prepared.proto.ir_version),
        sizes=(io.size_of(model), size),
        check=check,
        latency=timed,
        layers=worst,
        reordering=made.reordering,
    )


def _write_table(path: Path, emitted: Emitted) -> None:
    """Write the table and its arrays beside the model, if there are any."""
    plain, arrays = (path.with_name(f"{path.name}{suffix}") for suffix in SIDECARS)
    if emitted.table is not None:
        text = json.dumps(emitted.table, indent=1)
        plain.write_text(f"{text}\n", encoding="utf-8")
    if emitted.arrays:
        np.savez(arrays, allow_pickle=False, **emitted.arrays)


def _prepared(path: Path, quantized: Model) -> Model:
    """Load a float model as quantizing sees it: what it inlines has layers to compare.

    Args:
        path: The model.
        quantized: What became of it; records the order of its channels if that is another.
    """
    model = io.load(path)
    prepare(model)
    entries = {entry.key: entry.value for entry in quantized.proto.metadata_props}
    if ORDER in entries:  # counted through the model as it was when it was quantized
        if model.opset < quantized.opset:
            model = raise_opset(model, quantized.opset)
        follow(model, entries[ORDER])
    io.sync(model)
    return model


def ranked(
    reference: Path, quantized: Path, data: Iterable[Batch], runtime: Runtime
) -> list[Layer]:
    """Rank the layers of a quantized file by the error they add, worst first.

    Args:
        reference: The float model.
        quantized: What became of it.
        data: Batches, see `onnxq.layers.rank`.
        runtime: How to run the models.

    Raises:
        ModelError: The quantized model has no layers, was not made from the float model, or a
            model cannot run.
    """
    after = io.load(quantized)
    return rank(_prepared(reference, after), after, data, runtime)


def _worst(
    model: Path, result: Path, samples: list[Batch], check: Comparison | None, runtime: Runtime
) -> tuple[Layer, ...]:
    """Return the layers of a result that is far from the float model, worst first."""
    if check is None or not check.cosine < WARN_COSINE:
        return ()
    try:
        return tuple(ranked(model, result, samples, runtime))
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


def _record(
    model: Model, plan: Plan, table: CalibrationTable, reordering: Reordering | None
) -> None:
    """Write into the model how it was made."""
    record = {
        "onnxq.recipe": dumps(plan.recipe.over(Recipe(target=plan.target.name))),
        "onnxq.float_model_sha256": model.sha256,
        "onnxq.versions": json.dumps(dict(table.versions), sort_keys=True),
        "onnxq.calibration_samples": str(table.samples),
    }
    if reordering is not None and reordering.moved:
        record[ORDER] = recorded(reordering)
    kept = [entry for entry in model.proto.metadata_props if entry.key not in record]
    del model.proto.metadata_props[:]
    model.proto.metadata_props.extend(kept)
    for key, value in record.items():
        model.proto.metadata_props.add(key=key, value=value)


def compare(  # noqa: PLR0913 - what to measure is a keyword each
    reference: Path,
    quantized: Path,
    source: Source,
    *,
    measure_latency: bool = False,
    measure_layers: bool = False,
    metric: Metric | None = None,
    runtime: Runtime | None = None,
) -> Compared:
    """Compare two models on data.

    Args:
        reference: The float model.
        quantized: The quantized model.
        source: The evaluation data; labels in it give accuracies.
        measure_latency: Also time both models, with ``runtime.threads`` (1 if that is 0).
        measure_layers: Also rank the layers by the error they add.
        metric: Also score both models by this, see `onnxq.metrics.metric`.
        runtime: How to run the models.

    Raises:
        ModelError: A model cannot be loaded or run, or the two do not have the same interface.
        CalibrationError: The data does not fit the models, or the metric fails or is NaN.
        RecipeError: The metric does not fit the outputs.
    """
    runtime = runtime or Runtime()
    sessions = [Session(io.load(path).path, runtime) for path in (reference, quantized)]
    found = comparison.compare(sessions[0], sessions[1], batches_of(source, sessions[0]), metric)
    timed = _latency(reference, quantized, source, runtime) if measure_latency else None
    layers = None
    if measure_layers:
        layers = tuple(ranked(reference, quantized, batches_of(source, sessions[0]), runtime))
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
    first = next(batches_of(source, sessions[0]))
    return comparison.latency(sessions[0], sessions[1], first.inputs, runtime.threads)
