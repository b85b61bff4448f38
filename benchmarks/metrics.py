"""How good answers are, and how sure one may be that two models differ.

Shapes:
    ``N`` samples, ``K`` counts of one sample, ``D`` axes of an embedding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxq.metrics.classification import paired
from onnxq.types import Array

SEED = 20240229
RESAMPLES = 2000
NEIGHBOURS = 5


@dataclass(frozen=True, kw_only=True)
class Change:
    """A metric of two models on the same samples.

    Attributes:
        name: The metric.
        before: Its value for the float model.
        after: Its value for the quantized model.
        low: Lower end of the 95 % interval of ``after − before``.
        high: Upper end.
        samples: How many samples.
        better: ``higher`` or ``lower``.
    """

    name: str
    before: float
    after: float
    low: float
    high: float
    samples: int
    better: str = "higher"


def mean_change(name: str, before: Array, after: Array) -> Change:
    """Compare means with the normal interval of paired differences.

    Args:
        name: Of the metric.
        before: One score a sample of the float model, ``(N,)``.
        after: The same of the quantized model.
    """
    found = paired(before, after)
    return Change(
        name=name,
        before=found.before,
        after=found.after,
        low=found.difference - found.half_width,
        high=found.difference + found.half_width,
        samples=found.samples,
    )


def bootstrap_change(
    name: str,
    before: Array,
    after: Array,
    value: Callable[[Array], Array],
    *,
    better: str = "higher",
) -> Change:
    """Compare metrics of summed counts with a paired bootstrap over samples.

    Both models get the same draws, `RESAMPLES` of them from a fixed seed; the interval reaches
    from the 2.5 % to the 97.5 % quantile of the differences.

    Args:
        name: Of the metric.
        before: Counts of the float model, ``(N, K)``.
        after: Counts of the quantized model, ``(N, K)``.
        value: The metric as a function of the summed counts, ``(…, K)`` to ``(…)``.
        better: ``higher`` or ``lower``.
    """
    n = len(before)
    rng = np.random.default_rng(SEED)
    draws = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
    differences = value(draws @ after) - value(draws @ before)
    low, high = np.quantile(differences, [0.025, 0.975])
    return Change(
        name=name,
        before=float(value(before.sum(axis=0))),
        after=float(value(after.sum(axis=0))),
        low=float(low),
        high=float(high),
        samples=n,
        better=better,
    )


def ratio(sums: Array) -> Array:
    """Return the first count ÷ the second, ``(…, 2)`` to ``(…)``; 0 where the second is 0."""
    quotient: Array = sums[..., 0] / np.where(sums[..., 1] == 0, 1.0, sums[..., 1])
    return quotient


def edit_counts(found: Sequence[str], wanted: Sequence[str]) -> Array:
    """Count character errors; their `ratio` over all lines is the character error rate.

    Args:
        found: ``N`` lines as read.
        wanted: ``N`` lines as written.

    Returns:
        Insertions, deletions and substitutions, and the length of the line: ``(N, 2)``.
    """
    from rapidfuzz.distance import Levenshtein  # noqa: PLC0415  an extra, for this metric alone

    rows = [(Levenshtein.distance(a, b), len(b)) for a, b in zip(found, wanted, strict=True)]
    return np.array(rows, np.float64).reshape(-1, 2)


def neighbours(embeddings: Array, count: int) -> Array:
    """Return the nearest other rows by inner product, best first.

    Args:
        embeddings: ``(N, D)``, of length 1.
        count: How many; at most ``N − 1``.

    Returns:
        Row indices, ``(N, count)``; among equals the lower index comes first.
    """
    similar = embeddings @ embeddings.T
    np.fill_diagonal(similar, -np.inf)
    return np.argsort(-similar, axis=1, kind="stable")[:, :count]


def neighbour_hits(embeddings: Array, label: Array) -> Array:
    """Say whether most of the five nearest other rows carry a row's label.

    Args:
        embeddings: ``(N, D)``, of length 1.
        label: ``(N,)``.

    Returns:
        bool ``(N,)``. Of labels equally frequent that of the nearest row wins.
    """
    around = label[neighbours(embeddings, NEIGHBOURS)]
    votes = (around[:, :, None] == around[:, None, :]).sum(axis=2)
    hits: Array = around[np.arange(len(label)), votes.argmax(axis=1)] == label
    return hits


def overlap_counts(found: Array, wanted: Array, classes: int) -> Array:
    """Count pixels of each class in both pictures and in either one.

    Args:
        found: Classes found, ``(N, H, W)``.
        wanted: Classes labelled, ``(N, H, W)``.
        classes: How many.

    Returns:
        ``(N, 2 · classes)``: first what is in both, then what is in either.
    """
    rows = []
    for a, b in zip(found, wanted, strict=True):
        pairs = np.bincount(
            b.astype(np.int64).ravel() * classes + a.ravel(), minlength=classes**2
        ).reshape(classes, classes)
        both = np.diag(pairs)
        rows.append(np.concatenate([both, pairs.sum(axis=0) + pairs.sum(axis=1) - both]))
    return np.array(rows, np.float64)


def mean_iou(sums: Array) -> Array:
    """Return intersection over union averaged over the classes, ``(…, 2 · classes)`` to ``(…)``."""
    both, either = np.split(sums, 2, axis=-1)
    mean: Array = (both / np.maximum(either, 1)).mean(axis=-1)
    return mean
