"""How to tune, how far it has come, and what became of each tensor."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxq.errors import UsageError
from onnxq.metrics.answers import Metric
from onnxq.metrics.unlabelled import Cosine
from onnxq.search.candidates import OVER

LEAST_GAIN = 0.001  # what a direction must gain to count
LEAST_SHARE = 0.05  # for smooth metrics: of what is missing from the best score


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How to tune.

    Attributes:
        metric: What to improve.
        over: ``activations``, ``weights`` or ``both``.
        min_gain: What a direction must gain to count; None: 0.001, or for smooth metrics 5 % of
            what is missing from the best score.
        target: Stop once the score on the samples tuned on is at least this.
        sweeps: How often to go through all tensors, at most; it ends when nothing moves.
        drop: Whether to give candidates up once the samples seen show that they cannot win.
        seed: Of the order of the samples.
        workers: Batches to run at once; 0 for one a core.
        checkpoint: Where to leave what was found so far; None for nowhere.
        resume: Go on from the checkpoint, if there is one.
    """

    metric: Metric = field(default_factory=Cosine)
    over: str = "activations"
    min_gain: float | None = None
    target: float | None = None
    sweeps: int = 1
    drop: bool = True
    seed: int = 0
    workers: int = 0
    checkpoint: Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        """Refuse to tune over what is none.

        Raises:
            UsageError: It is not one of the three.
        """
        if self.over not in OVER:
            raise UsageError(f"--over {self.over!r}: write activations, weights or both")

    def threshold(self, score: float) -> float:
        """Return what a direction must gain to count, given the present score."""
        if self.min_gain is not None:
            return self.min_gain
        if getattr(self.metric, "smooth", False):
            return LEAST_SHARE * (float(getattr(self.metric, "best", score)) - score)
        return LEAST_GAIN


@dataclass(frozen=True, kw_only=True)
class Move:
    """What became of one tensor.

    Attributes:
        name: The tensor.
        kind: ``activation`` or ``weight``.
        reason: Which node it belongs to.
        before: What its range was.
        after: What it is.
        gain: What that gained on the samples tuned on; 0 where it did not move.
        evaluations: Candidates tried.
    """

    name: str
    kind: str
    reason: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    gain: float
    evaluations: int


@dataclass(frozen=True, kw_only=True)
class TuneProgress:
    """How far tuning has come.

    Attributes:
        done: Tensors so far.
        total: Tensors in all.
        name: The next one.
        score: The score now.
    """

    done: int
    total: int
    name: str
    score: float
