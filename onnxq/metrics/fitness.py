"""What an evolutionary search may call fit: the task, the float model's outputs, or both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import numpy as np

from onnxq.metrics.answers import Answers, Metric
from onnxq.metrics.unlabelled import RelativeEntropy


@dataclass(frozen=True, kw_only=True)
class Fitness:
    """``w·metric + (1 − w)·exp(−H)``, H the mean relative entropy of the outputs in nats.

    Attributes:
        weight: w, within 0 … 1; 0 needs no labels.
        task: Name of the metric.
        output: Name of the output for H; None for all of floats, their entropies averaged.

    Raises:
        ValueError: The weight is outside of its bounds.
    """

    name: ClassVar[str] = "fitness"
    best: ClassVar[float] = 1.0
    weight: float = 0.0
    task: str = "classification"
    output: str | None = None

    def __post_init__(self) -> None:
        """Check the bounds."""
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight is within 0 … 1, not {self.weight}")

    def evidence(self, answers: Answers) -> Sequence[tuple[Any, float]]:
        """Return what the metric finds in each sample, and minus its relative entropy."""
        entropies = RelativeEntropy(output=self.output).evidence(answers)
        if not self.weight:
            return [(0.0, each) for each in entropies]
        return list(zip(self._task().evidence(answers), entropies, strict=True))

    def score(self, evidence: Sequence[Any]) -> float:
        """Return the weighted sum."""
        found = (1 - self.weight) * math.exp(float(np.mean([h for _, h in evidence])))
        if not self.weight:
            return found
        return found + self.weight * self._task().score([item for item, _ in evidence])

    def units(self, evidence: Sequence[Any]) -> list[float]:
        """Return what to compare sample by sample; without the metric where it has no scores."""
        single = all(isinstance(item, Real) for item, _ in evidence)
        tasks = [float(item) if single else 0.0 for item, _ in evidence]
        both = zip(tasks, (math.exp(h) for _, h in evidence), strict=True)
        return [self.weight * item + (1 - self.weight) * near for item, near in both]

    def _task(self) -> Metric:
        """Return the metric."""
        from onnxq.metrics import metric  # noqa: PLC0415 - which knows this one too

        return metric(self.task)
