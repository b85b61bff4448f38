"""The course of a search: what to evaluate next, given all that was evaluated.

First what asks the same of all tensors, then each choice about the whole model alone; then changes
that tell the additive model how much each choice matters (`onnxq.search.effects`); then
generations. In each, thousands of offspring are predicted, and the best few of them evaluated,
beside some that are drawn without prediction, which show how far it can be trusted.

All that is drawn by lot follows from the seed and from what was evaluated before. A search that is
resumed goes the same way again, with the results at hand, and so arrives where it was.
"""

import math
from collections.abc import Iterator
from itertools import product

import numpy as np

from onnxq.search.effects import Effects
from onnxq.search.evolution import offspring, spearman, survivors
from onnxq.search.records import TINY, Records
from onnxq.search.searching import Generation, Row
from onnxq.search.space import Genes
from onnxq.search.surrogate import Surrogate
from onnxq.types import Array

SCOUTS = 4  # of a generation, drawn without prediction
WINDOW = 48  # scouts that the rank correlation is measured on
FEWEST = 8  # of them to judge by
HOLDS = 0.5  # rank correlation above which predictions choose
INNER = 15  # generations of offspring that are predicted for one that is evaluated
LITTER = 256  # offspring in each of them
LEARNED = 768  # evaluations the additive model learns from at most: survivors and the latest
SHARE = 0.25  # of the evaluations allowed: for uniform strategies, and again for what is learned
TIMED = 128  # the same for uniform strategies, where nothing limits the evaluations
UNIFORM = ("default", "uniform")
WHOLE = (*UNIFORM, "global")


