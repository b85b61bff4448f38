"""How many candidates a second a search gets through, and what each measure adds to that.

Candidates are strategies drawn by lot from the space that is searched, or with ``--bred`` offspring
of the strategies that survive in a search of the same model; on one thread:

* rebuilt: each drafted, emitted, written, loaded and run on all samples, from the calibration
  table in memory; its recipe is at hand, what it rescales is in the table already, and what one
  draft has checked and run of the float model serves all;
* stock: others, by `onnxq.search.laboratory.Laboratory` after `WARM` of them;
* given up: others again, held against the bar of that search: the last strategy that survives;
* seen: as if the share of offspring that such a search had evaluated before cost nothing;
* predicted: what that search went through in its generations, predicted or evaluated.

The first three take turns, so that a busy machine slows all alike. Gains multiply, so each
measure's share of the whole is that of its logarithm.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.command import say
from benchmarks.ranges import _markdown
from benchmarks.search_subject import ONE, Subject, searching_of
from onnxq import Recipe, Searching
from onnxq.drafting import draft
from onnxq.emit import emit
from onnxq.graph import io
from onnxq.graph.session import Session
from onnxq.search import trials
from onnxq.search.evolution import offspring, survivors
from onnxq.search.laboratory import Evaluation
from onnxq.search.searching import Generation, Row, Searched
from onnxq.search.space import Genes
from onnxq.table import CalibrationTable
from onnxq.types import Array

WARM = 40  # strategies evaluated before the stock is timed
TURN = 4  # strategies of the stock, and as many to be given up, for one that is rebuilt
BRED = 64  # offspring a generation that are looked for among what was evaluated
GENERATED = ("screened", "scout", "offspring")


def measured(subject: Subject, asked: argparse.Namespace) -> dict[str, Any]:
    """Time all ways to go through candidates."""
    searching = searching_of(asked, asked.seeds[0], workers=1)
    with TemporaryDirectory() as folder:
        say(f"{subject.name}: a search of {asked.evaluations}")
        found = subject.search(Path(folder) / "model.onnx", searching)
        parents = surviving(found.rows, searching.population) if asked.bred else None
        race = Race(subject, searching, parents, Path(folder) / "rebuilt.onnx")
        say(f"{subject.name}: {WARM} to warm up, then {asked.rebuilds} turns")
        for _ in range(WARM):
            race.evaluated(race.drawn(), None)
        for _ in range(asked.rebuilds):
            race.turn(bar_of(found))
    how = "bred" if asked.bred else "drawn"
    return {"model": f"{subject.name}, {how}", "gap": race.gap, "steps": list(_steps(race, found))}


class Race:
    """Three ways to score strategies, in turns.

    Attributes:
        seconds: Of each candidate, by way.
        ran: Share of the samples that each candidate was run on before it was given up.
        gap: The largest difference between the scores of a strategy, over the score.
    """

    def __init__(
        self, subject: Subject, searching: Searching, parents: Array | None, output: Path
    ) -> None:
        """Begin with nothing tried.

        Args:
            subject: The model.
            searching: What is open, and the metric.
            parents: What to breed candidates of; None to draw them.
            output: Where to write what is rebuilt.
        """
        self._subject, self._parents, self._output = subject, parents, output
        self._like = draft(subject.path, subject.table, subject.recipe, runtime=ONE)
        self._laboratory, self._exam = subject.laboratory(searching)
        self._rng = np.random.default_rng(searching.seed)
        self.seconds: dict[str, list[float]] = {"rebuilt": [], "stock": [], "given up": []}
        self.ran: list[float] = []
        self.gap = 0.0

    def drawn(self) -> Genes:
        """Draw or breed a strategy."""
        counts = self._laboratory.space.counts
        if self._parents is None:
            return tuple(map(int, self._rng.integers(counts)))
        return tuple(map(int, offspring(self._parents, 1, counts, self._rng)[0]))

    def evaluated(self, genes: Genes, bar: tuple[float, ...] | None) -> Evaluation:
        """Evaluate a strategy as a search does."""
        return self._laboratory.evaluate(genes, self._exam, bar=bar)

    def turn(self, bar: tuple[float, ...]) -> None:
        """Try one candidate after the other; what does not fit the model is no candidate."""
        genes = self.drawn()
        while (known := self.evaluated(genes, None)).error:
            genes = self.drawn()
        recipe = self._laboratory.resolved(genes)
        table = self._subject.table_of(recipe, self._laboratory.space.groups(genes))
        seconds, score = timed(lambda: self._rebuilt(recipe, table))
        self.seconds["rebuilt"].append(seconds)
        self.gap = max(self.gap, abs(score - known.score) / max(abs(score), 1e-12))
        for way, at in [("stock", None), ("given up", bar)] * TURN:
            genes = self.drawn()
            seconds, found = timed(lambda g=genes, at=at: self.evaluated(g, at))
            if not found.error:
                self.seconds[way].append(seconds)
                self.ran += [found.samples / self._exam.samples] if at else []

    def _rebuilt(self, recipe: Recipe, table: CalibrationTable) -> float:
        """Score a strategy from a file made for it alone."""
        made = draft(self._subject.path, table, recipe, like=self._like, runtime=ONE)
        emit(made.prepared, made.plan, made.activations, made.weights)
        io.write(made.prepared, self._output)
        return trials.measured(self._exam, Session(self._output, ONE), level=0.0).score


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds something took, and what it returned."""
    begun = time.perf_counter()
    found = work()
    return time.perf_counter() - begun, found


