"""Calibrate on a Dask cluster: workers run the shards of the data, the caller merges the tables.

Folding is exact in any order, so it does not matter how many shards there are, who ran which, or
how often one was begun again because its worker died. Models and data are named by path: every
worker must see the same files under the same paths, and have onnxq installed.
"""

import logging
import os
import pickle
import platform
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from onnxq.calibrating import Collection, calibrate
from onnxq.errors import CalibrationError, EmptyShardError, OnnxqError, UsageError
from onnxq.graph import io
from onnxq.graph.session import Runtime, Session
from onnxq.recipe import Recipe
from onnxq.results import Progress
from onnxq.sources import Source, expected, expected_batches, opened
from onnxq.table import CalibrationTable

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)

SHARDS_A_THREAD = 2  # more balance better, but every shard reads all the data
RETRIES = 2  # of a shard that fails in a way that may pass; a lost worker is Dask's to replace
TIMEOUT = 10.0  # seconds until the scheduler must have answered


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where to calibrate.

    Attributes:
        address: Of the Dask scheduler, e.g. ``tcp://host:8786``, or its scheduler file.
        shards: Into how many parts to split the data; 0 for two a thread of the workers. Never
            more than there are batches.
    """

    address: str
    shards: int = 0


@dataclass(frozen=True, kw_only=True)
class Work:
    """What to calibrate: what `onnxq.calibrate` takes.

    Attributes:
        model: The float model.
        source: The calibration data, of which the cluster makes the shards.
        recipe: Observe only what this recipe needs; None for the default of every target.
        collection: What to collect. There are no checkpoints; 0 ``workers`` are 1 here.
        runtime: How to run the model; 0 ``threads`` are 1 here, since Dask fills the cores.
        import_path: Folder to import ``module:Class`` from.
    """

    model: Path
    source: Source
    recipe: Recipe | None = None
    collection: Collection = field(default_factory=Collection)
    runtime: Runtime = field(default_factory=Runtime)
    import_path: Path | None = None


def calibrate_on(
    cluster: Cluster, work: Work, report: Callable[[Progress], None] = lambda _: None
) -> CalibrationTable:
    """Run data through a float model on a Dask cluster and collect statistics.

    Args:
        cluster: Where.
        work: What.
        report: Called when a shard is done.

    Returns:
        The table `onnxq.calibrate` returns for the same work, with as many ``threads``.

    Raises:
        UsageError: Dask is not installed, the scheduler does not answer, or a worker cannot read
            a file.
        ModelError: The model cannot be loaded, run or quantized.
        CalibrationError: The data does not fit the model, or the workers or the scheduler died.
    """
    work = _settled(work)
    with _connected(cluster.address) as client:
        heard: set[str] = set()
        samples, batches = _answer(_submit(client, _survey, work), heard)
        count = cluster.shards or SHARDS_A_THREAD * sum(client.nthreads().values())
        parts = _parts(work, min(count, batches or count))
        futures = [_submit(client, _shard, part) for part in parts]
        return _merged(client, futures, heard, lambda n: report(Progress(done=n, total=samples)))


def calibrate_here(
    work: Work, report: Callable[[Progress], None] = lambda _: None
) -> CalibrationTable:
    """Do the work in this process: `onnxq.calibrate`."""
    return calibrate(
        work.model,
        work.source,
        recipe=work.recipe,
        collection=work.collection,
        runtime=work.runtime,
        report=report,
    )


def _merged(
    client: "Client", futures: list[Any], heard: set[str], report: Callable[[int], None]
) -> CalibrationTable:
    """Merge the tables of shards as they come."""
    from distributed import as_completed  # noqa: PLC0415  an extra

    merged: CalibrationTable | None = None
    for future in as_completed(futures, loop=client.loop):
        table = _answer(future, heard)
        future.release()  # its worker may forget the table
        if table is not None:
            merged = table if merged is None else merged.merge(table)
            report(merged.samples)
    if merged is None:
        raise CalibrationError("no shard holds a batch")
    return merged


def _settled(work: Work) -> Work:
    """Make the work mean the same on every worker.

    Raises:
        UsageError: It asks for what makes no sense on a cluster.
    """
    if work.source.cut.shard != (0, 1):
        raise UsageError("--scheduler makes the shards itself: leave out --shard")
    if work.collection.resume:
        raise UsageError("--scheduler leaves no checkpoints to go on from: leave out --resume")
    source, runtime, recipe = work.source, work.runtime, work.recipe
    path = Path(source.data)
    named = source.reader is None and ":" in source.data
    if source.data != "random" and (path.exists() or not named):
        source = replace(source, data=str(path.absolute()))
    if recipe and (recipe.target or "").endswith(".json"):
        recipe = replace(recipe, target=str(Path(str(recipe.target)).absolute()))
    custom_ops = runtime.custom_ops and runtime.custom_ops.absolute()
    return replace(
        work,
        model=work.model.absolute(),
        source=source,
        recipe=recipe,
        collection=replace(work.collection, checkpoint=None, workers=work.collection.workers or 1),
        runtime=replace(runtime, threads=runtime.threads or 1, custom_ops=custom_ops),
        import_path=work.import_path and work.import_path.absolute(),
    )


def _parts(work: Work, count: int) -> list[Work]:
    """Split work into shards."""
    cuts = (replace(work.source.cut, shard=(index, count)) for index in range(count))
    return [replace(work, source=replace(work.source, cut=cut)) for cut in cuts]


@contextmanager
def _connected(address: str) -> Iterator["Client"]:
    """Connect to the scheduler; leaving cancels what it still does for us.

    Raises:
        UsageError: Dask is not installed, or the scheduler does not answer.
    """
    try:
        from distributed import Client  # noqa: PLC0415  an extra
    except ImportError:
        raise UsageError("--scheduler needs Dask: pip install 'onnxq[dask]'") from None
    is_file = Path(address).is_file()
    if not is_file and ":" not in address:
        raise UsageError(f"--scheduler {address}: no such file; an address is tcp://HOST:PORT")
    where = {"scheduler_file": address} if is_file else {"address": address}
    try:
        client = Client(**where, timeout=TIMEOUT, set_as_default=False)
    except Exception as error:  # of many kinds: dead, no address, a file of something else
        raise UsageError(f"--scheduler {address}: no scheduler answers: {error}") from error
    talk = logging.getLogger("distributed.client")
    level = talk.level
    talk.setLevel(logging.CRITICAL)  # tracebacks of a lost connection; `_answer` says it
    try:
        with client:
            yield client
    finally:
        talk.setLevel(level)


def _submit(client: "Client", function: Callable[[Work], Any], work: Work) -> Any:
    """Send a task as bytes: a worker without onnxq would not survive one it cannot unpickle."""
    task = pickle.dumps(partial(_on_worker, function, work))
    return client.submit(
        lambda task: pickle.loads(task)(),  # noqa: S301  it comes from here
        task,
        key=f"onnxq{function.__name__}-{uuid4()}",
        retries=RETRIES,
    )


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """What became of a task: its result, or what was wrong, which no retry would mend."""

    result: Any
    warnings: tuple[str, ...]


def _answer(future: Any, heard: set[str]) -> Any:
    """Return the result of a task; every warning is passed on once.

    Raises:
        OnnxqError: What the task met.
    """
    from distributed import KilledWorker  # noqa: PLC0415  an extra

    try:
        outcome: _Outcome = future.result()
    except CancelledError:
        raise CalibrationError("the scheduler was lost: nothing was written") from None
    except KilledWorker as error:
        raise CalibrationError(
            f"{error.allowed_failures + 1} workers died running the same shard, the last at "
            f"{error.last_worker.address}: see its log, and whether memory was short"
        ) from None
    except ModuleNotFoundError as error:
        raise UsageError(f"workers need the same onnxq as the one here: {error}") from None
    for text in outcome.warnings:
        if text not in heard:
            log.warning("%s", text)
        heard.add(text)
    if isinstance(outcome.result, OnnxqError):
        raise outcome.result
    return outcome.result


def _on_worker(function: Callable[[Work], Any], work: Work) -> _Outcome:
    """Run a task on a worker; Dask would retry errors that are raised, so ours are returned."""
    result: Any
    with _heard() as warnings:
        try:
            _check_visible(work)
            if work.import_path and str(work.import_path) not in sys.path:
                sys.path.insert(0, str(work.import_path))
            result = function(work)
        except OnnxqError as error:
            result = error
    return _Outcome(result=result, warnings=tuple(warnings))


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Collect the warnings that the caller's log would show."""
    warnings: list[str] = []
    ear = logging.Handler(logging.WARNING)
    ear.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    ours = logging.getLogger("onnxq")
    ours.addHandler(ear)
    try:
        yield warnings
    finally:
        ours.removeHandler(ear)