class Hunt:
    """A search under way.

    Attributes:
        records: All that was evaluated.
        generations: How it went.
        interrupted: Whether it was asked to stop.
    """

    def __init__(self, records: Records) -> None:
        """Begin with nothing evaluated.

        Args:
            records: Evaluates, and remembers.
        """
        self.records = records
        self._how, self._space = records.searching, records.laboratory.space
        self._rng = np.random.default_rng(self._how.seed)
        self._surrogate: Surrogate | None = None
        self._scouts: list[tuple[float, float]] = []  # predicted and measured noise
        self.generations: list[Generation] = []
        self.interrupted = False

    def run(self) -> None:
        """Search until the budget is spent; Ctrl-C ends it early."""
        try:
            self._run()
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
            self.records.close()
        self.records.recall()

    @property
    def uniform(self) -> Row:
        """The best strategy evaluated that asks the same of all tensors."""
        return self.records.best(self._of(UNIFORM))

    def shares(self, genes: Genes) -> tuple[float, ...]:
        """Return by how much each choice of a strategy lowers the noise of the default.

        As the additive model has it; NaN where there is none.
        """
        if self._surrogate is None:
            return (math.nan,) * len(genes)
        effects = zip(self._surrogate.effects, genes, strict=True)
        return tuple(float(effect[0] - effect[value]) for effect, value in effects)

    def _of(self, origins: tuple[str, ...]) -> list[Row]:
        """Return what was evaluated whole, of some origins."""
        return [row for row in self.records.complete() if row.origin in origins]

    def _run(self) -> None:
        """Search."""
        records = self.records
        records.evaluate([(0,) * len(self._space.genes)], "default")
        if not records.complete():
            return
        steps = (self._try_uniform, self._try_global, self._measure_effects, self._breed)
        for step in steps if self._how.searcher == "evolution" else (self._draw,):
            if records.is_over(0):
                return
            step()

    def _try_uniform(self) -> None:
        """Ask the same of all tensors."""
        self.records.show(name="the same for all tensors")
        self.records.evaluate(self._uniform(), "uniform")

    def _try_global(self) -> None:
        """Make each choice about the whole model alone."""
        self.records.show(name="choices about the whole model")
        self.records.evaluate(self._global(), "global")

    def _breed(self) -> None:
        """Go through generations until nothing new comes of them."""
        while not self.records.is_over(len(self.generations)) and self._generation():
            pass

    def _draw(self) -> None:
        """Evaluate strategies drawn by lot."""
        while not self.records.is_over(len(self.generations)):
            size = self._how.batch, len(self._space.genes)
            drawn = self._rng.integers(self._space.counts, size=size)
            self._begin()
            self.records.evaluate(map(_genes, drawn), "random")
            self._end()

    def _uniform(self) -> Iterator[Genes]:
        """Yield strategies that ask the same of all activations, and of all weights.

        By label: an option that a tensor does not have leaves that tensor as it is.
        """
        labels = {kind: self._labels(kind) for kind in ("activation", "weight")}
        alone = [(a, "") for a in labels["activation"]] + [("", w) for w in labels["weight"]]
        both = list(product(labels["activation"], labels["weight"]))
        if len(both) > self._share(TIMED) // 2:
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

    def _share(self, timed: int) -> int:
        """Return how many evaluations a part of the preparations may take.

        Args:
            timed: That many, where nothing but time or generations limits them.
        """
        allowed = self._how.evaluations
        return timed if allowed is None else max(int(allowed * SHARE), 1)

    def _global(self) -> Iterator[Genes]:
        """Yield the best uniform strategy with one other choice about the whole model."""
        base = self.uniform.genes
        for number in self._space.of_kind("all"):
            for value in range(1, len(self._space.genes[number].options)):
                yield (*base[:number], value, *base[number + 1 :])

    def _measure_effects(self) -> None:
        """Found the additive model on what changes do, one at a time or many at once.

        Where widths are open, one change says much and adds up. Where they are not, it says more of
        what it happens to cancel than of itself, and each is better seen among many others.
        """
        if not self._how.screen:
            return
        base = min(self._of(WHOLE), key=lambda row: row.found.noise).genes
        stock = self.records.laboratory.stock((0,) * len(base))
        effects = Effects(self._space, stock, base)
        count = self._share(len(base))
        changes = effects.changes() if effects.steep else self._designs(base, count)
        self.records.show(name="effects")
        self.records.evaluate(changes[:count], "probe")
        self._surrogate = effects.surrogate(self.records.seen)

    def _designs(self, base: Genes, count: int) -> list[Genes]:
        """Return a strategy with half of the choices about tensors drawn by lot, many times."""
        size = count, len(base)
        drawn = self._rng.integers(self._space.counts, size=size)
        kept = self._rng.random(size) < 0.5
        kept[:, self._space.of_kind("all")] = True
        return [_genes(row) for row in np.where(kept, np.array(base), drawn)]

    def _generation(self) -> bool:
        """Breed, screen, evaluate; say whether there was anything new to evaluate."""
        self._begin()
        count = len(self.records.rows)
        if self._surrogate is not None:
            self._learn(self._surrogate)
        children = self._children()
        scouts = [genes for genes, origin in children.items() if origin == "scout"]
        predicted = dict(zip(scouts, self._predicted(np.array(scouts)), strict=True))
        self.records.evaluate(children, children, whole=False)
        for genes, noise in predicted.items():
            row = self.records.seen.get(genes)
            if row is not None and math.isfinite(row.found.noise):
                self._scouts.append((float(noise), row.found.noise))
        self._end()
        return len(self.records.rows) > count

    def _children(self) -> dict[Genes, str]:
        """Return what to evaluate in a generation, and where it comes from."""
        size, correlation = self._how.batch, self._correlation()
        parents = np.array([row.genes for row in self.records.surviving()])
        plain = self._fresh(offspring(parents, 4 * size, self._space.counts, self._rng))
        self.records.show(rank_correlation=correlation)
        if self._surrogate is None:
            return dict.fromkeys(plain[:size], "offspring")
        screened: list[Genes] = []
        if len(self._scouts) < FEWEST or correlation >= HOLDS:
            screened = self._screened(parents, self._surrogate)[: size - SCOUTS]
        scouts = [genes for genes in plain if genes not in set(screened)]
        found = dict.fromkeys(screened, "screened")
        return found | dict.fromkeys(scouts[: size - len(screened)], "scout")

    def _screened(self, parents: Array, surrogate: Surrogate) -> list[Genes]:
        """Evolve on predictions alone; return what is new, the best first."""
        pool = parents
        for _ in range(INNER):
            litter = offspring(pool, LITTER, self._space.counts, self._rng)
            pool = np.unique(np.concatenate([pool, litter]), axis=0)
            noise = surrogate.predict(pool)
            kept = survivors(
                self._expected(pool, noise), self._strain(noise), 2 * self._how.population
            )
            pool = pool[kept]
        self.records.show(uses_screen=True, screened=INNER * LITTER)
        fresh = self._fresh(pool)
        return fresh if "quality" in self._how.objectives else self._different(fresh, surrogate)

    def _different(self, population: list[Genes], surrogate: Surrogate) -> list[Genes]:
        """Return of those that cost the same the one with the least predicted noise, first."""
        if not population:
            return []
        rows = np.array(population)
        noise = surrogate.predict(rows)
        cost = self._expected(rows, noise)[:, 0]
        order = np.lexsort((noise, cost, self._strain(noise)))
        leading = {cost[i]: i for i in order[::-1]}
        first = sorted(leading.values(), key=order.tolist().index)
        others = [i for i in order if i not in set(first)]
        return [population[i] for i in [*first, *others]]

    def _expected(self, population: Array, noise: Array) -> Array:
        """Return predicted objectives: size is known; fewer nodes kept float take less time."""
        lifted = (population[:, self._space.of_kind("node")] > 0).sum(axis=1)
        quality = np.log(np.maximum(noise, TINY))
        cheap = {"quality": quality, "size": self._space.bits_of(population), "latency": lifted}
        return np.stack([cheap[name].astype(float) for name in self._how.objectives], axis=1)

    def _strain(self, noise: Array) -> Array:
        """Return by how much predicted noise exceeds the most that was seen to hold the bounds."""
        rows = self.records.complete()
        held = [row.found.noise for row in rows if self.records.holds(row)]
        if self._how.bounds is None:
            return np.zeros(len(noise))
        limit = max(held) if held else 0.0
        strain: Array = np.maximum(noise - limit, 0.0)
        return strain

    def _predicted(self, population: Array) -> Array:
        """Return predicted noise; NaN where nothing is known."""
        if self._surrogate is None or not len(population):
            return np.full(len(population), math.nan)
        return self._surrogate.predict(population)

    def _learn(self, surrogate: Surrogate) -> None:
        """Correct the additive model by what was evaluated."""
        rows = [row for row in self.records.rows if math.isfinite(row.found.noise)]
        kept = {row.genes: row for row in [*self.records.surviving(), *rows[-LEARNED:]]}
        noise = np.array([row.found.noise for row in kept.values()])
        surrogate.learn(np.array(list(kept)), noise)

    def _fresh(self, population: Array) -> list[Genes]:
        """Return the strategies that were not evaluated, in order, each once."""
        genes = dict.fromkeys(map(_genes, population))
        return [each for each in genes if each not in self.records.seen]

    def _correlation(self) -> float:
        """Return how well predictions order strategies that they did not choose."""
        last = np.array(self._scouts[-WINDOW:])
        return spearman(last[:, 0], last[:, 1]) if len(last) >= FEWEST else math.nan

    def _begin(self) -> None:
        """Begin a generation."""
        number = len(self.generations) + 1
        self.records.show(
            number=number,
            name=f"generation {number}",
            screened=0,
            uses_screen=False,
            closed=False,
        )

    def _end(self) -> None:
        """End a generation."""
        self.records.show(front=len(self.records.front()), closed=True)
        self.generations.append(self.records.now)


def _genes(row: Array) -> Genes:
    """Return a row of a population as a strategy."""
    return tuple(int(value) for value in row)