def bar_of(found: Searched) -> tuple[float, ...]:
    """Return what a search held its last candidates against: the last strategy that survives."""
    rows = sorted((r.found for r in found.rows if r.found.complete), key=lambda each: -each.score)
    return rows[: found.searching.population][-1].units


def _steps(race: Race, found: Searched) -> Iterator[dict[str, Any]]:
    """Yield the measures, each with the rate that all so far give."""
    rates = {way: 1 / float(np.mean(seconds)) for way, seconds in race.seconds.items()}
    notes = {way: f"{len(seconds)} timed" for way, seconds in race.seconds.items()}
    own = [row for row in found.rows if row.origin in GENERATED]
    ran = np.mean([row.found.samples for row in own]) / found.samples[0] if own else 1.0
    notes["given up"] += f", run on {np.mean(race.ran):.0%} of the samples; in the search {ran:.0%}"
    seen = seen_share(found.rows, found.generations, found.space.counts, found.searching.population)
    rates["seen"], notes["seen"] = rates["given up"] / (1 - seen), f"{seen:.1%} of offspring"
    if own:
        rates["predicted"], notes["predicted"] = _predicted(found, own)
    yield from ({"measure": way, "rate": rate, "note": notes[way]} for way, rate in rates.items())


def seen_share(
    rows: Sequence[Row], generations: Sequence[Generation], counts: Any, population: int
) -> float:
    """Return what share of the offspring bred in a search had been evaluated, or bred twice.

    They are bred again, of those that survived before each generation.
    """
    rng = np.random.default_rng(0)
    bred = seen = 0
    before = next((r.number - 1 for r in rows if r.origin in GENERATED), len(rows))
    for generation in generations:
        known = {row.genes for row in rows[:before]}
        parents = surviving(rows[:before], population)
        before = generation.evaluations
        children = set(map(tuple, offspring(parents, BRED, counts, rng).tolist()))
        bred += BRED
        seen += BRED - len(children - known)
    return seen / bred if bred else 0.0


def surviving(rows: Sequence[Row], population: int) -> Array:
    """Return the best strategies, best first, ``(P, G)``."""
    complete = [row for row in rows if row.found.complete]
    losses = np.array([[-row.found.score] for row in complete])
    keep = survivors(losses, np.zeros(len(losses)), population)
    return np.array([complete[int(number)].genes for number in keep])


def _predicted(found: Searched, own: Sequence[Row]) -> tuple[float, str]:
    """Return how many strategies a second a search went through in its generations."""
    seconds = found.generations[-1].seconds - found.rows[own[0].number - 2].seconds
    screened = sum(each.screened for each in found.generations)
    correlations = [each.rank_correlation for each in found.generations]
    known = [each for each in correlations if math.isfinite(each)] or [math.nan]
    used = sum(each.uses_screen for each in found.generations)
    note = (
        f"{screened / seconds:.0f} predictions and {len(own) / seconds:.1f} evaluations/s; they "
        f"chose in {used} of {len(found.generations)} generations; rank correlation "
        f"{np.median(known):.2f} ({min(known):.2f} to {max(known):.2f})"
    )
    return (screened + len(own)) / seconds, note


def gains(rates: Sequence[float]) -> list[tuple[float, float]]:
    """Return how much faster each step makes all before it, and its share of the whole gain.

    Shares are of the logarithm, and add up to 1; negative where a step costs more than it saves.
    """
    whole = math.log(rates[-1] / rates[0])
    steps = [1.0, *(after / before for before, after in pairwise(rates))]
    return [(step, math.log(step) / whole if whole else 0.0) for step in steps]


def shown(found: Sequence[dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    lines = [["model", "measure", "candidates/s", "so far", "by this", "share of the gain", "note"]]
    lines.append(["---"] * len(lines[0]))
    for each in found:
        rates = [step["rate"] for step in each["steps"]]
        for step, (one, share) in zip(each["steps"], gains(rates), strict=True):
            so_far = f"{step['rate'] / rates[0]:.1f} ×"
            cells = [f"{step['rate']:.2f}", so_far, f"{one:.2f} ×", f"{share:.0%}", step["note"]]
            lines.append([each["model"], step["measure"], *cells])
        gap = f"the scores of rebuilt and stock differ by {each['gap']:.0e} of themselves at most"
        lines.append([each["model"], *[""] * 5, gap])
    return _markdown(lines)
