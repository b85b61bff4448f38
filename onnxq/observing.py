"""Statistics of tensors that a table lacks since a pass gave them other values."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from onnxq import collect
from onnxq.graph import io
from onnxq.graph.io import Model
from onnxq.graph.session import Runtime
from onnxq.passes.prepare import prepare
from onnxq.plan import observable, resolve
from onnxq.planning import target_of
from onnxq.recipe import Recipe
from onnxq.rescaling import rescaled
from onnxq.sources import Source, batches_of
from onnxq.table import CalibrationTable

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Lacking:
    """What a table cannot tell of a plan.

    Attributes:
        tensors: Tensors with other values than any it was made of.
        channels: Those whose channels are needed, with their axis.
    """

    tensors: tuple[str, ...]
    channels: dict[str, int]


def completed(
    path: Path,
    table: CalibrationTable,
    recipe: Recipe,
    source: Source,
    runtime: Runtime,
) -> CalibrationTable:
    """Observe what passes rescaled, in the rescaled model, and add it to a table.

    A pass names the tensors it rescales anew, by their factors, so a table never has them unless it
    was completed for the same ones, and nothing else has to know which passes there were.

    Args:
        path: The float model.
        table: Its calibration table.
        recipe: What is asked.
        source: The data the table was made of.
        runtime: How to run the model.
    """
    if not recipe.rescales:
        return table
    model = io.load(path)
    if model.sha256 != table.model_sha256:
        return table  # which is refused where it is looked into
    prepare(model)
    known = set(model.graph.tensors())
    rescaled(model, recipe, table.kept.fit, runtime)
    lacking = _lacking(model, table, recipe, known)
    if not (lacking.tensors or lacking.channels):
        return table
    return _added(model, table, lacking, source, runtime)


def _lacking(model: Model, table: CalibrationTable, recipe: Recipe, known: set[str]) -> Lacking:
    """Return what a plan, or one with other nodes left float, needs of tensors that are new."""
    hardware = target_of(recipe)
    plan = resolve(model, hardware, recipe)
    wanted = dict.fromkeys([*plan.observed, *observable(model, hardware)])
    tensors = [n for n in wanted if n not in known and n not in table.tensors]
    channels = {n: axis for n, axis in plan.channels.items() if n not in known}
    return Lacking(tensors=tuple(dict.fromkeys([*tensors, *channels])), channels=channels)


def _added(
    model: Model, table: CalibrationTable, lacking: Lacking, source: Source, runtime: Runtime
) -> CalibrationTable:
    """Run the data through a rescaled model and add what is seen to the first group of a table."""
    session = collect.observer(model, lacking.tensors, runtime, ordered=lacking.channels)
    start = collect.empty(model, batch_size=source.cut.batch_size, keep=0)
    wanted = collect.Wanted(tensors=lacking.tensors, channels=lacking.channels)
    found = collect.collect(
        session,
        batches_of(source, session),
        collect.Job(wanted=wanted),
        collect.Start(table=start),
    )
    if found.samples != table.samples:
        log.warning(
            "what was rescaled is observed on %d samples, all else on the %d of the table",
            found.samples,
            table.samples,
        )
    first = table.groups[0]
    merged = replace(
        first,
        tensors={**first.tensors, **found.tensors},
        channels={**first.channels, **found.channels},
    )
    return replace(table, groups=(merged, *table.groups[1:]))
