"""Anneal the order of channels on tiles: ``onnxq anneal``.

Two channels of a random family change places, the tiles they lie in are quantized again, and the
model is measured; a better order stays, a worse one with probability exp(gain/T), less often as T
falls. The best order seen is what comes out: a file for ``--reorder``, and the model.
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np

from onnxq import pipeline
from onnxq.correction import input_means
from onnxq.drafting import Draft, corrects, draft, fit_samples
from onnxq.errors import Interrupted, ModelError, UsageError
from onnxq.files import check_target, staged
from onnxq.graph import io
from onnxq.graph.chain import Chain
from onnxq.graph.session import Runtime, Session
from onnxq.metrics.answers import Metric
from onnxq.metrics.unlabelled import Cosine
from onnxq.recipe import Recipe
from onnxq.reordering import layout_of, mode_of, order_dict
from onnxq.results import Quantized
from onnxq.search.arrangement import Arrangement
from onnxq.search.bench import Bench
from onnxq.search.checkpoint import Checkpoint
from onnxq.search.exam import Exam, Side, examined, shuffled, sides
from onnxq.search.tune import identity, read
from onnxq.sources import Source
from onnxq.table import CalibrationTable
from onnxq.types import Array

WARM = 20  # swaps that tell how far the score moves
EVERY = 20  # swaps between two checkpoints
COLD = 0.01  # of the first temperature, the last
WARMTH = 0.3  # of the standard deviation of what the first swaps change, the first temperature
TINY = 1e-300

Kind = TypeVar("Kind", bound=Arrangement)


@dataclass(frozen=True, kw_only=True)
class Cooling:
    """How long and how warm.

    Attributes:
        swaps: How many to try.
        seconds: Stop after so long, if that comes first; None for no limit.
        temperature: To begin with, in units of the score; None: what the first swaps
            change, 0.3 of its standard deviation.
        restarts: How often the temperature goes up again, from the best order so far.
        threshold: The published rule: accept what has exp(gain/T) above this, and end at the first
            swap that has not; None for the usual rule.
        drop: Whether to give a swap up once the samples seen show that it will not be accepted.
        seed: Of the swaps and the order of the samples.
        workers: Batches to run at once; 0 for one a core.
        checkpoint: Where to leave what was found so far; None for nowhere.
        resume: Go on from the checkpoint, if there is one.
    """

    swaps: int = 1000
    seconds: float | None = None
    temperature: float | None = None
    restarts: int = 0
    threshold: float | None = None
    drop: bool = True
    seed: int = 0
    workers: int = 0
    checkpoint: Path | None = None
    resume: bool = False

    def at(self, number: int, first: float) -> float:
        """Return the temperature of a swap: geometrically down, once for each restart."""
        share = number * (self.restarts + 1) / self.swaps % 1
        return float(first * COLD**share)

    def restarts_at(self, number: int) -> bool:
        """Say whether the temperature has gone up again with a swap."""
        before, now = (n * (self.restarts + 1) // self.swaps for n in (number - 1, number))
        return number > 0 and now > before


@dataclass(frozen=True, kw_only=True)
class AnnealProgress:
    """How far annealing has come.

    Attributes:
        done: Swaps tried so far.
        total: Swaps in all.
        score: The best score so far.
        name: The score now, and how many swaps were accepted.
    """

    done: int
    total: int
    score: float
    name: str


@dataclass(frozen=True, kw_only=True)
class Annealed:
    """What `anneal` did.

    Attributes:
        quantized: The model written.
        order_path: The file of the order.
        metric: The metric's name.
        kept: Scores on the samples annealed on.
        held: Scores on samples not used.
        scores: Of the order to begin with and of the best, as measured while annealing.
        improved: Whether the best order is another than that to begin with.
        swaps: How many were tried.
        accepted: How many were accepted.
        runs: Batches run to the end for them, out of how many without giving up.
        pieces: Into how many pieces the model was cut.
        seconds: Wall time of the search alone.
    """

    quantized: Quantized
    order_path: Path
    metric: str
    kept: Side
    held: Side
    scores: tuple[float, float]
    improved: bool
    swaps: int
    accepted: int
    runs: tuple[int, int]
    pieces: int
    seconds: float


class Annealing:
    """An arrangement on a bench.

    Attributes:
        bench: Scores swaps.
        chain: The model in pieces.
        orders: The best so far, one a family, relative to the draft's.
        best: Its score.
        done: Swaps tried.
        accepted: Swaps accepted.
    """

    def __init__(
        self,
        arrangement: Arrangement,
        exam: Exam,
        cooling: Cooling,
        runtime: Runtime,
        bench: Any = None,
    ) -> None:
        """Score the order to begin with.

        Args:
            arrangement: Where every channel stands.
            exam: What to score it on.
            cooling: How to anneal.
            runtime: How to run models.
            bench: Scores swaps in another way.

        Raises:
            ModelError: Nothing that changes places would change a tile.
        """
        self._arrangement, self._cooling = arrangement, cooling
        self._pairs = [_tiles(arrangement, i) for i in range(len(arrangement.orders))]
        self._open = [i for i, tiles in enumerate(self._pairs) if len(np.unique(tiles, axis=0)) > 1]
        if not self._open:
            raise ModelError(
                f"{arrangement.model.path}: nothing to anneal: no two channels that may change "
                "places lie in different tiles"
            )
        proto, folder = io.sync(arrangement.model), arrangement.model.path.parent
        self.chain = Chain(proto, folder, replace(runtime, threads=1, fuse=False))
        workers = cooling.workers or os.cpu_count() or 1
        self.bench = bench or Bench(
            self.chain, exam, workers=workers, drop=cooling.drop, ordered=False
        )
        self._rng = np.random.default_rng(cooling.seed)
        self.best = self.start = self.bench.now.score
        self.orders = [order.copy() for order in arrangement.orders]
        self.done = self.accepted = 0
        self._moves: list[float] = []  # what the first swaps change

    def run(
        self, checkpoint: Checkpoint, report: Callable[[AnnealProgress], None] = lambda _: None
    ) -> None:
        """Try swaps.

        Args:
            checkpoint: Where to leave what was found.
            report: Called after every swap.

        Raises:
            CalibrationError: The metric fails, or the checkpoint is of another search.
            Interrupted: Ctrl-C; what was found is in the checkpoint.
        """
        self._restore(checkpoint.load())
        until = math.inf if self._cooling.seconds is None else time.monotonic()
        until += self._cooling.seconds or 0.0
        try:
            while self.done < self._cooling.swaps and time.monotonic() < until:
                going = self.step()
                report(
                    AnnealProgress(
                        done=self.done,
                        total=self._cooling.swaps,
                        score=self.best,
                        name=f"now {self.bench.now.score:.5f}, {self.accepted} accepted",
                    )
                )
                if not going:
                    break
                if self.done % EVERY == 0:
                    checkpoint.save(self._state())
        except KeyboardInterrupt:
            if self._cooling.checkpoint is None:
                raise
            raise Interrupted(f"go on with --resume: {self._cooling.checkpoint}") from None

    def step(self) -> bool:
        """Try one swap; say whether to go on."""
        if self._cooling.restarts_at(self.done) and self.best > self.bench.now.score:
            self.bench.adopt(self._arrangement.place(self.orders))
        family, pair = self._proposed()
        draw = max(float(self._rng.random()), TINY)
        warm = self.done < WARM and self._cooling.temperature is None
        before = self.bench.now.score
        bar = before if warm else before + self._temperature() * self._slack(draw)
        swap = self._arrangement.swap(family, pair)
        trial = self.bench.ask(swap.used, -math.inf if warm else bar)
        self.done += 1
        if warm and trial is not None:
            self._moves.append(trial.score - before)
        if trial is None or not trial.score > bar:
            return warm or self._cooling.threshold is None
        self.bench.keep(trial)
        self._arrangement.keep(swap)
        self.accepted += 1
        if trial.score > self.best:
            self.best = trial.score
            self.orders = [order.copy() for order in self._arrangement.orders]
        return True

    def _slack(self, draw: float) -> float:
        """Return the logarithm of the probability that a worse order has to have."""
        return math.log(draw if self._cooling.threshold is None else self._cooling.threshold)

    def _temperature(self) -> float:
        """Return the temperature now."""
        first = self._cooling.temperature
        if first is None:
            first = WARMTH * float(np.std(self._moves))
        return self._cooling.at(self.done, first)

    def _proposed(self) -> tuple[int, tuple[int, int]]:
        """Draw two channels of a family that lie in different tiles."""
        sizes = np.array([len(self._pairs[i]) for i in self._open], np.float64)
        family = self._open[int(self._rng.choice(len(self._open), p=sizes / sizes.sum()))]
        tiles = self._pairs[family]
        while True:
            one, other = self._rng.integers(len(tiles), size=2).tolist()
            if (tiles[one] != tiles[other]).any():
                return family, (one, other)

    def _state(self) -> dict[str, Any]:
        """Return what to go on from."""
        return {
            "done": self.done,
            "accepted": self.accepted,
            "orders": [order.tolist() for order in self._arrangement.orders],
            "best": [self.best, [order.tolist() for order in self.orders]],
            "start": self.start,
            "moves": self._moves,
            "random": self._rng.bit_generator.state,
            "evaluations": self.bench.evaluations,
            "runs": self.bench.runs,
        }

    def _restore(self, state: Mapping[str, Any] | None) -> None:
        """Return to a saved state."""
        if state is None:
            return
        self.done, self.accepted = state["done"], state["accepted"]
        self.start, self._moves = state["start"], list(state["moves"])
        self.best, self.orders = state["best"][0], [np.array(o) for o in state["best"][1]]
        self._rng.bit_generator.state = state["random"]
        self.bench.adopt(self._arrangement.place([np.array(o) for o in state["orders"]]))
        self.bench.evaluations, self.bench.runs = state["evaluations"], state["runs"]


def _tiles(arrangement: Arrangement, number: int) -> Array:
    """Return the tiles that the lines of each channel of a family lie in, ``(channels, lines)``."""
    layout, found = arrangement.layout, []
    for place in layout.families[number].places:
        layer = layout.layers[place.matrix]
        side = 0 if place.side == "rows" else 1
        size, step = layer.values.shape[side + 1], layer.steps[side]
        group, line = np.divmod(place.lines, size)
        found.append(group * size + line // step)
    return np.concatenate(found, axis=1)


def threshold_of(accept: str) -> float | None:
    """Read a rule of acceptance, ``metropolis`` or ``threshold:P``.

    Returns:
        The threshold, None for the other rule.

    Raises:
        UsageError: It is none of the two, or P is not between 0 and 1.
    """
    word, _, number = accept.partition(":")
    if accept == "metropolis":
        return None
    try:
        found = float(number) if word == "threshold" else 0.0
    except ValueError:
        found = 0.0
    if not 0 < found <= 1:
        raise UsageError(
            f"--accept {accept!r}: write metropolis, or threshold:P with P between 0 and 1"
        )
    return found


def order_path(output: Path) -> Path:
    """Return where the order of an annealed model goes."""
    return output.with_name(f"{output.name}.order.json")


def anneal(  # noqa: PLR0913 - like quantize, and how to anneal
    model: Path,
    table: CalibrationTable,
    recipe: Recipe,
    data: tuple[Source, Source],
    output: Path,
    *,
    metric: Metric | None = None,
    cooling: Cooling | None = None,
    runtime: Runtime | None = None,
    report: Callable[[AnnealProgress], None] = lambda _: None,
) -> Annealed:
    """Improve the order of channels on tiles, and write the model and the order.

    Differs: the publication accepts a swap when exp(gain/T) exceeds a preset probability and ends
    at the first that does not (`Cooling.threshold`); here that is the probability with which a
    worse order is accepted.

    Args:
        model: The float model.
        table: Its calibration table.
        recipe: Where to start: its ``reorder`` says in which order.
        data: The samples to anneal on and those to measure on, see `onnxq.search.tune.parts`.
        output: Where the model goes; its order goes to `order_path` of it.
        metric: What to improve; cosine by default.
        cooling: How to anneal.
        runtime: How to run models.
        report: Called after every swap.

    Raises:
        ModelError: The model cannot be loaded or run, or nothing in it can change places.
        CalibrationError: Table, data, labels or checkpoint do not fit, or the metric fails.
        RecipeError: The recipe or the metric does not fit the model.
        UnsupportedError: The target cannot express the recipe.
        OutputError: An output cannot be written, or is an input.
        Interrupted: Ctrl-C; what was found so far is in the checkpoint.

    Source:
        Kirkpatrick, Gelatt, Vecchi, "Optimization by Simulated Annealing", Science 220, 1983;
        ../shared/METHODS.md, section 4.
    """
    runtime, cooling, metric = runtime or Runtime(), cooling or Cooling(), metric or Cosine()
    for target in (output, order_path(output)):
        check_target(target, io.files_of(model))
    reference = Session(model, runtime)
    kept, held = (read(source, reference) for source in data)
    others = examined(reference, held, metric)
    others.evidence(0, others.references[0])  # what does not fit is refused before the work
    exam = examined(reference, shuffled(kept, cooling.seed), metric)
    made = draft(model, table, replace(recipe, correct_bias=False), runtime=runtime)
    begun = time.monotonic()
    search = Annealing(arranged(made, table, recipe, runtime, Arrangement), exam, cooling, runtime)
    run = _identity(table, recipe, data, metric, cooling)
    checkpoint = Checkpoint(cooling.checkpoint, run, resume=cooling.resume, steps="swaps")
    search.run(checkpoint, report)
    seconds = time.monotonic() - begun
    _write_order(made, search.orders, order_path(output))
    found = replace(recipe, reorder=str(order_path(output)))
    result = pipeline.quantize(model, table, found, output, explain=False, runtime=runtime)
    with TemporaryDirectory() as folder:
        start = Path(folder) / output.name
        pipeline.quantize(model, table, recipe, start, explain=False, runtime=runtime)
        sessions = Session(start, runtime), Session(output, runtime)
        side, other = sides(exam, sessions), sides(others, sessions)
    if cooling.checkpoint is not None:
        cooling.checkpoint.unlink(missing_ok=True)
    return Annealed(
        quantized=result,
        order_path=order_path(output),
        metric=metric.name,
        kept=side,
        held=other,
        scores=(search.start, search.best),
        improved=search.best > search.start,
        swaps=search.done,
        accepted=search.accepted,
        runs=(search.bench.runs, (search.bench.evaluations + 1) * len(exam.batches)),
        pieces=len(search.chain.pieces),
        seconds=seconds,
    )


def arranged(
    made: Draft,
    table: CalibrationTable,
    recipe: Recipe,
    runtime: Runtime,
    kind: type[Kind],
) -> Kind:
    """Return a draft with its channels to be moved.

    Args:
        made: The draft, no biases corrected.
        table: The calibration table; biases are corrected on the samples it keeps.
        recipe: Says whether they shall be.
        runtime: How to run models.
        kind: Of arrangement.
    """
    samples = fit_samples(table)
    layout, channels = layout_of(made.prepared, made.plan, samples, runtime)
    means = {}
    if samples and corrects(replace(made.plan, recipe=recipe)):
        means = input_means(made.prepared, made.plan, made.activations, samples, runtime)
    return kind(made, layout, channels, means)


def _write_order(made: Draft, orders: Sequence[Array], path: Path) -> None:
    """Write the order of every family, counted from the model's own."""
    if made.reordering is not None:
        both = zip(made.reordering.orders, orders, strict=True)
        orders = [start[order] for start, order in both]
    content = order_dict(mode_of(made.plan), orders, made.prepared.sha256)
    with staged(path) as temporary:
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")


def _identity(
    table: CalibrationTable,
    recipe: Recipe,
    data: tuple[Source, Source],
    metric: Metric,
    cooling: Cooling,
) -> str:
    """Return what a checkpoint must agree on with a run."""
    ways = [cooling.swaps, cooling.temperature, cooling.restarts, cooling.threshold]
    ways += [cooling.drop, cooling.seed]
    return identity(table, recipe, data, metric, ways)
