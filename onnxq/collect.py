"""Run data through the float model and fold what is seen into a calibration table.

Each batch is folded at once and forgotten, so memory does not grow with the number of samples.
Workers take batches in turn; since folding is exact in any order, the table does not depend on
who took which, nor on whether the run was interrupted and resumed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import reduce
from importlib.metadata import version
from itertools import islice
from threading import Lock
from time import monotonic
from typing import Any

import numpy as np

from onnxq.errors import ModelError
from onnxq.feeds import Batch
from onnxq.graph.io import Model
from onnxq.graph.session import Runtime, Session
from onnxq.table import CalibrationTable, Group, KeptSamples

TOOLS = ("onnxq", "onnxruntime", "onnx", "numpy")
POLL = 0.1  # seconds between looks at the workers


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


def observer(model: Model, tensors: Sequence[str], runtime: Runtime) -> Session:
    """Load the model so that it returns the tensors to observe; graph inputs are not asked for."""
    inputs = {tensor.name for tensor in model.graph.inputs}
    inside = [name for name in tensors if name not in inputs]
    return Session(model, runtime, expose=inside)


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
        session: The model, as `observer` loads it.
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
    queue = _Queue(data, start.batches)
    groups, keep = len(start.table.groups), start.table.kept.limit
    hands = [_Hand(session, job.wanted, groups, keep) for _ in range(job.workers)]
    seconds = job.checkpoints.every if job.checkpoints else np.inf

    def checkpoint() -> None:
        if job.checkpoints and not queue.empty:
            job.checkpoints.save(reduce(_add, hands, start.table), queue.taken)

    with ThreadPoolExecutor(job.workers) as pool:
        while not queue.empty:
            queue.open_for(seconds)
            running = [pool.submit(hand.work, queue) for hand in hands]
            try:
                for _ in _waiting(running, queue):
                    report(start.table.samples + sum(hand.samples for hand in hands))
            except KeyboardInterrupt:
                queue.open_for(0)
                wait(running)
                checkpoint()
                raise
            checkpoint()
    report(start.table.samples + sum(hand.samples for hand in hands))
    return reduce(_add, hands, start.table)


def _waiting(running: Sequence[Future[None]], queue: "_Queue") -> Iterator[None]:
    """Yield now and then until all workers are done; the first error ends all."""
    while (state := wait(running, POLL, FIRST_EXCEPTION)).not_done:
        if any(future.exception() for future in state.done):
            queue.open_for(0)
        yield
    for future in running:
        future.result()


def _add(table: CalibrationTable, hand: "_Hand") -> CalibrationTable:
    """Add what one worker has seen to a table."""
    groups = tuple(a.merge(b) for a, b in zip(table.groups, hand.groups(), strict=True))
    return replace(table, groups=groups, kept=table.kept.merge(hand.kept))


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


class _Hand:
    """What one worker has seen."""

    def __init__(self, session: Session, wanted: Wanted, groups: int, keep: int) -> None:
        from onnxq.numerics.observe import SCRATCH  # noqa: PLC0415  the compiler is slow to load

        self._session, self._wanted = session, wanted
        self._scratch = np.zeros(SCRATCH, np.int32)
        self._seen: list[dict[str, Any]] = [{} for _ in range(groups)]
        self._channels: list[dict[str, Any]] = [{} for _ in range(groups)]
        self._samples = [0] * groups
        self.kept = KeptSamples(limit=keep)

    @property
    def samples(self) -> int:
        """Number of samples so far."""
        return sum(self._samples)

    def work(self, queue: _Queue) -> None:
        """Run and fold batches as long as there are any."""
        for batch in queue:
            values = dict(batch.inputs)
            values.update(zip(self._session.outputs, _run(self._session, batch), strict=True))
            group = batch.number % len(self._seen)
            self._fold(group, values)
            self._samples[group] += batch.samples
            self.kept = self.kept.add(batch.rows())

    def _fold(self, group: int, values: Mapping[str, Any]) -> None:
        """Fold the tensors of one batch."""
        from onnxq.numerics.channels import ChannelObserver  # noqa: PLC0415
        from onnxq.numerics.observe import Observer  # noqa: PLC0415

        seen, channels = self._seen[group], self._channels[group]
        for name in self._wanted.tensors:
            if name not in seen:
                seen[name] = Observer(self._wanted.keep, self._scratch)
            seen[name].see(np.asarray(values[name]))
        for name, axis in self._wanted.channels.items():
            if name not in channels:
                channels[name] = ChannelObserver(axis, self._wanted.keep_channel)
            channels[name].see(np.asarray(values[name]))

    def groups(self) -> Iterator[Group]:
        """Return what was seen of each group."""
        for samples, seen, channels in zip(self._samples, self._seen, self._channels, strict=True):
            yield Group(
                samples=samples,
                tensors={name: one.stats() for name, one in seen.items()},
                channels={name: one.stats() for name, one in channels.items()},
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
