"""Score candidates on samples, running only what they change.

The samples go through the pieces of a chain. What they are in front of a piece is a *stage*: from
that of the first piece a candidate changes on it is run, batch by batch, and dropped as soon as the
batches seen show that it cannot win (`onnxq.search.hopeless`). A candidate that is kept brings the
stages behind it along.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onnxq.graph.chain import Chain
from onnxq.graph.session import Session
from onnxq.metrics.judge import checked_score
from onnxq.search.exam import Exam
from onnxq.types import Array

Values = Mapping[str, Any]  # of the tensors a batch is in front of a piece
HELD = 1 << 29  # bytes of stages that are held at most, the one in use besides


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A candidate that was run on all samples.

    Attributes:
        score: What the metric says.
        units: What is compared sample by sample, or batch by batch.
        constants: What the candidate changes.
        sessions: The pieces it changes.
        stages: The samples in front of later pieces, by batch.
    """

    score: float
    units: Array
    constants: Mapping[str, Array] = field(default_factory=dict)
    sessions: Mapping[int, Session] = field(default_factory=dict)
    stages: Mapping[int, Sequence[Values]] = field(default_factory=dict)


class Bench:
    """A chain, and how far the samples have come in it.

    Attributes:
        now: What the chain scores as it is.
        evaluations: Candidates tried.
        runs: Batches run through to the outputs, those that only came to a later piece left out.
    """

    def __init__(
        self,
        chain: Chain,
        exam: Exam,
        *,
        workers: int = 1,
        drop: bool = True,
        ordered: bool = True,
    ) -> None:
        """Score the chain as it is.

        Args:
            chain: The model.
            exam: The samples.
            workers: Batches to run at once.
            drop: Whether to give candidates up before all samples were seen.
            ordered: Candidates change pieces in the order of the chain, mostly: one stage is held.
                Else as many as `HELD` allows.
        """
        self._chain, self._exam = chain, exam
        self._workers, self._drop = workers, drop
        self._pool = ThreadPoolExecutor(workers)
        self._stages: dict[int, list[Values]] = {0: [dict(b.inputs) for b in exam.batches]}
        self._stops: list[int] = []
        self.evaluations, self.runs = 0, 0
        self.now = self._trial(list(self._evidence(0, {}, {})), {}, {}, {})
        if not ordered:
            self._hold_stages()

    def ask(self, constants: Mapping[str, Array], bar: float) -> Trial | None:
        """Score a candidate.

        Args:
            constants: What it changes.
            bar: Give up once it is clear that the score does not exceed this.

        Returns:
            The trial on all samples, or None if it was given up.

        Raises:
            CalibrationError: The score is NaN or infinite.
        """
        self.evaluations += 1
        sessions = self._chain.changed(constants)
        first = self._chain.first(constants)
        found: list[Sequence[Any]] = []
        units: list[Array] = []
        stages: dict[int, list[Values]] = {stop: [] for stop in self._stops if stop > first}
        for evidence in self._evidence(first, sessions, stages):
            found.append(evidence)
            units.append(self._exam.units(evidence))
            wanted = bar - self.now.score
            if self._drop and self._exam.is_hopeless(np.concatenate(units), self.now.units, wanted):
                return None
        return self._trial(found, constants, sessions, stages)

    def adopt(self, constants: Mapping[str, Array]) -> None:
        """Make a candidate the present state without asking, and score it."""
        self._chain.keep(constants, self._chain.changed(constants))
        stages: dict[int, list[Values]] = {stop: [] for stop in self._stops}
        found = list(self._evidence(0, {}, stages))
        self._stages = {0: self._stages[0], **stages}
        self.now = self._trial(found, {}, {}, {})

    def keep(self, trial: Trial) -> None:
        """Make a candidate the present state."""
        self._chain.keep(trial.constants, trial.sessions)
        first = self._chain.first(trial.constants)
        kept = {piece: held for piece, held in self._stages.items() if piece <= first}
        self._stages = {**kept, **{piece: list(held) for piece, held in trial.stages.items()}}
        self.now = replace(trial, stages={})

    def _trial(
        self,
        evidence: Sequence[Sequence[Any]],
        constants: Mapping[str, Array],
        sessions: Mapping[int, Session],
        stages: Mapping[int, Sequence[Values]],
    ) -> Trial:
        """Score what was found on all batches."""
        together = [item for items in evidence for item in items]
        score = checked_score(self._exam.metric, together, "quantized")
        units = np.concatenate([self._exam.units(items) for items in evidence])
        return Trial(
            score=score, units=units, constants=constants, sessions=sessions, stages=stages
        )

    def _hold_stages(self) -> None:
        """Hold the stages of as many pieces, evenly, as there is room for."""
        count = len(self._chain.pieces)
        sizes = []
        for piece in range(1, count):
            self._stage(piece)
            sizes.append(sum(_bytes(values) for values in self._stages[piece]))
        step = max(math.ceil(sum(sizes) / HELD), 1)
        self._stops = list(range(step, count, step))
        self._stages = {0: self._stages[0]}
        values, at = self._stages[0], 0
        for stop in self._stops:
            values, at = self._advanced(values, at, stop), stop
            self._stages[stop] = values

    def _stage(self, piece: int) -> list[Values]:
        """Return the samples in front of a piece, from the nearest stage that is held."""
        if piece not in self._stages:
            at = max(each for each in self._stages if each < piece)
            values = self._advanced(self._stages[at], at, piece)
            held = {each: self._stages[each] for each in (0, *self._stops) if each in self._stages}
            self._stages = {**held, piece: values}
        return self._stages[piece]

    def _advanced(self, values: Sequence[Values], start: int, stop: int) -> list[Values]:
        """Run all samples from one piece to another."""
        return list(self._pool.map(lambda each: self._chain.run(each, start, stop), values))

    def _evidence(
        self, first: int, sessions: Mapping[int, Session], stages: Mapping[int, list[Values]]
    ) -> Iterator[Sequence[Any]]:
        """Run the batches, as many at once as there are workers, and yield what is found.

        Args:
            first: The piece to begin with.
            sessions: Use these in place of the pieces' own.
            stages: Filled with what the samples are in front of these pieces.
        """
        begin = self._stage(first)
        stops = [*sorted(stages), len(self._chain.pieces)]

        def run(number: int) -> tuple[list[Values], Sequence[Any]]:
            """Run one batch to the end."""
            values, at = begin[number], first
            passed: list[Values] = []
            for stop in stops:
                values, at = self._chain.run(values, at, stop, sessions=sessions), stop
                passed.append(values)
            return passed, self._exam.evidence(number, passed[-1])

        count, step = len(self._exam.batches), self._workers
        for start in range(0, count, step):
            numbers = range(start, min(start + step, count))
            self.runs += len(numbers)
            for passed, evidence in self._pool.map(run, numbers):
                for stop, values in zip(stops, passed, strict=True):
                    if stop in stages:
                        stages[stop].append(values)
                yield evidence


def _bytes(values: Values) -> int:
    """Return how much memory the tensors of a stage take."""
    return sum(np.asarray(each).nbytes for each in values.values())
