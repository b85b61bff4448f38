"""Run data through the float model and fold what is seen into a calibration table.

Each batch is folded at once and forgotten, so memory does not grow with the number of samples.
Workers take batches in turn; since folding is exact in any order, the table does not depend on
who took which, nor on whether the run was interrupted and resumed.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import islice
from threading import Lock
from time import monotonic
from typing import Any

import numpy as np

from onnxq.errors import ModelError
from onnxq.feeds import Batch, rows
from onnxq.graph.io import Model
from onnxq.graph.session import Runtime, Session
from onnxq.table import CalibrationTable, Group, KeptSamples
from onnxq.types import TensorStats

TOOLS = ("onnxq", "onnxruntime", "onnx", "numpy")
POLL = 0.1  # seconds between looks at the workers
RUN_BYTES = 64 << 20  # what one run may return


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to collect.

    Attributes:
        tensors: Names of the tensors to observe.
        keep: How many values to keep at each end of a tensor.
        channels: Tensor name to its axis of channels, where those are wanted too.
        keep_channel: How many values to keep at each end of a channel.
    """

    tensors: Sequence[str]
    keep: int = 4096
    channels: Mapping[str, int] = field(default_factory=dict)
    keep_channel: int = 256


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Where a run leaves what it has so far.

    Attributes:
        save: Called with the table and the number of batches in it.
        every: Seconds between two calls; the last call may come earlier, on Ctrl-C.
    """

    save: Callable[[CalibrationTable, int], None]
    every: float = 20.0


def observer(
    model: Model, tensors: Sequence[str], runtime: Runtime, ordered: Container[str] | None = None
) -> Session:
    """Load the model so that it returns the tensors to observe; graph inputs are not asked for.

    Args:
        model: The float model.
        tensors: Names of the tensors.
        runtime: How to run the model.
        ordered: Those whose values must come in their order; None for all.
    """
    inputs = {tensor.name for tensor in model.graph.inputs}
    inside = [name for name in tensors if name not in inputs]
    blocked = ordered is not None and any(node.op == "Conv" for node in model.graph.nodes)
    loose = [name for name in inside if name not in (ordered or ())] if blocked else []
    return Session(model, runtime, expose=inside, loose=loose)


def empty(
    model: Model, *, batch_size: int, keep: int, groups: int = 1, threads: int = 0
) -> CalibrationTable:
    """Return a table that has seen nothing.

    Args:
        model: The float model it will belong to.
        batch_size: Samples a batch, for the record.
        keep: How many samples to keep for checking results.
        groups: Number of groups of samples.
        threads: Threads inside an operator, for the record.
    """
    return CalibrationTable(
        model_sha256=model.sha256,
        groups=(Group(),) * groups,
        batch_size=batch_size,
        threads=threads,
        versions={tool: version(tool) for tool in TOOLS},
        kept=KeptSamples(limit=keep),
    )


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to do with the batches.

    Attributes:
        wanted: What to collect.
        workers: How many batches to run at once.
        checkpoints: What to do with the table in between; None for nothing.
    """

    wanted: Wanted
    workers: int = 1
    checkpoints: Checkpoints | None = None


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where to begin.

    Attributes:
        table: An empty one made by `empty`, or a checkpoint.
        batches: How many of the batches are in it already.
    """

    table: CalibrationTable
    batches: int = 0


def collect(
    session: Session,
    data: Iterable[Batch],
    job: Job,
    start: Start,
    report: Callable[[int], None] = lambda _: None,
) -> CalibrationTable:
    """Fold batches into a table.

    Args:
        session: The model, as `observer` loads it; closed in the end.
        data: Batches; each is run once.
        job: What to do with them.
        start: Where to begin.
        report: Called now and then with the number of samples so far.

    Returns:
        The table with the batches folded in.

    Raises:
        CalibrationError: The data does not fit the model.
        ModelError: The model cannot run the data.
        KeyboardInterrupt: The run was interrupted, and is at the last checkpoint.
    """
    queue, seen = _Queue(data, start.batches), _Seen(job.wanted, start.table)
    hands = [_Hand(session, seen) for _ in range(job.workers)]
    seconds = job.checkpoints.every if job.checkpoints else np.inf

    def checkpoint() -> None:
        if job.checkpoints and not queue.empty:
            job.checkpoints.save(seen.table(), queue.taken)

    with ThreadPoolExecutor(job.workers) as pool:
        while not queue.empty:
            queue.open_for(seconds)
            running = [pool.submit(hand.work, queue) for hand in hands]
            try:
                for _ in _waiting(running, queue):
                    report(seen.samples)
            except KeyboardInterrupt:
                queue.open_for(0)
                wait(running)
                checkpoint()
                raise
            checkpoint()
    session.close()  # what it holds is more than what the table adds
    report(seen.samples)
    return seen.table()


def _waiting(running: Sequence[Future[None]], queue: "_Queue") -> Iterator[None]:
    """Yield now and then until all workers are done; the first error ends all."""
    while (state := wait(running, POLL, FIRST_EXCEPTION)).not_done:
        if any(future.exception() for future in state.done):
            queue.open_for(0)
        yield
    for future in running:
        future.result()


class _Queue:
    """Batches for several workers, open for a while at a time."""

    def __init__(self, data: Iterable[Batch], done: int) -> None:
        self._data = islice(data, done, None)
        self._lock, self._until = Lock(), 0.0
        self.taken, self.empty = done, False

    def open_for(self, seconds: float) -> None:
        """Give batches from now on, for some seconds."""
        self._until = monotonic() + seconds

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches."""
        while monotonic() < self._until:
            with self._lock:
                batch = next(self._data, None)
                if batch is None:
                    self.empty = True
                    return
                self.taken += 1
            yield batch


