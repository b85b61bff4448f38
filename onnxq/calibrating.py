"""The first stage: a float model and data to a calibration table."""

import gc
import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from onnxq import collect, table_file
from onnxq.errors import Interrupted
from onnxq.graph import io
from onnxq.graph.io import Model
from onnxq.graph.query import channel_axis, tensor_types
from onnxq.graph.session import Runtime
from onnxq.passes.prepare import prepare
from onnxq.plan import observable, resolve
from onnxq.planning import target_of
from onnxq.recipe import Recipe
from onnxq.results import Progress
from onnxq.sources import Source, batches_from, expected, fingerprint, opened
from onnxq.table import CalibrationTable
from onnxq.targets import names, target

REPAIRED = 32  # where repairs are tried, and judged on others; eight of them for checking
RECONSTRUCTED = 64  # samples to keep where weights are reconstructed; eight of them for checking
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What calibration shall collect, and how.

    Attributes:
        keep_samples: How many samples to keep in the table, for checking results.
        keep_extremes: How many values to keep at each end of a tensor.
        keep_channel_extremes: How many values to keep at each end of a channel.
        groups: Into how many groups of samples the statistics are kept apart.
        channels: Also collect statistics a channel: of which axis, or ``auto`` for that of the
            operators that read the tensor; None for not.
        workers: How many batches to run at once; 0 for one or two by the number of cores.
        checkpoint: Where to leave what there is so far, every few seconds and on Ctrl-C; None
            for nowhere.
        checkpoint_every: Seconds between checkpoints.
        resume: Go on from the checkpoint, if there is one.
    """

    keep_samples: int = 16
    keep_extremes: int = 4096
    keep_channel_extremes: int = 256
    groups: int = 1
    channels: int | Literal["auto"] | None = None
    workers: int = 0
    checkpoint: Path | None = None
    checkpoint_every: float = 20.0
    resume: bool = False


def calibrate(
    model: Path,
    source: Source,
    *,
    recipe: Recipe | None = None,
    collection: Collection | None = None,
    runtime: Runtime | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> CalibrationTable:
    """Run data through a float model and collect statistics.

    Args:
        model: The float model.
        source: The calibration data.
        recipe: Observe only what this recipe needs; None for the default of every target.
        collection: What to collect, and how; by default what the recipe needs.
        runtime: How to run the model.
        report: Called now and then.

    Returns:
        The table; `onnxq.table_file.save` writes it.

    Raises:
        ModelError: The model cannot be loaded, run or quantized.
        CalibrationError: The data does not fit the model, or the checkpoint the run.
        Interrupted: Ctrl-C; what there is so far is in the checkpoint.
    """
    runtime, collection = runtime or Runtime(), collection or collection_for(recipe)
    workers, runtime = _hands(collection.workers, runtime)
    prepared = io.load(model)
    prepare(prepared)
    wanted = _wanted(prepared, recipe, collection)
    session = collect.observer(prepared, wanted.tensors, runtime, ordered=wanted.channels)
    reader = opened(source, session)
    total = expected(reader, source.cut)
    table = collect.empty(
        prepared,
        batch_size=source.cut.batch_size,
        keep=collection.keep_samples,
        groups=collection.groups,
        threads=runtime.threads,
    )
    del prepared  # the session has its own copy of the weights
    gc.collect()  # nodes and tensors refer to each other
    table, done, checkpoints = _resumed(table, collection, wanted, source)
    try:
        return collect.collect(
            session,
            batches_from(source, reader, session),
            collect.Job(wanted=wanted, workers=workers, checkpoints=checkpoints),
            collect.Start(table=table, batches=done),
            lambda samples: report(Progress(done=samples, total=total)),
        )
    except KeyboardInterrupt:
        if checkpoints is None:
            raise
        raise Interrupted(f"go on with --resume: {collection.checkpoint}") from None


def collection_for(recipe: Recipe | None, *, repairs: bool = False) -> Collection:
    """Return what a recipe needs: what is fitted on samples is fitted on many.

    Args:
        recipe: What is asked.
        repairs: Whether repairs will be tried that it does not ask for.
    """
    if recipe is not None and recipe.reconstruct:
        return Collection(keep_samples=RECONSTRUCTED)
    return Collection(keep_samples=REPAIRED) if repairs else Collection()


def _hands(workers: int, runtime: Runtime) -> tuple[int, Runtime]:
    """Share the cores: how many batches to run at once, with how many threads each."""
    cores = os.cpu_count() or 1
    workers = workers or min(cores, 2)
    return workers, replace(runtime, threads=runtime.threads or max(cores // workers, 1))


def _wanted(model: Model, recipe: Recipe | None, collection: Collection) -> collect.Wanted:
    """Choose the tensors to observe."""
    planned: dict[str, int] = {}
    if recipe is None:
        tensors = observable(model, *(target(name) for name in names()))
    else:
        plan = resolve(model, target_of(recipe), recipe)
        tensors, planned = plan.observed, plan.channels
    axes = {**_axes(model, tensors, collection.channels), **planned}
    return collect.Wanted(
        tensors=tensors,
        keep=collection.keep_extremes,
        channels=axes,
        keep_channel=collection.keep_channel_extremes,
    )


def _axes(
    model: Model, tensors: Sequence[str], asked: int | Literal["auto"] | None
) -> dict[str, int]:
    """Return the axis of channels of every tensor, if channels are asked for."""
    if asked is None:
        return {}
    if asked != "auto":
        return dict.fromkeys(tensors, asked)
    types, found = tensor_types(model), model.graph.tensors()
    shapes = {name: types[name].shape for name in tensors if name in types}
    ranks = {name: len(shape) for name, shape in shapes.items() if shape is not None}
    return {name: channel_axis(found[name], ranks.get(name)) for name in tensors}


def _resumed(
    table: CalibrationTable, collection: Collection, wanted: collect.Wanted, source: Source
) -> tuple[CalibrationTable, int, collect.Checkpoints | None]:
    """Return where to start: table, batches in it, and how to leave checkpoints."""
    path = collection.checkpoint
    if path is None:
        return table, 0, None
    what = [
        *(table.model_sha256, table.threads, dict(table.versions), len(table.groups)),
        *(asdict(wanted), collection.keep_samples, fingerprint(source)),
    ]
    run = hashlib.sha256(json.dumps(what, default=str).encode()).hexdigest()
    checkpoints = collect.Checkpoints(
        save=lambda part, batches: table_file.save(
            part, path, table_file.Checkpoint(run=run, batches=batches)
        ),
        every=collection.checkpoint_every,
    )
    if collection.resume and path.exists():
        table, batches = table_file.resume(path, run)
        log.warning("going on after %d samples from %s", table.samples, path)
        return table, batches, checkpoints
    if collection.resume:
        log.warning("there is no %s to go on from: from the beginning", path)
    elif path.exists():
        log.warning("%s is left from another run, and will be replaced: --resume goes on", path)
    return table, 0, checkpoints
