"""Score candidates on samples, running only what they change.

The samples go through the pieces of a chain. What comes before the first piece a candidate
changes is run once and remembered, batch by batch; a candidate is dropped as soon as the batches
seen show that it cannot win (`onnxq.search.hopeless`).
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxq.graph.chain import Chain
from onnxq.graph.session import Session
from onnxq.metrics.judge import checked_score
from onnxq.search.exam import Exam, by_sample
from onnxq.search.hopeless import is_hopeless
from onnxq.types import Array


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A candidate that was run on all samples.

    Attributes:
        score: What the metric says.
        units: By batch, what is compared sample by sample, or batch by batch.
        constants: What the candidate changes.
        sessions: The pieces it changes.
    """

    score: float
    units: Sequence[Array]
    constants: Mapping[str, Array] = field(default_factory=dict)
    sessions: Mapping[int, Session] = field(default_factory=dict)


class Bench:
    """A chain, and how far the samples have come in it.

    Attributes:
        now: What the chain scores as it is.
        evaluations: Candidates tried.
        runs: Batches run through to the outputs, those that only came to a later piece left out.
    """

    def __init__(self, chain: Chain, exam: Exam, *, workers: int = 1, drop: bool = True) -> None:
        """Score the chain as it is.

        Args:
            chain: The model.
            exam: The samples.
            workers: Batches to run at once.
            drop: Whether to give candidates up before all samples were seen.
        """
        self._chain, self._exam = chain, exam
        self._workers, self._drop = workers, drop
        self._pool = ThreadPoolExecutor(workers)
        self._at, self._values = 0, [dict(batch.inputs) for batch in exam.batches]
        self.evaluations, self.runs = 0, 0
        self.now = self._trial(list(self._evidence({})), {}, {})

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
        self._advance(self._chain.first(constants))
        found: list[Sequence[Any]] = []
        units: list[Array] = []
        for evidence in self._evidence(sessions):
            found.append(evidence)
            units.append(self._units(evidence))
            if self._drop and self._is_hopeless(units, bar, single=by_sample(evidence)):
                return None
        return self._trial(found, constants, sessions)

    def adopt(self, constants: Mapping[str, Array]) -> None:
        """Make a candidate the present state without asking, and score it."""
        self._chain.keep(constants, self._chain.changed(constants))
        self._advance(0)
        self.now = self._trial(list(self._evidence({})), {}, {})

    def keep(self, trial: Trial) -> None:
        """Make a candidate the present state."""
        self._chain.keep(trial.constants, trial.sessions)
        self.now = trial

    def _trial(
        self,
        evidence: Sequence[Sequence[Any]],
        constants: Mapping[str, Array],
        sessions: Mapping[int, Session],
    ) -> Trial:
        """Score what was found on all batches."""
        together = [item for items in evidence for item in items]
        score = checked_score(self._exam.metric, together, "quantized")
        units = [self._units(items) for items in evidence]
        return Trial(score=score, units=units, constants=constants, sessions=sessions)

    def _advance(self, piece: int) -> None:
        """Bring all samples to a piece; back to the first one if they are past it."""
        if piece < self._at:
            self._at, self._values = 0, [dict(batch.inputs) for batch in self._exam.batches]
        if piece > self._at:
            start, self._at = self._at, piece
            moved = self._pool.map(lambda v: self._chain.run(v, start, piece), self._values)
            self._values = list(moved)

    def _evidence(self, sessions: Mapping[int, Session]) -> Iterator[Sequence[Any]]:
        """Run the batches, as many at once as there are workers, and yield what is found."""

        def run(number: int) -> Sequence[Any]:
            """Run one batch from where the samples are."""
            outputs = self._chain.run(self._values[number], self._at, sessions=sessions)
            return self._exam.evidence(number, outputs)

        count, step = len(self._exam.batches), self._workers
        for start in range(0, count, step):
            numbers = range(start, min(start + step, count))
            self.runs += len(numbers)
            yield from self._pool.map(run, numbers)

    def _is_hopeless(self, after: Sequence[Array], bar: float, *, single: bool) -> bool:
        """Say whether a candidate cannot exceed a score any more.

        Args:
            after: Its scores on the batches seen.
            bar: The score to exceed.
            single: Whether the scores are of single samples, which have a best one.
        """
        before, seen = self.now.units, len(after)
        gains = np.concatenate(after) - np.concatenate(before[:seen])
        rest = np.concatenate([np.zeros(0), *before[seen:]])
        best = getattr(self._exam.metric, "best", np.inf)
        room = best - rest if single else np.full(rest.shape, np.inf)
        return is_hopeless(gains, room, bar - self.now.score)

    def _units(self, evidence: Sequence[Any]) -> Array:
        """Return the scores of a batch: of its samples if they have any, else one of them all."""
        if by_sample(evidence):
            return np.array(evidence, np.float64)
        return np.array([self._exam.metric.score(evidence)])
