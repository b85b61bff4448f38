"""The course of a search: what to evaluate next, given all that was evaluated.

First what asks the same of all tensors, then each choice about the whole model alone; then one
change a gene, which tells the additive model how much each matters (`onnxq.search.surrogate`); then
generations. In each, thousands of offspring are predicted, and the best few of them evaluated,
beside some that are drawn without prediction, which show how far it can be trusted.

All that is drawn by lot follows from the seed and from what was evaluated before. A search that is
resumed goes the same way again, with the results at hand, and so arrives where it was.
"""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from threading import Event

import numpy as np

from onnxq.search.evolution import offspring, ranks, spearman, survivors
from onnxq.search.exam import Exam
from onnxq.search.laboratory import Benchmark, Evaluation, Laboratory, as_dict, from_dict
from onnxq.search.searching import Generation, Row, Searching
from onnxq.search.store import Store
from onnxq.search.strategy import encode
from onnxq.search.surrogate import Surrogate
from onnxq.types import Array

SCOUTS = 4  # of a generation, drawn without prediction
WINDOW = 48  # scouts that the rank correlation is measured on
FEWEST = 8  # of them to judge by
HOLDS = 0.5  # rank correlation above which predictions choose
INNER = 15  # generations of offspring that are predicted for one that is evaluated
LITTER = 256  # offspring in each of them
LEARNED = 768  # evaluations the additive model learns from at most: survivors and the latest
PROBES = 0.25  # of the evaluations allowed, to be spent on single changes
UNIFORM = 0.25  # of the evaluations allowed, for what asks the same of all tensors
MANY = 10_000  # evaluations if nothing limits them but time
Genes = tuple[int, ...]


