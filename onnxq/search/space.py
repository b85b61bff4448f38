"""What a search may choose from: the factors that decide how near a quantized model is.

A *gene* is one choice: for the whole model, for one activation, one weight or one node. Its
*options* start with what the recipe alone gives, so that a strategy of zeros is the recipe. What
the recipe says is no choice: an option is there only if, laid under the recipe, it changes what is
asked of the tensor. See docs/search.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from onnxq.recipe import NodeRule, Recipe, TensorRule
from onnxq.search.trials import exactly
from onnxq.types import Array, QuantSpec

FACTORS = ("samples", "ranges", "repairs", "widths", "float", "symmetric", "granularity")
USUAL = ("samples", "ranges", "repairs")
CHEAPER = ("widths",)  # what only makes sense where less is worth something
FLOAT_BITS = 32
Genes = tuple[int, ...]  # a strategy: which option of each gene
GRANULARITY = "weights.granularity"  # the gene that says how far the scales of weights reach


@dataclass(frozen=True, kw_only=True)
class Option:
    """One thing a gene may say.

    Attributes:
        label: What people read.
        recipe: What it asks for, if it is about the whole model.
        rule: What it asks for, if it is about a tensor.
        groups: Which groups of samples the statistics are of; None for all.
        lifts: Whether it keeps a node float.
        spec: How a tensor is then quantized.
        bits: What a weight then takes, its scales included.
        regrained: The same by the second option of the granularity of all weights, and on.
    """

    label: str
    recipe: Recipe = field(default_factory=Recipe)
    rule: TensorRule = field(default_factory=TensorRule)
    groups: tuple[int, ...] | None = None
    lifts: bool = False
    spec: QuantSpec | None = None
    bits: int = 0
    regrained: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Gene:
    """One choice.

    Attributes:
        name: What it is about: a tensor, a node, or a key of the recipe.
        kind: ``all``, ``activation``, ``weight`` or ``node``.
        reason: For people: which node a tensor belongs to, or the type of a node.
        options: The first is what the recipe gives.
        place: Of a weight: first output of its node, and which input it is; of a node likewise.
        elements: Of a weight: how many there are.
    """

    name: str
    kind: str
    reason: str
    options: tuple[Option, ...]
    place: tuple[str, int] | None = None
    elements: int = 0


@dataclass(frozen=True, kw_only=True)
class Space:
    """All strategies for a model.

    Attributes:
        genes: The choices, those about the whole model first.
        base: The recipe.
        factors: What was opened.
        target: Name of the target.
        model_sha256: Digest of the float model.
        absorbed: Name of a node to name and type of the activation it absorbs, which is lifted
            with it.
        fixed: Weights that are no choice, for what they take; one option each.
    """

    genes: tuple[Gene, ...]
    base: Recipe
    factors: tuple[str, ...]
    target: str
    model_sha256: str
    absorbed: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    fixed: tuple[Gene, ...] = ()

    @cached_property
    def counts(self) -> Array:
        """How many options each gene has, ``(G,)``."""
        return np.array([len(gene.options) for gene in self.genes], np.int64)

    @property
    def log10_strategies(self) -> float:
        """How many strategies there are, as a power of ten."""
        return float(np.log10(self.counts.astype(np.float64)).sum())

    def of_kind(self, *kinds: str) -> list[int]:
        """Return the numbers of the genes of some kinds."""
        return [number for number, gene in enumerate(self.genes) if gene.kind in kinds]

    def chosen(self, genes: Sequence[int]) -> Iterator[tuple[Gene, Option]]:
        """Yield what a strategy says."""
        for gene, value in zip(self.genes, genes, strict=True):
            yield gene, gene.options[int(value)]

    def whole(self, genes: Sequence[int]) -> Recipe:
        """Return what a strategy asks of the whole model: what prepares it depends on that."""
        recipe = self.base
        for gene, option in self.chosen(genes):
            if gene.kind == "all":
                recipe = recipe.over(option.recipe)
        return recipe

    def groups(self, genes: Sequence[int]) -> tuple[int, ...] | None:
        """Return the groups of samples a strategy takes; None for all."""
        found = [o.groups for gene, o in self.chosen(genes) if gene.kind == "all" and o.groups]
        return found[0] if found else None

    def recipe(
        self,
        genes: Sequence[int],
        names: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Recipe:
        """Return the recipe of a strategy.

        What most activations are asked for is asked of all, likewise for weights; the others are
        named.

        Args:
            genes: The strategy.
            names: What the tensors are called in the prepared model, if passes renamed them.
            labels: The same of nodes.
        """
        names, labels = names or {}, labels or {}
        tensors: dict[str, TensorRule] = {}
        common: dict[str, TensorRule] = {}
        for kind in ("activation", "weight"):
            said = {g.name: o.rule for g, o in self.chosen(genes) if g.kind == kind}
            usual = _most_frequent(list(said.values()))
            common[kind] = usual
            tensors |= {names.get(n, n): r for n, r in said.items() if r != usual}
        rules = [
            NodeRule(name=exactly(labels.get(name, name)), op=op, quantize=False)
            for gene, option in self.chosen(genes)
            if option.lifts
            for name, op in self._lifted(gene)
        ]
        recipe = self.whole(genes)
        under = Recipe(activations=common["activation"], weights=common["weight"])
        over = Recipe(rules=tuple(rules), tensors=tensors)
        return over.over(recipe.over(under))

    def _lifted(self, gene: Gene) -> Iterator[tuple[str, str]]:
        """Yield name and type of the nodes that are lifted together."""
        yield gene.name, gene.reason
        if gene.name in self.absorbed:
            yield self.absorbed[gene.name]

    def bits(self, genes: Sequence[int]) -> int:
        """Return how many bits the weights take that can be quantized, scales included."""
        return int(self.bits_of(np.asarray(genes)[None])[0])

    def bits_of(self, population: Array) -> Array:
        """Return the bits of many strategies.

        Args:
            population: ``(N, G)``.

        Returns:
            int64, ``(N,)``.
        """
        none = np.zeros(len(population), np.int64)
        grained = [n for n in self.of_kind("all") if self.genes[n].name == GRANULARITY]
        grain = population[:, grained[0]] if grained else none
        nodes = {
            gene.place: number for number, gene in enumerate(self.genes) if gene.kind == "node"
        }
        columns = [(self.genes[number], population[:, number]) for number in self.of_kind("weight")]
        total = none
        for gene, chosen in [*columns, *((gene, none) for gene in self.fixed)]:
            bits = np.array([(each.bits, *each.regrained) for each in gene.options], np.int64)
            taken = bits[chosen, grain]
            node = nodes.get(gene.place and (gene.place[0], 1))
            if node is not None:
                taken = np.where(population[:, node] > 0, FLOAT_BITS * gene.elements, taken)
            total = total + taken
        return total


def _most_frequent(rules: Sequence[TensorRule]) -> TensorRule:
    """Return what is asked most often, the first of equals; nothing where there is nothing."""
    spelled = [repr(rule) for rule in rules]
    counts = {each: spelled.count(each) for each in dict.fromkeys(spelled)}
    best = max(counts, key=lambda each: counts[each], default=None)
    return rules[spelled.index(best)] if best is not None else TensorRule()
