"""All that a search has evaluated, and evaluating more of it: once, in time, and with others.

Processes that share a store go the same way and evaluate each strategy once among them: what
another process is at is left until all else is done, and then waited for.
"""

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event
from typing import Any

import numpy as np

from onnxq.search.evolution import ranks, survivors
from onnxq.search.exam import Exam
from onnxq.search.laboratory import Evaluation, Laboratory, as_dict, from_dict
from onnxq.search.searching import Generation, Row, Searching
from onnxq.search.space import Genes
from onnxq.search.store import Store
from onnxq.search.strategy import decode, encode
from onnxq.search.trials import Measured
from onnxq.types import Array

TINY = 1e-9  # missing from the best score: as good as nothing
WAIT = 0.2  # seconds between two looks for what another process is at
ENDLESS = 10**9  # evaluations, where nothing limits them


class Records:
    """What was evaluated.

    Attributes:
        laboratory: Tries strategies.
        searching: How it is searched.
        rows: All that was evaluated, in order.
        seen: The same by strategy.
        now: How far the search is.
        level: What the float model scores.
    """

    def __init__(
        self,
        laboratory: Laboratory,
        exam: Exam,
        searching: Searching,
        store: Store,
        level: float,
        report: Callable[[Row | Generation], None],
    ) -> None:
        """Begin with nothing evaluated.

        Args:
            laboratory: Tries strategies.
            exam: What to score them on.
            searching: How to search.
            store: What was evaluated before, and will be.
            level: What the float model scores.
            report: Called with every strategy evaluated, and with how far the search is then.
        """
        self.laboratory, self._exam, self.searching = laboratory, exam, searching
        self._store, self.level, self._report = store, level, report
        self._space = laboratory.space
        self._begun = time.monotonic()
        self._stop = Event()
        self._before = list(store.results())
        self.seen: dict[Genes, Row] = {}
        self.rows: list[Row] = []
        self.now = Generation(limit=searching.evaluations, budget=searching.budget)
        alone = "latency" in searching.objectives  # others would be measured along
        self._pool = ThreadPoolExecutor(1 if alone else searching.workers or os.cpu_count() or 1)

    def close(self) -> None:
        """Evaluate nothing more; what is under way is finished."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def recall(self) -> None:
        """Take what was evaluated before, by a run with another budget, and not met again."""
        self.show(name="what was evaluated before", closed=False)
        for code in self._before:
            genes, found = decode(self._space, code), self._store.result(code)
            if genes not in self.seen and found is not None:
                self._take(genes, from_dict(found), "before" if any(genes) else "default")

    def complete(self) -> list[Row]:
        """Return what was evaluated on all samples."""
        return [row for row in self.rows if row.found.complete]

    def best(self, rows: Sequence[Row]) -> Row:
        """Return the best of some: what holds the bounds, then by quality or what else is asked."""
        values, broken = self.objectives(rows), self.violations(rows)
        how = self.searching
        quality = "quality" in how.objectives and how.bounds is None
        first = how.objectives.index("quality") if quality else 0
        score = np.array([-row.found.score for row in rows])
        order = np.lexsort((score, values[:, first], broken))
        return rows[int(order[0])]

    def front(self) -> list[Row]:
        """Return what nothing dominates, best quality first."""
        rows = self.complete()
        level = ranks(self.objectives(rows), self.violations(rows))
        found = {row.genes: row for row, on in zip(rows, level, strict=True) if on == 0}
        return sorted(found.values(), key=lambda row: -row.found.score)

    def surviving(self) -> list[Row]:
        """Return the strategies that survive."""
        rows = self.complete()
        keep = survivors(self.objectives(rows), self.violations(rows), self.searching.population)
        return [rows[int(number)] for number in keep]

    def holds(self, row: Row) -> bool:
        """Say whether a strategy holds the bounds."""
        return not self.violations([row])[0] > 0

    def show(self, **changes: Any) -> None:
        """Note how far the search is, and tell."""
        seconds = time.monotonic() - self._begun
        self.now = replace(self.now, seconds=seconds, **changes)
        self._report(self.now)

    def objectives(self, rows: Sequence[Row]) -> Array:
        """Return what to improve, lower is better, ``(N, M)``.

        Quality as the logarithm of what is missing from the best score, where there is one: a front
        is spread evenly in dB then.
        """
        scores = np.array([row.found.score for row in rows])
        best = getattr(self._exam.metric, "best", None)
        quality = -scores if best is None else np.log(np.maximum(best - scores, TINY))
        values: dict[str, Any] = {
            "quality": quality,
            "size": [float(row.found.bits) for row in rows],
            "latency": [row.found.latency for row in rows],
        }
        return np.array([values[name] for name in self.searching.objectives], np.float64).T

    def violations(self, rows: Sequence[Row]) -> Array:
        """Return by how much each breaks the bounds, ``(N,)``."""
        bounds = self.searching.bounds
        near = [self.measured(row) for row in rows] if bounds is not None else []
        if bounds is None:
            return np.zeros(len(rows))
        over = [max(bounds.strain(each) - 1, TINY) for each in near]
        holds = [bounds.hold(each) for each in near]
        return np.where(holds, 0.0, over)

    def measured(self, row: Row) -> Measured:
        """Return how near a strategy is to the float model."""
        found = row.found
        drop = self.level - found.score
        return Measured(cosine=found.cosine, sqnr=found.sqnr, score=found.score, drop=drop)

    def evaluate(
        self, population: Iterable[Genes], origins: str | Mapping[Genes, str], *, whole: bool = True
    ) -> None:
        """Evaluate strategies side by side, those that were not.

        Args:
            population: The strategies.
            origins: Where they come from.
            whole: On all samples, whatever becomes of them; else what they must exceed to be worth
                that is settled before, so that it does not depend on who comes first.
        """
        wanted = [g for g in dict.fromkeys(population) if g not in self.seen][: self.left]
        before = [] if whole else self.complete()
        bars = {genes: self._bar(genes, before) for genes in wanted}
        timed = "latency" in self.searching.objectives

        def evaluate(genes: Genes) -> Evaluation | None:
            """Evaluate one, or look it up; None where another process is at it."""
            code = encode(self._space, genes)
            known = self._store.result(code)
            stored = None if known is None else from_dict(known)
            if stored is not None and not (bars[genes] is None and stored.is_given_up):
                return stored
            if self.is_stopped() or not (known or self._store.claim(code)):
                return None
            begun = time.monotonic()
            found = self.laboratory.evaluate(genes, self._exam, bar=bars[genes], timed=timed)
            found = replace(found, seconds=time.monotonic() - begun)
            self._store.add({"code": code, **as_dict(found)})
            return found

        for genes, first in zip(wanted, self._pool.map(evaluate, wanted), strict=True):
            found = first
            while found is None and not self.is_stopped():
                time.sleep(WAIT)
                found = evaluate(genes)  # what the other process found, by now
            if found is not None:
                self._take(genes, found, origins if isinstance(origins, str) else origins[genes])
            if self._is_reached():
                self._stop.set()
                return

    def _take(self, genes: Genes, found: Evaluation, origin: str) -> None:
        """Note what came of a strategy."""
        row = Row(
            number=len(self.rows) + 1,
            genes=genes,
            code=encode(self._space, genes),
            origin=origin,
            found=found,
            seconds=time.monotonic() - self._begun,
        )
        self.rows.append(row)
        self.seen[genes] = row
        score = found.score if found.complete and self.holds(row) else math.nan
        self._report(row)
        best = float(np.fmax(self.now.best, score))
        self.show(evaluations=len(self.rows), best=best)

    def _bar(self, genes: Genes, rows: Sequence[Row]) -> tuple[float, ...] | None:
        """Return units of what a strategy must exceed to matter; None where all are wanted.

        That is the best of those that take no more bits, where size counts; else the last one
        that survives.
        """
        how = self.searching
        if not how.drop or how.bounds is not None or "latency" in how.objectives:
            return None
        place = how.population - 1
        if "size" in how.objectives:
            bits, place = self._space.bits(genes), 0
            rows = [row for row in rows if row.found.bits <= bits]
        ordered = sorted(rows, key=lambda row: -row.found.score)
        if len(ordered) <= place:
            return None
        return ordered[place].found.units

    @property
    def left(self) -> int:
        """Return how many strategies may still be evaluated."""
        return (self.searching.evaluations or ENDLESS) - len(self.rows)

    def is_stopped(self) -> bool:
        """Say whether nothing more shall be evaluated: the time is up, or the target reached."""
        budget = self.searching.budget
        late = budget is not None and time.monotonic() - self._begun > budget
        return late or self._stop.is_set()

    def is_over(self, generations: int) -> bool:
        """Say whether the search has come to its end after so many generations."""
        how = self.searching
        bred = how.generations is not None and generations >= how.generations
        return bred or self.left <= 0 or self.is_stopped()

    def _is_reached(self) -> bool:
        """Say whether a strategy is as good as was asked for."""
        target = self.searching.target
        return target is not None and self.now.best >= target