class Hunt:
    """A search under way.

    Attributes:
        rows: All that was evaluated, in order.
        generations: How it went.
        interrupted: Whether it was asked to stop.
        level: What the float model scores.
        laboratory: Tries strategies.
        searching: How it is searched.
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
        self._rng = np.random.default_rng(searching.seed)
        self._begun = time.monotonic()
        self._stop = Event()
        self._seen: dict[Genes, Row] = {}
        self._surrogate: Surrogate | None = None
        self._scouts: list[tuple[float, float]] = []
        self._now = Generation(limit=searching.evaluations, budget=searching.budget)
        workers = searching.workers or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(workers)
        self.rows: list[Row] = []
        self.generations: list[Generation] = []
        self.interrupted = False

    def run(self) -> None:
        """Search until the budget is spent; Ctrl-C ends it early."""
        try:
            self._run()
        except KeyboardInterrupt:
            self._stop.set()
            self.interrupted = True
        finally:
            self._pool.shutdown(cancel_futures=True)

    @property
    def uniform(self) -> Row:
        """The best strategy evaluated that asks the same of all tensors."""
        rows = [row for row in self.complete() if row.origin in ("default", "uniform")]
        return self.best(rows)

    def complete(self) -> list[Row]:
        """Return what was evaluated on all samples."""
        return [row for row in self.rows if row.found.complete]

    def best(self, rows: Sequence[Row]) -> Row:
        """Return the best of some: what holds the bounds, then by quality or what else is asked."""
        values, broken = self._objectives(rows), self._violations(rows)
        first = (
            self.searching.objectives.index("quality")
            if "quality" in self.searching.objectives
            else 0
        )
        if self.searching.bounds is not None:
            first = 0
        score = np.array([-row.found.score for row in rows])
        order = np.lexsort((score, values[:, first], broken))
        return rows[int(order[0])]

    def front(self) -> list[Row]:
        """Return what nothing dominates, best quality first."""
        rows = self.complete()
        level = ranks(self._objectives(rows), self._violations(rows))
        found = {row.genes: row for row, on in zip(rows, level, strict=True) if on == 0}
        return sorted(found.values(), key=lambda row: -row.found.score)

    def holds(self, row: Row) -> bool:
        """Say whether a strategy holds the bounds."""
        return not self._violations([row])[0] > 0

    def _run(self) -> None:
        """Search."""
        genes = len(self._space.genes)
        self._try([(0,) * genes], "default")
        if not self.complete():
            return
        if self.searching.searcher == "random":
            self._draw()
            return
        self._try(self._uniform(), "uniform")
        self._try(self._global(), "global")
        if self.searching.screen:
            self._measure_effects()
        while not self._is_over() and self._generation():
            pass

    def _draw(self) -> None:
        """Evaluate strategies drawn by lot."""
        while not self._is_over():
            size = self.searching.batch, len(self._space.genes)
            drawn = self._rng.integers(self._space.counts, size=size)
            self._next(len(self.generations) + 1)
            self._try(map(_genes, drawn), "random")
            self._close()

    def _uniform(self) -> Iterator[Genes]:
        """Yield strategies that ask the same of all activations, and of all weights.

        By label: an option that a tensor does not have leaves that tensor as it is.
        """
        labels = {kind: self._labels(kind) for kind in ("activation", "weight")}
        alone = [(a, "") for a in labels["activation"]] + [("", w) for w in labels["weight"]]
        both = list(product(labels["activation"], labels["weight"]))
        allowed = int((self.searching.evaluations or MANY) * UNIFORM)
        if len(alone) + len(both) > max(allowed, 64):
            both = []
        for activation, weight in [*alone, *both]:
            wanted = {"activation": activation, "weight": weight}
            yield tuple(
                next((i for i, o in enumerate(gene.options) if o.label == wanted.get(gene.kind)), 0)
                for gene in self._space.genes
            )

    def _labels(self, kind: str) -> list[str]:
        """Return what may be asked of a kind of tensor."""
        genes = [gene for gene in self._space.genes if gene.kind == kind]
        return list(dict.fromkeys(option.label for gene in genes for option in gene.options))

    def _global(self) -> Iterator[Genes]:
        """Yield the best uniform strategy with one other choice about the whole model."""
        base = self.uniform.genes
        for number in self._space.of_kind("all"):
            for value in range(1, len(self._space.genes[number].options)):
                yield (*base[:number], value, *base[number + 1 :])

    def _measure_effects(self) -> None:
        """Change one gene at a time, and found the additive model on what that does."""
        base = self._reference()
        shares = self._disturbances(base)
        wanted = self._probe_plan(base, shares)
        self._now = replace(self._now, name="single changes")
        self._try(wanted, "probe")
        start = self._seen[base].found.noise
        effects = [self._effects(base, number, shares, start) for number in range(len(base))]
        self._surrogate = Surrogate(start, effects)

    def _reference(self) -> Genes:
        """Return what single changes start from: the uniform strategy with the least loss."""
        rows = [row for row in self.complete() if row.origin in ("default", "uniform", "global")]
        return min(rows, key=lambda row: row.found.noise).genes

    def _disturbances(self, base: Genes) -> list[Array | None]:
        """Return how much the options of each gene about a tensor disturb it, relative to it."""
        stock = self.laboratory.stock((0,) * len(base))
        found: list[Array | None] = []
        for gene in self._space.genes:
            specs = [option.spec for option in gene.options]
            known = [spec for spec in specs if spec is not None]
            tensor = gene.kind in ("activation", "weight") and len(known) == len(specs)
            found.append(stock.disturbances(gene.name, known, place=gene.place) if tensor else None)
        return found

    def _probe_plan(self, base: Genes, shares: Sequence[Array | None]) -> list[Genes]:
        """Return single changes, those that tell most of their gene first."""
        turns: dict[int, list[Genes]] = {}
        for number, share in enumerate(shares):
            values = [v for v in range(self._space.counts[number]) if v != base[number]]
            if share is not None:
                values = _by_worth(share, base[number], values)
            for turn, value in enumerate(values):
                change = (*base[:number], value, *base[number + 1 :])
                turns.setdefault(turn, []).append(change)
        ordered = [change for turn in sorted(turns) for change in turns[turn]]
        allowed = int((self.searching.evaluations or MANY) * PROBES)
        return ordered[: max(allowed, 1)]

    def _effects(
        self, base: Genes, number: int, shares: Sequence[Array | None], start: float
    ) -> Array:
        """Return the effects of the options of a gene, as single changes and disturbances say."""
        share = shares[number]
        found = np.zeros(self._space.counts[number])
        known = {}
        for value in range(len(found)):
            row = self._seen.get((*base[:number], value, *base[number + 1 :]))
            if row is not None and math.isfinite(row.found.noise):
                known[value] = row.found.noise - start
        if share is not None and len(known) > 1:
            more = {v: share[v] - share[base[number]] for v in known if v != base[number]}
            power = sum(each * each for each in more.values())
            slope = sum(known[v] * each for v, each in more.items()) / power if power else 0.0
            found = max(slope, 0.0) * (share - share[base[number]])
        for value, effect in known.items():
            found[value] = effect
        return found

    def _generation(self) -> bool:
        """Breed, screen, evaluate; say whether there was anything new to evaluate."""
        self._next(len(self.generations) + 1)
        self._learn()
        parents = self._parents()
        children = self._children(parents)
        count = len(self.rows)
        scouts = children["scout"]
        expected = {genes: self._predicted([genes])[0] for genes in scouts}
        self._try([*children["screened"], *scouts, *children["offspring"]], children)
        for genes, loss in expected.items():
            row = self._seen.get(genes)
            if row is not None and math.isfinite(row.found.noise) and self._surrogate:
                self._scouts.append((loss, row.found.noise))
        self._close()
        return len(self.rows) > count

    def _children(self, parents: Array) -> dict[str, list[Genes]]:
        """Return what to evaluate in a generation, by where it comes from."""
        size = self.searching.batch
        correlation = self._correlation()
        trusted = len(self._scouts) < FEWEST or correlation >= HOLDS
        plain = self._fresh(offspring(parents, 4 * size, self._space.counts, self._rng))
        if self._surrogate is None or not trusted:
            self._now = replace(self._now, rank_correlation=correlation)
            kind = "offspring" if self._surrogate is None else "scout"
            return {"screened": [], "scout": [], "offspring": [], kind: plain[:size]}
        screened, count = self._screened(parents, size - SCOUTS)
        self._now = replace(
            self._now, rank_correlation=correlation, uses_screen=True, screened=count
        )
        chosen = set(screened)
        scouts = [genes for genes in plain if genes not in chosen][: size - len(screened)]
        return {"screened": screened, "scout": scouts, "offspring": []}

    def _screened(self, parents: Array, size: int) -> tuple[list[Genes], int]:
        """Evolve on predictions alone; return the best that are new, and how many there were."""
        pool = parents
        for _ in range(INNER):
            litter = offspring(pool, LITTER, self._space.counts, self._rng)
            pool = np.unique(np.concatenate([pool, litter]), axis=0)
            values, broken = self._expected(pool)
            pool = pool[survivors(values, broken, 2 * self.searching.population)]
        return self._fresh(pool)[:size], INNER * LITTER

    def _expected(self, population: Array) -> tuple[Array, Array]:
        """Return predicted objectives and violations of many strategies."""
        losses = self._predicted(population)
        cheap = {"quality": losses, "size": self._space.bits_of(population).astype(np.float64)}
        cheap["latency"] = self._lifted(population)
        values = np.stack([cheap[name] for name in self.searching.objectives], axis=1)
        return values, self._expected_violations(losses)

    def _lifted(self, population: Array) -> Array:
        """Return how many nodes strategies keep float: what predicts latency."""
        nodes = self._space.of_kind("node")
        found: Array = (population[:, nodes] > 0).sum(axis=1).astype(np.float64)
        return found

    def _expected_violations(self, losses: Array) -> Array:
        """Return by how much predicted losses exceed what the bounds leave.

        What was evaluated tells which loss a bound comes to: the least that broke one, or the
        largest that held it, whichever is larger.
        """
        rows = self.complete()
        if self.searching.bounds is None or not rows:
            return np.zeros(len(losses))
        strains = self._violations(rows)
        known = np.array([row.found.noise for row in rows])
        held, broke = known[strains == 0], known[strains > 0]
        limit = max(held.max(initial=0.0), broke.min(initial=np.inf) if not held.size else 0.0)
        found: Array = np.maximum(losses - limit, 0.0)
        return found

    def _predicted(self, population: Iterable[Sequence[int]] | Array) -> Array:
        """Return predicted losses; zeros where nothing is known."""
        rows = np.asarray(list(population))
        return np.zeros(len(rows)) if self._surrogate is None else self._surrogate.predict(rows)

    def _learn(self) -> None:
        """Correct the additive model by what was evaluated."""
        if self._surrogate is None:
            return
        rows = [row for row in self.rows if math.isfinite(row.found.noise)]
        kept = {row.genes: row for row in [*self._surviving(), *rows[-LEARNED:]]}
        losses = np.array([row.found.noise for row in kept.values()])
        self._surrogate.learn(np.array(list(kept)), losses)

    def _surviving(self) -> list[Row]:
        """Return the strategies that survive."""
        rows = self.complete()
        keep = survivors(self._objectives(rows), self._violations(rows), self.searching.population)
        return [rows[int(number)] for number in keep]

    def _parents(self) -> Array:
        """Return the strategies that survive, ``(P, G)``, best first."""
        return np.array([row.genes for row in self._surviving()])

    def _fresh(self, population: Array) -> list[Genes]:
        """Return the strategies that were not evaluated, in order, each once."""
        genes = dict.fromkeys(map(_genes, population))
        return [each for each in genes if each not in self._seen]

    def _correlation(self) -> float:
        """Return how well predictions order strategies that they did not choose."""
        if len(self._scouts) < FEWEST:
            return math.nan
        last = np.array(self._scouts[-WINDOW:])
        return spearman(last[:, 0], last[:, 1])

    def _objectives(self, rows: Sequence[Row]) -> Array:
        """Return what to improve, lower is better, ``(N, M)``."""
        values = {
            "quality": [-row.found.score for row in rows],
            "size": [float(row.found.bits) for row in rows],
            "latency": [row.found.latency for row in rows],
        }
        return np.array([values[name] for name in self.searching.objectives], np.float64).T

    def _violations(self, rows: Sequence[Row]) -> Array:
        """Return by how much each breaks the bounds, ``(N,)``."""
        bounds = self.searching.bounds
        found = np.zeros(len(rows))
        for number, row in enumerate(rows if bounds is not None else ()):
            assert bounds is not None
            if bounds.min_cosine is not None:
                found[number] += max(bounds.min_cosine - row.found.cosine, 0.0)
            if bounds.max_drop is not None:
                found[number] += max(self.level - row.found.score - bounds.max_drop, 0.0)
        return found

    def _bar(self, genes: Genes) -> Benchmark | None:
        """Return what a strategy must exceed to matter; None where all samples are wanted."""
        if not self.searching.drop or self.searching.bounds is not None or self._surrogate is None:
            return None  # what the model is founded on is measured whole
        if "latency" in self.searching.objectives:
            return None
        rows = self._rows_before
        if "size" in self.searching.objectives:
            bits = self._space.bits(genes)
            rows = [row for row in rows if row.found.bits <= bits]
            row = max(rows, key=lambda each: each.found.score, default=None)
        else:
            ordered = sorted(rows, key=lambda each: -each.found.score)
            row = (
                ordered[self.searching.population - 1]
                if len(rows) >= self.searching.population
                else None
            )
        return Benchmark(units=row.found.units, score=row.found.score) if row else None

    def _try(self, population: Iterable[Genes], origin: str | dict[str, list[Genes]]) -> None:
        """Evaluate strategies side by side; what they must exceed is settled before."""
        self._rows_before = self.complete()
        wanted = [g for g in dict.fromkeys(population) if g not in self._seen]
        wanted = wanted[: self._left()]
        timed = "latency" in self.searching.objectives
        bars = {genes: self._bar(genes) for genes in wanted}
        origins = origin if isinstance(origin, str) else _origins(origin)

        def evaluate(genes: Genes) -> Evaluation | None:
            """Evaluate one, or look it up; None where another process is at it."""
            code = encode(self._space, genes)
            return self._stored(
                code,
                lambda: self.laboratory.evaluate(genes, self._exam, bar=bars[genes], timed=timed),
            )

        for genes, found in zip(wanted, self._pool.map(evaluate, wanted), strict=True):
            if found is not None:
                name = origins if isinstance(origins, str) else origins[genes]
                self._take(genes, found, name)
        self._take_others()

    def _stored(self, code: str, evaluate: Callable[[], Evaluation]) -> Evaluation | None:
        """Return the result of a strategy from the store, or evaluate and store it."""
        known = self._store.result(code)
        if known is not None:
            return from_dict(known)
        if self._stop.is_set() or self._is_late() or not self._store.claim(code):
            return None
        begun = time.monotonic()
        found = replace(evaluate(), seconds=time.monotonic() - begun)
        self._store.add({"code": code, **as_dict(found)})
        return found

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
        self._seen[genes] = row
        score = found.score if found.complete and self.holds(row) else math.nan
        self._now = replace(
            self._now,
            evaluations=len(self.rows),
            best=float(np.fmax(self._now.best, score)),
            seconds=row.seconds,
        )
        self._report(row)
        self._report(self._now)

    def _take_others(self) -> None:
        """Note what other processes found meanwhile."""
        if not self.searching.shared:
            return
        for code, content in list(self._store.results().items()):
            genes = tuple(int(digit, 36) for digit in code.rpartition("-")[2])
            if genes not in self._seen:
                self._take(genes, from_dict(content), "other")

    def _next(self, number: int) -> None:
        """Begin a generation."""
        self._now = replace(
            self._now,
            number=number,
            name=f"generation {number}",
            screened=0,
            uses_screen=False,
            closed=False,
        )

    def _close(self) -> None:
        """End a generation."""
        front = len(self.front())
        seconds = time.monotonic() - self._begun
        self._now = replace(self._now, front=front, seconds=seconds, closed=True)
        self.generations.append(self._now)
        self._report(self._now)

    def _left(self) -> int:
        """Return how many strategies may still be evaluated."""
        return (self.searching.evaluations or MANY * MANY) - len(self.rows)

    def _is_late(self) -> bool:
        """Say whether the time is up."""
        return (
            self.searching.budget is not None
            and time.monotonic() - self._begun > self.searching.budget
        )

    def _is_over(self) -> bool:
        """Say whether the search has come to its end."""
        how = self.searching
        bred = how.generations is not None and len(self.generations) >= how.generations
        reached = how.target is not None and self._now.best >= how.target
        return bred or reached or self._left() <= 0 or self._is_late() or self._stop.is_set()


def _genes(row: Array) -> Genes:
    """Return a row of a population as a strategy."""
    return tuple(int(value) for value in row)


def _origins(children: dict[str, list[Genes]]) -> dict[Genes, str]:
    """Return where each strategy of a generation comes from."""
    return {genes: name for name, found in children.items() for genes in found}


def _by_worth(share: Array, base: int, values: list[int]) -> list[int]:
    """Order the options of a gene by what measuring them tells.

    First one that disturbs enough to be measured and little enough to add up, halfway between
    least and most in the logarithm; then the others, least first.
    """
    size = np.log(np.maximum(share, 1e-12))
    middle = (size.min() + size.max()) / 2
    first = min(values, key=lambda v: (abs(size[v] - middle), v == base, v))
    return [first, *sorted((v for v in values if v != first), key=lambda v: size[v])]
