"""Top-k accuracy, agreement, and how sure one may be of a difference."""

import math
from dataclasses import dataclass

import numpy as np

from onnxq.types import Array


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
