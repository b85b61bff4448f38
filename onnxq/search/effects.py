"""How much each option of each gene matters, from single changes: what predictions begin with.

An option disturbs its tensor by so much noise over signal, which needs no run; one measured change
of a gene tells how much the outputs mind. Those measured count as they were.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnxq.search.searching import Row
from onnxq.search.space import Genes, Space
from onnxq.search.stock import Stock
from onnxq.search.surrogate import Surrogate
from onnxq.types import Array

TINY = 1e-12  # noise over signal that is taken for none


class Effects:
    """Single changes of one strategy."""

    def __init__(self, space: Space, stock: Stock, base: Genes) -> None:
        """Look how much the options of each gene disturb their tensor.

        Args:
            space: What may be chosen.
            stock: The model as the recipe alone prepares it.
            base: The strategy to change.
        """
        self._space, self._base = space, base
        self._shares = [self._disturbances(stock, number) for number in range(len(base))]

    def _disturbances(self, stock: Stock, number: int) -> Array | None:
        """Return how much the options of a gene disturb its tensor; None if it is about none."""
        gene = self._space.genes[number]
        specs = [option.spec for option in gene.options if option.spec is not None]
        if gene.kind not in ("activation", "weight") or len(specs) < len(gene.options):
            return None
        return stock.disturbances(gene.name, specs, place=gene.place)

    @property
    def steep(self) -> bool:
        """Whether options differ in width, or keep nodes float."""
        return any(
            gene.kind == "node" or len({o.spec.dtype for o in gene.options if o.spec}) > 1
            for gene in self._space.genes
        )

    def changes(self) -> list[Genes]:
        """Return all single changes: one a gene first, that which tells most, then the others."""
        turns: dict[int, list[Genes]] = {}
        for number, share in enumerate(self._shares):
            values = [v for v in range(self._space.counts[number]) if v != self._base[number]]
            for turn, value in enumerate(values if share is None else _by_worth(share, values)):
                turns.setdefault(turn, []).append(self._changed(number, value))
        return [change for turn in sorted(turns) for change in turns[turn]]

    def surrogate(self, seen: Mapping[Genes, Row]) -> Surrogate:
        """Return the additive model that what was evaluated gives."""
        start = seen[self._base].found.noise

        def measured(genes: Genes) -> float | None:
            """Return what a single change adds, if it was evaluated."""
            row = seen.get(genes)
            known = row is not None and math.isfinite(row.found.noise)
            return row.found.noise - start if known and row is not None else None

        effects = [self._effects(number, measured) for number in range(len(self._base))]
        return Surrogate(start, effects)

    def _effects(self, number: int, measured: Callable[[Genes], float | None]) -> Array:
        """Return the effects of the options of a gene, relative to the one that is changed."""
        share, base = self._shares[number], self._base[number]
        count = int(self._space.counts[number])
        asked = {value: measured(self._changed(number, value)) for value in range(count)}
        known = {value: effect for value, effect in asked.items() if effect is not None}
        found = np.zeros(count)
        if share is not None:
            more = share - share[base]
            power = sum(more[v] ** 2 for v in known)
            slope = sum(more[v] * effect for v, effect in known.items()) / power if power else 0.0
            found = max(slope, 0.0) * more
        for value, effect in known.items():
            found[value] = effect
        return found

    def _changed(self, number: int, value: int) -> Genes:
        """Return the strategy with another option of one gene."""
        return (*self._base[:number], value, *self._base[number + 1 :])


def _by_worth(share: Array, values: Sequence[int]) -> list[int]:
    """Order the options of a gene by what measuring them tells.

    First one that disturbs enough to be measured and little enough to add up, halfway between
    least and most in the logarithm; then the others, least first.
    """
    size = np.log(np.maximum(share, TINY))
    middle = (size.min() + size.max()) / 2
    first = min(values, key=lambda v: (abs(size[v] - middle), v))
    return [first, *sorted((v for v in values if v != first), key=lambda v: (size[v], v))]
