"""Top-k accuracy, agreement, and how sure one may be of a difference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onnxq.metrics.answers import Answers, class_indices, label_of, misfit, output_of, share
from onnxq.types import Array


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Weigh top-1 and top-k accuracy: ``weight · top1 + (1 − weight) · topk``.

    The label ``label`` holds class indices. Among equal scores the lower class ranks first.

    Attributes:
        weight: Share of top-1, 0 to 1.
        k: Guesses that count for top-k; with no more classes than that top-k is always 1.
        output: Name of the output, ``(samples, classes)``; None for the first.

    Raises:
        ValueError: An option is out of its bounds.
    """

    name: ClassVar[str] = "classification"
    best: ClassVar[float] = 1.0
    weight: float = 0.7
    k: int = 5
    output: str | None = None

    def __post_init__(self) -> None:
        """Check the bounds."""
        share("weight", self.weight)
        if self.k < 1:
            raise ValueError(f"k must be at least 1, not {self.k}")

    def evidence(self, answers: Answers) -> Sequence[float]:
        """Return the score of each sample."""
        found = output_of(self.name, answers.outputs, self.output)
        scores = found[1]
        classes = math.prod(scores.shape[1:])
        if scores.shape[1:2] != (classes,) or classes < 2 or scores.dtype.kind not in "fiu":
            raise misfit(self.name, "an output of shape (samples, classes)", found)
        scores = scores.reshape(-1, classes).astype(np.float64)
        label = label_of(self.name, answers, "label", len(scores))
        if label.size != len(scores):
            raise misfit(self.name, "one label a sample", ("label", label))
        label = class_indices(self.name, "label", label.reshape(-1), classes)
        first, among = hits(scores, label, 1), hits(scores, label, self.k)
        both: list[float] = (self.weight * first + (1 - self.weight) * among).tolist()
        return both

    def score(self, evidence: Sequence[Any]) -> float:
        """Return the mean."""
        return float(np.mean(evidence))


def hits(scores: Array, label: Array, k: int) -> Array:
    """Say for each sample whether its label is among the k highest scores.

    Args:
        scores: Shape ``(samples, classes)``.
        label: Class indices, shape ``(samples,)``.
        k: How many guesses count; at least as many classes as there are means always a hit.

    Returns:
        bool, shape ``(samples,)``. Among equal scores the lower class index ranks first.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    found: Array = (order == label.reshape(-1, 1)).any(axis=1)
    return found


@dataclass(frozen=True, kw_only=True)
class Paired:
    """A difference measured on the same samples, with its 95 % interval.

    Attributes:
        before: Mean over the samples of the float model's score.
        after: Mean of the quantized model's score.
        half_width: Half the width of the 95 % interval of ``after − before``.
        samples: How many samples.
    """

    before: float
    after: float
    half_width: float
    samples: int

    @property
    def difference(self) -> float:
        """``after − before``."""
        return self.after - self.before


def paired(before: Array, after: Array) -> Paired:
    """Compare two scores of the same samples.

    Args:
        before: One score a sample, shape ``(samples,)``.
        after: Scores of the other model, same shape and order.

    Returns:
        Means and the normal 95 % interval ``1.96 · std(after − before)/√n`` (std with n − 1;
        0 for a single sample or when no sample differs).
    """
    n = before.size
    change = after.astype(np.float64) - before.astype(np.float64)
    spread = float(change.std(ddof=1)) if n > 1 else 0.0
    return Paired(
        before=float(before.mean()),
        after=float(after.mean()),
        half_width=1.96 * spread / math.sqrt(n) if n else math.nan,
        samples=n,
    )
