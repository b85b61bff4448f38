"""Go through the tensors of a model and move each to where the metric is best."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from onnxq.emit.constants import Place
from onnxq.errors import Interrupted, ModelError
from onnxq.graph.session import Runtime, Session
from onnxq.recipe import TensorRule
from onnxq.search.bench import Bench, Trial
from onnxq.search.candidates import Coordinate, coordinates
from onnxq.search.checkpoint import Checkpoint
from onnxq.search.emission import Emission, chained
from onnxq.search.exam import Exam
from onnxq.search.patches import Patches
from onnxq.search.refine import Line, refine
from onnxq.search.settings import Move, TuneProgress, Tuning
from onnxq.types import QuantParams


class Search:
    """A model, its samples, and where each tensor is.

    Attributes:
        chain: The model in pieces.
        bench: Scores candidates.
    """

    def __init__(
        self, emission: Emission, exam: Exam, whole: Session, tuning: Tuning, runtime: Runtime
    ) -> None:
        """Score the model as it is.

        Args:
            emission: The model.
            exam: What to score it on.
            whole: The model as it was written.
            tuning: How to tune.
            runtime: How to run models.

        Raises:
            ModelError: There is nothing to move.
        """
        made = emission.draft
        used: dict[Place, QuantParams] = dict(made.activations.items())
        used |= dict(made.weights.items())
        self._tuning = tuning
        self._patches = Patches(made.prepared, made.plan, used, emission.emitted.places)
        workers = tuning.workers or os.cpu_count() or 1
        self.chain = chained(emission, exam, whole, replace(runtime, threads=1))
        self.bench = Bench(self.chain, exam, workers=workers, drop=tuning.drop)
        found = coordinates(made.prepared, made.plan, made.seen, used, tuning.over)
        if not found:
            raise ModelError(
                f"{made.prepared.path}: nothing to tune: no tensor's range is open to choice"
            )
        self._coordinates = sorted(found, key=self._first)
        self._at = {each.name: each.start for each in found}
        self._version, self._settled = 0, dict.fromkeys(self._at, -1)
        self._moves: dict[str, Move] = {}

    def _first(self, coordinate: Coordinate) -> int:
        """Return the first piece a coordinate touches."""
        return self.chain.first(self._patches.constants(coordinate.change(coordinate.start)) or ())

    def rules(self) -> dict[str, TensorRule]:
        """Return what a recipe says of the tensors that moved."""
        moved = [each for each in self._coordinates if self._at[each.name] != each.start]
        return {each.name: each.rule(self._at[each.name]) for each in moved}

    def run(
        self, checkpoint: Checkpoint, report: Callable[[TuneProgress], None] = lambda _: None
    ) -> list[Move]:
        """Move the tensors.

        Args:
            checkpoint: Where to leave what was found.
            report: Called before every tensor.

        Returns:
            What became of each tensor looked at.

        Raises:
            CalibrationError: The metric fails, or the checkpoint is of another search.
            Interrupted: Ctrl-C; what was found is in the checkpoint.
        """
        done = self._restore(checkpoint.load())
        total = len(self._coordinates)
        try:
            for number in range(done, total * self._tuning.sweeps):
                coordinate = self._coordinates[number % total]
                score = self.bench.now.score
                reached = self._tuning.target is not None and score >= self._tuning.target
                if reached or min(self._settled.values()) == self._version:
                    break
                report(TuneProgress(done=number, total=total, name=coordinate.name, score=score))
                if self._settled[coordinate.name] != self._version:
                    self._refine(coordinate)
                    checkpoint.save(self._state(number + 1))
        except KeyboardInterrupt:
            if self._tuning.checkpoint is None:
                raise
            raise Interrupted(f"go on with --resume: {self._tuning.checkpoint}") from None
        return list(self._moves.values())

    def _refine(self, coordinate: Coordinate) -> None:
        """Move one tensor to where the metric is best."""
        name, at, before = coordinate.name, self._at[coordinate.name], self.bench.now.score
        trials: dict[int, Trial] = {}
        asked = self.bench.evaluations

        def ask(choice: int, bar: float) -> float | None:
            """Score a choice."""
            constants = self._patches.constants(coordinate.change(choice))
            trial = None if constants is None else self.bench.ask(constants, bar)
            if trial is None:
                return None
            trials[choice] = trial
            return trial.score

        line = Line(
            count=len(coordinate.choices), start=at, score=before, ask=ask, cost=coordinate.cost
        )
        best = refine(line, self._tuning.threshold(before))
        if best != at:
            self.bench.keep(trials[best])
            self._patches.keep(coordinate.change(best))
            self._at[name] = best
            self._version += 1
        self._settled[name] = self._version
        old = self._moves.get(name)
        self._moves[name] = Move(
            name=name,
            kind=coordinate.kind,
            reason=coordinate.reason,
            before=coordinate.rule(coordinate.start).range_options or {},
            after=coordinate.rule(best).range_options or {},
            gain=self.bench.now.score - before + (old.gain if old else 0.0),
            evaluations=self.bench.evaluations - asked + (old.evaluations if old else 0),
        )

    def _state(self, done: int) -> dict[str, Any]:
        """Return what to go on from."""
        return {
            "done": done,
            "at": self._at,
            "version": self._version,
            "settled": self._settled,
            "moves": [asdict(move) for move in self._moves.values()],
            "evaluations": self.bench.evaluations,
            "runs": self.bench.runs,
        }

    def _restore(self, state: Mapping[str, Any] | None) -> int:
        """Return to a saved state; return how many tensors were done in it."""
        if state is None:
            return 0
        self._at = dict(state["at"])
        self._version, self._settled = state["version"], dict(state["settled"])
        self._moves = {move["name"]: Move(**move) for move in state["moves"]}
        change: dict[Place, QuantParams] = {}
        for each in self._coordinates:
            if self._at[each.name] != each.start:
                change |= each.change(self._at[each.name])
        constants = self._patches.constants(change)
        assert constants is not None, "each change was kept before"
        self._patches.keep(change)
        self.bench.adopt(constants)
        self.bench.evaluations, self.bench.runs = state["evaluations"], state["runs"]
        return int(state["done"])
