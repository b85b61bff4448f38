"""Run data through the float model and fold what is seen into a calibration table.

Each batch is folded at once and forgotten, so memory does not grow with the number of samples.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from importlib.metadata import version
from typing import Any

import numpy as np

from onnxq.errors import CalibrationError, ModelError
from onnxq.feeds import Batch
from onnxq.graph.io import Model
from onnxq.graph.session import Runtime, Session
from onnxq.numerics.histogram import merge
from onnxq.plan import Plan
from onnxq.table import CalibrationTable, KeptSamples
from onnxq.types import TensorStats

TOOLS = ("onnxq", "onnxruntime", "onnx", "numpy")


def observer(model: Model, tensors: Sequence[str], runtime: Runtime) -> Session:
    """Load the model so that it returns the tensors to observe; graph inputs are not asked for."""
    inputs = {tensor.name for tensor in model.graph.inputs}
    inside = [name for name in tensors if name not in inputs]
    return Session(model, runtime, expose=inside)


def calibrate(
    session: Session,
    tensors: Sequence[str],
    data: Iterable[Batch],
    table: CalibrationTable,
    report: Callable[[int], None] = lambda _: None,
) -> CalibrationTable:
    """Fold batches into a table.

    Args:
        session: The model, as `observer` loads it.
        tensors: Names of the tensors to observe.
        data: Batches; each is run once.
        table: Where to start, usually an empty one made by `empty`.
        report: Called after each batch with the number of samples so far.

    Returns:
        The table with the batches folded in.

    Raises:
        CalibrationError: A tensor has no ordinary value at all, or is not float.
        ModelError: The model cannot run the data.
    """
    from onnxq.numerics.observe import observe  # noqa: PLC0415  the compiler is slow to load

    seen: dict[str, TensorStats] = dict(table.tensors)
    kept, samples = table.kept, table.samples
    for batch in data:
        values = dict(batch.inputs)
        values.update(zip(session.outputs, _run(session, batch), strict=True))
        for name in tensors:
            stats = observe(np.asarray(values[name]))
            seen[name] = merge(seen[name], stats) if name in seen else stats
        kept = kept.add(batch.rows())
        samples += batch.samples
        report(samples)
    return CalibrationTable(
        model_sha256=table.model_sha256,
        tensors=seen,
        samples=samples,
        batch_size=table.batch_size,
        versions=table.versions,
        kept=kept,
    )


def _run(session: Session, batch: Batch) -> list[Any]:
    """Run one batch; a failure says that the batch size may be why."""
    try:
        return session.run(batch.inputs)
    except ModelError as error:
        if batch.samples == 1:
            raise
        hint = f"with {batch.samples} samples at once; a batch size of 1 may help"
        raise ModelError(f"{error} ({hint})") from error


def empty(model: Model, batch_size: int, keep: int) -> CalibrationTable:
    """Return a table that has seen nothing.

    Args:
        model: The float model it will belong to.
        batch_size: Samples a batch, for the record.
        keep: How many samples to keep for checking results.
    """
    return CalibrationTable(
        model_sha256=model.sha256,
        tensors={},
        samples=0,
        batch_size=batch_size,
        versions={tool: version(tool) for tool in TOOLS},
        kept=KeptSamples(limit=keep),
    )


def statistics(table: CalibrationTable, model: Model, plan: Plan) -> dict[str, TensorStats]:
    """Look up what the table saw of every activation of a plan.

    Returns:
        Activation name to the statistics of the first of its sources that the table has, merged
        with those of its group.

    Raises:
        CalibrationError: The table is not of this model, or lacks a tensor.
    """
    if table.model_sha256 != model.sha256:
        raise CalibrationError(
            f"the calibration table belongs to another model than {model.path}: calibrate this one"
        )
    found: dict[str, TensorStats] = {}
    missing = []
    for name, activation in plan.activations.items():
        there = [source for source in activation.sources if source in table.tensors]
        if there:
            found[name] = table.tensors[there[0]]
        else:
            missing.append(name)
    if missing:
        raise CalibrationError(
            f"the calibration table lacks tensor {missing[0]!r} ({len(missing)} in all): "
            "calibrate again with this recipe"
        )
    groups = {name: [name, *plan.activations[name].group] for name in found}
    return {name: reduce(merge, (found[each] for each in group)) for name, group in groups.items()}


def unfit(stats: Mapping[str, TensorStats]) -> dict[str, str]:
    """Return the activations that integers cannot hold, each with the reason.

    An infinite or huge value says "never" or "no limit" to what reads it; the nearest code of a
    range would say something else.

    Args:
        stats: What was seen of every activation of a plan.
    """
    reasons = {}
    for name, seen in stats.items():
        if seen.infinite:
            reasons[name] = "holds infinite or huge values, which integers would cut off"
        elif seen.nan:
            reasons[name] = "holds NaN on the calibration data"
        elif not seen.count.any():
            reasons[name] = "was empty in all calibration data"
    return reasons
