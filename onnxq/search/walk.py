"""Go through the tensors of a model and move each to where the metric is best."""

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from onnxq.comparison import nearness
from onnxq.drafting import Draft
from onnxq.emit import emit
from onnxq.emit.constants import Place
from onnxq.emit.qdq import Emitted
from onnxq.errors import CalibrationError, Interrupted, ModelError, UsageError
from onnxq.files import staged
from onnxq.graph import io
from onnxq.graph.chain import Chain
from onnxq.graph.session import Runtime, Session
from onnxq.metrics.answers import Metric
from onnxq.metrics.unlabelled import Cosine
from onnxq.recipe import TensorRule
from onnxq.search.bench import Bench, Trial
from onnxq.search.candidates import OVER, Coordinate, coordinates
from onnxq.search.exam import Exam, answers_of
from onnxq.search.patches import Patches
from onnxq.search.refine import Line, refine
from onnxq.types import QuantParams

log = logging.getLogger(__name__)

SAME = 50.0  # dB between a model in pieces and as a whole; far above what quantizing costs
LEAST_GAIN = 0.001  # what a direction must gain to count
LEAST_SHARE = 0.05  # for smooth metrics: of what is missing from the best score


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How to tune.

    Attributes:
        metric: What to improve.
        over: ``activations``, ``weights`` or ``both``.
        min_gain: What a direction must gain to count; None: 0.001, or for smooth metrics 5 % of
            what is missing from the best score.
        target: Stop once the score on the samples tuned on is at least this.
        sweeps: How often to go through all tensors, at most; it ends when nothing moves.
        drop: Whether to give candidates up once the samples seen show that they cannot win.
        seed: Of the order of the samples.
        workers: Batches to run at once; 0 for one a core.
        checkpoint: Where to leave what was found so far; None for nowhere.
        resume: Go on from the checkpoint, if there is one.
    """

    metric: Metric = field(default_factory=Cosine)
    over: str = "activations"
    min_gain: float | None = None
    target: float | None = None
    sweeps: int = 1
    drop: bool = True
    seed: int = 0
    workers: int = 0
    checkpoint: Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        """Refuse to tune over what is none.

        Raises:
            UsageError: It is not one of the three.
        """
        if self.over not in OVER:
            raise UsageError(f"--over {self.over!r}: write activations, weights or both")

    def threshold(self, score: float) -> float:
        """Return what a direction must gain to count, given the present score."""
        if self.min_gain is not None:
            return self.min_gain
        if getattr(self.metric, "smooth", False):
            return LEAST_SHARE * (float(getattr(self.metric, "best", score)) - score)
        return LEAST_GAIN


@dataclass(frozen=True, kw_only=True)
class Move:
    """What became of one tensor.

    Attributes:
        name: The tensor.
        kind: ``activation`` or ``weight``.
        reason: Which node it belongs to.
        before: What its range was.
        after: What it is.
        gain: What that gained on the samples tuned on; 0 where it did not move.
        evaluations: Candidates tried.
    """

    name: str
    kind: str
    reason: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    gain: float
    evaluations: int


@dataclass(frozen=True, kw_only=True)
class TuneProgress:
    """How far tuning has come.

    Attributes:
        done: Tensors so far.
        total: Tensors in all.
        name: The next one.
        score: The score now.
    """

    done: int
    total: int
    name: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Emission:
    """A draft and the model emitted from it.

    Attributes:
        draft: The draft, its prepared model as it was before.
        model: What was emitted.
        emitted: What the emitter tells.
    """

    draft: Draft
    model: io.Model
    emitted: Emitted

    @classmethod
    def of(cls, made: Draft, path: Path) -> Self:
        """Emit a copy of a draft's model, and write it."""
        model = io.copied(made.prepared)
        emitted = emit(model, made.plan, made.activations, made.weights)
        io.write(model, path)
        return cls(draft=made, model=model, emitted=emitted)


class Checkpoint:
    """What a search has found so far, in a file."""

    def __init__(self, tuning: Tuning, run: str) -> None:
        """Name the file and what the search is about.

        Args:
            tuning: How to tune.
            run: Differs between searches that have nothing to do with each other.
        """
        self._path, self._resume, self._run = tuning.checkpoint, tuning.resume, run

    def load(self) -> dict[str, Any] | None:
        """Return what was saved, or None where a search begins anew.

        Raises:
            CalibrationError: The file is of another search, or none.
        """
        if self._path is None or not self._path.exists():
            if self._path is not None and self._resume:
                log.warning("there is no %s to go on from: from the beginning", self._path)
            return None
        if not self._resume:
            log.warning("%s is left from another run, and will be replaced", self._path)
            return None
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            same = found["run"] == self._run
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CalibrationError(f"{self._path}: no checkpoint of tune") from error
        if not same:
            raise CalibrationError(
                f"{self._path}: of another model, table, recipe, data or setting; delete it to "
                "begin anew"
            )
        log.warning("going on after %d tensors from %s", found["done"], self._path)
        return dict(found)

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace what was saved."""
        if self._path is not None:
            with staged(self._path) as temporary:
                temporary.write_text(json.dumps({"run": self._run, **state}), encoding="utf-8")


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
        self.chain = _chain(emission, exam, whole, replace(runtime, threads=1))
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


def _chain(emission: Emission, exam: Exam, whole: Session, runtime: Runtime) -> Chain:
    """Cut the model into pieces that compute what it does as a whole, as the first batch shows.

    Codes are the same in pieces; floats may differ in their last bits, and then a code here and
    there. With powers of two float arithmetic on the grids is exact, and often faster than kernels
    for codes with a sign.
    """
    feed, samples = exam.batches[0].inputs, exam.batches[0].samples
    outputs = answers_of(whole, feed)
    proto, folder = io.sync(emission.model), emission.model.path.parent
    plain = (False, True) if emission.draft.plan.target.power_of_two else (True,)
    for fuse in plain:
        chain = Chain(proto, folder, replace(runtime, fuse=fuse))
        try:
            got = chain.run(feed, 0)
        except ModelError as error:
            log.info("pieces cannot be run: %s", error)
            continue
        near = [nearness(outputs[name], got[name], samples) for name in outputs]
        if all(each.sqnr >= SAME and not each.unequal for each in near):
            return chain
    log.info("the pieces do not compute what the whole does: candidates run the whole model")
    return Chain(proto, folder, runtime, count=1)
