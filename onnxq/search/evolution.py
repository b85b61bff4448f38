"""Selection, crossover and mutation of strategies, with arrays instead of objects.

A population is an integer array ``(N, G)``, one row a strategy, one column a gene. Objectives are
``(N, M)`` and lower is better; a row that violates a bound comes after all that violate it less.

Source:
    Deb, Pratap, Agarwal, Meyarivan, "A fast and elitist multiobjective genetic algorithm:
    NSGA-II", IEEE Transactions on Evolutionary Computation 6, 2002.
"""

import numpy as np

from onnxq.types import Array

MUTATIONS = 2.0  # genes of an offspring that change, on average


def ranks(objectives: Array, violations: Array | None = None) -> Array:
    """Return the front each row is on, 0 for those that nothing dominates, ``(N,)``.

    Args:
        objectives: ``(N, M)``, lower is better, not NaN.
        violations: ``(N,)``, 0 where the bounds hold.
    """
    count = len(objectives)
    broken = np.zeros(count) if violations is None else violations
    better = (objectives[:, None] <= objectives[None]).all(axis=2)
    better &= (objectives[:, None] < objectives[None]).any(axis=2)
    same = broken[:, None] == broken[None]
    dominates = (broken[:, None] < broken[None]) | (same & better)
    found = np.full(count, -1)
    left = dominates.sum(axis=0)
    front = 0
    while (now := (left == 0) & (found < 0)).any():
        found[now] = front
        left = left - dominates[now].sum(axis=0)
        front += 1
    return found


def crowding(objectives: Array, front: Array) -> Array:
    """Return how far apart the neighbours of each row on its front are, ``(N,)``; ends: infinite.

    Args:
        objectives: ``(N, M)``.
        front: Of `ranks`.
    """
    distance = np.zeros(len(objectives))
    for number in np.unique(front):
        rows = np.flatnonzero(front == number)
        for values in objectives[rows].T:
            order = rows[np.argsort(values, kind="stable")]
            sorted_ = np.sort(values)
            width = sorted_[-1] - sorted_[0]
            distance[order[[0, -1]]] = np.inf
            if width > 0 and len(rows) > 2:
                distance[order[1:-1]] += (sorted_[2:] - sorted_[:-2]) / width
    return distance


def survivors(objectives: Array, violations: Array, count: int) -> Array:
    """Return the numbers of the rows to keep, best first: by front, then the least crowded.

    Args:
        objectives: ``(N, M)``.
        violations: ``(N,)``.
        count: How many at most.
    """
    front = ranks(objectives, violations)
    apart = crowding(objectives, front)
    return np.lexsort((np.arange(len(front)), -apart, front))[:count]


def offspring(
    parents: Array, count: int, options: Array, rng: np.random.Generator, rate: float = MUTATIONS
) -> Array:
    """Return new strategies: two parents each, gene by gene from one of them, some changed.

    Args:
        parents: ``(P, G)``, best first: of two that are drawn, the first one is taken.
        count: How many.
        options: How many options each gene has, ``(G,)``.
        rng: What decides.
        rate: How many genes change, on average.
    """
    genes = len(options)
    drawn = rng.integers(len(parents), size=(2, 2, count)).min(axis=0)
    mothers, fathers = parents[drawn[0]], parents[drawn[1]]
    share = rng.choice([0.5, 0.1, 0.0], size=(count, 1))  # of the other parent: half, little, none
    children = np.where(rng.random((count, genes)) < share, fathers, mothers)
    amount = rate * rng.choice([0.5, 1.0, 3.0], size=(count, 1)) / genes
    changed = rng.random((count, genes)) < amount
    changed[np.arange(count), rng.integers(genes, size=count)] |= ~changed.any(axis=1)
    return np.where(changed, rng.integers(options, size=(count, genes)), children)


def spearman(one: Array, other: Array) -> float:
    """Return Spearman's rank correlation, ties by their mean rank; NaN of fewer than 3 values."""
    if len(one) < 3:
        return float("nan")
    a, b = (_mean_ranks(each) for each in (one, other))
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / size) if size else float("nan")


def _mean_ranks(values: Array) -> Array:
    """Return the rank of each value, equal ones sharing theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[which]
