"""What to take out of a sum so that little enough is left, at little cost.

Item i weighs ``w_i ≥ 0`` and costs ``c_i ≥ 0`` to take out. Once the items S are out, ``Σ w_i``
over ``i ∉ S`` is left. The cheapest S that leaves at most a bound is a knapsack; both orders here
are greedy ones, of which beginnings are taken.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


def by_worth(weights: Sequence[float], costs: Sequence[float]) -> list[int]:
    """Return the items that weigh something, the most weight for the cost first.

    What costs nothing comes before all else; equals go by weight, then by index.

    Args:
        weights: Finite or infinite, at least 0.
        costs: Finite, at least 0, as many.
    """

    def worth(item: int) -> float:
        """Return the weight for the cost."""
        return weights[item] / costs[item] if costs[item] > 0 else np.inf

    return sorted(by_weight(weights), key=lambda item: -worth(item))


def by_weight(weights: Sequence[float]) -> list[int]:
    """Return the items that weigh something, the heaviest first, equals by index."""
    return sorted((i for i, w in enumerate(weights) if w > 0), key=lambda item: -weights[item])


def enough(order: Sequence[int], weights: Sequence[float], allowed: float) -> int:
    """Return the least number of items, from the first on, that leave at most a bound.

    Args:
        order: Every item that weighs something, once.
        weights: By item.
        allowed: The bound; below 0 it cannot be kept, and all items are too few.
    """
    left = np.concatenate([np.cumsum([weights[i] for i in reversed(order)])[::-1], [0.0]])
    kept = np.flatnonzero(left <= allowed)
    return int(kept[0]) if kept.size else len(order)


def shortest(
    order: Sequence[Item], holds: Callable[[Sequence[Item]], bool], guess: int
) -> Sequence[Item] | None:
    """Return a beginning of a list that holds although the one shorter by an item does not.

    Lengths are doubled from the guess on until one holds, and then halved. If all beginnings
    longer than one that holds do too, what is returned is the shortest.

    Args:
        order: The list.
        holds: Asked about beginnings of at least one item, each once at most; none does not hold.
        guess: Length to begin with.

    Returns:
        The beginning, which was asked about; None if none was found that holds.
    """
    count = len(order)
    low, high = 0, count + 1
    at = min(max(guess, 1), count)
    while high - low > 1 and low < count:
        if holds(order[:at]):
            high = at
        else:
            low = at
        at = (low + high) // 2 if high <= count else min(2 * low, count)
    return order[:high] if high <= count else None


def returned(out: Sequence[Item], holds: Callable[[Sequence[Item]], bool]) -> Sequence[Item]:
    """Put items back, the first ones first, each as long as the rest still holds.

    Args:
        out: What is out; it holds.
        holds: Asked about fewer and fewer items, in the order of ``out``.

    Returns:
        What stays out.
    """
    for item in list(out):
        fewer = [other for other in out if other != item]
        if holds(fewer):
            out = fewer
    return out