class _Seen:
    """What all workers have seen: one observer a tensor and group, used by one worker at a time."""

    def __init__(self, wanted: Wanted, start: CalibrationTable) -> None:
        from onnxq.numerics.observe import Observer  # noqa: PLC0415  the compiler is slow to load

        groups = range(len(start.groups))
        self._start, self._lock = start, Lock()
        self._tensors = [
            {n: _Locked(Observer(wanted.keep)) for n in wanted.tensors} for _ in groups
        ]
        self._channels = [_channels(wanted) for _ in groups]
        self._samples, self._kept = [0 for _ in groups], start.kept

    @property
    def samples(self) -> int:
        """Number of samples so far."""
        return self._start.samples + sum(self._samples)

    def group_of(self, batch: Batch) -> int:
        """Return the group a batch belongs to."""
        return batch.number % len(self._samples)

    def fold(self, group: int, values: Mapping[str, Any], scratch: Any) -> None:
        """Fold in the tensors of one run."""
        for name, tensor in self._tensors[group].items():
            with tensor.lock:
                tensor.observer.see(np.asarray(values[name]), scratch)
        for name, tensor in self._channels[group].items():
            with tensor.lock:
                tensor.observer.see(np.asarray(values[name]))

    def count(self, group: int, batch: Batch) -> None:
        """Count a batch whose runs were all folded in, and offer its samples for keeping."""
        with self._lock:
            self._samples[group] += batch.samples
            self._kept = self._kept.add(batch.rows())

    def table(self) -> CalibrationTable:
        """Return all that was seen, together with what there was at the start."""
        found = [
            Group(samples=samples, tensors=_stats(tensors), channels=_stats(channels))
            for samples, tensors, channels in zip(
                self._samples, self._tensors, self._channels, strict=True
            )
        ]
        groups = tuple(a.merge(b) for a, b in zip(self._start.groups, found, strict=True))
        return replace(self._start, groups=groups, kept=self._kept)


@dataclass(frozen=True)
class _Locked:
    """An observer and the lock of who uses it."""

    observer: Any
    lock: Any = field(default_factory=Lock)


def _channels(wanted: Wanted) -> dict[str, _Locked]:
    """Return one observer for each tensor whose channels are wanted."""
    if not wanted.channels:
        return {}
    from onnxq.numerics.channels import ChannelObserver  # noqa: PLC0415  numba is slow to load

    keep = wanted.keep_channel
    return {name: _Locked(ChannelObserver(axis, keep)) for name, axis in wanted.channels.items()}


def _stats(tensors: Mapping[str, _Locked]) -> dict[str, TensorStats]:
    """Return what observers have seen; those that saw nothing are left out."""
    found = {name: tensor.observer.stats() for name, tensor in tensors.items()}
    return {name: stats for name, stats in found.items() if stats is not None}


class _Hand:
    """One worker."""

    def __init__(self, session: Session, seen: _Seen) -> None:
        from onnxq.numerics.observe import Scratch  # noqa: PLC0415  the compiler is slow to load

        self._session, self._seen = session, seen
        self._scratch = Scratch()
        self._rows: dict[Any, int] = {}

    def work(self, queue: _Queue) -> None:
        """Run and fold batches as long as there are any."""
        for batch in queue:
            group = self._seen.group_of(batch)
            for part in self._parts(batch):
                self._seen.fold(group, self._values(part), self._scratch)
            self._seen.count(group, batch)

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        """Cut a batch so that no run returns more than `RUN_BYTES`, if its rows can be parted.

        How many rows that is depends on nothing but the shapes of the batch, so the table does
        not depend on which worker takes it.
        """
        if not batch.splittable or batch.samples == 1:
            yield batch
            return
        shapes = tuple(array.shape[1:] for array in batch.inputs.values())
        if shapes not in self._rows:
            self._rows[shapes] = max(RUN_BYTES // max(self._size(rows(batch, 0, 1)), 1), 1)
        for start in range(0, batch.samples, self._rows[shapes]):
            yield rows(batch, start, start + self._rows[shapes])

    def _size(self, batch: Batch) -> int:
        """Return how many bytes the run of a batch returns."""
        return sum(np.asarray(value).nbytes for value in self._values(batch).values())

    def _values(self, batch: Batch) -> dict[str, Any]:
        """Run one batch and return all tensors by name."""
        values: dict[str, Any] = dict(batch.inputs)
        values.update(zip(self._session.outputs, _run(self._session, batch), strict=True))
        return values


def _run(session: Session, batch: Batch) -> list[Any]:
    """Run one batch; a failure says that the batch size may be why."""
    try:
        return session.run(batch.inputs)
    except ModelError as error:
        if batch.samples == 1:
            raise
        hint = f"with {batch.samples} samples at once; a batch size of 1 may help"
        raise ModelError(f"{error} ({hint})") from error