def _check_visible(work: Work) -> None:
    """Refuse files that this worker cannot read; `_settled` made all paths absolute."""
    target = Path((work.recipe and work.recipe.target) or "")
    named = (work.model, Path(work.source.data), target, work.runtime.custom_ops, work.import_path)
    for path in named:
        if path is not None and path.is_absolute() and not os.access(path, os.R_OK):
            raise UsageError(
                f"{path}: the worker on host {platform.node()} cannot read it: all workers must "
                "see the same files under the same paths"
            )


def _survey(work: Work) -> tuple[int | None, int | None]:
    """Return the numbers of samples and of batches, as far as the reader can tell."""
    session = Session(io.load(work.model).path, replace(work.runtime, optimize=False))
    reader = opened(work.source, session)
    samples = expected(reader, work.source.cut)
    return samples, expected_batches(reader, session, work.source.cut)


def _shard(work: Work) -> CalibrationTable | None:
    """Calibrate one shard; None if the data does not reach it."""
    try:
        return calibrate_here(work, _watch())
    except (EmptyShardError, KeyboardInterrupt):
        return None


def _watch() -> Callable[[Progress], None]:
    """Return what ends the running task, as Ctrl-C would, when nobody wants it any more."""
    from distributed import get_worker  # noqa: PLC0415  an extra

    worker = get_worker()
    key = worker.get_current_task()

    def watch(_: Progress) -> None:
        task = worker.state.tasks.get(key)
        if task is None or task.state == "cancelled":
            raise KeyboardInterrupt

    return watch
