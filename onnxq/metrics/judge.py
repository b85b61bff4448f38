"""Score two models by one metric on the same samples, with the interval of the difference."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from onnxq.errors import CalibrationError
from onnxq.metrics.answers import Answers, Metric
from onnxq.metrics.classification import Paired, paired
from onnxq.types import Array

GROUPS = 20
SEED = 0
STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093,
)  # fmt: skip
"""97.5 % quantiles of Student's t for 1 to GROUPS − 1 degrees of freedom."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a metric says of two models.

    Attributes:
        name: The metric.
        paired: Score of both, and the interval of the difference.
        interval: How the interval was found: ``paired`` from the samples' own scores, else
            ``jackknife``.
    """

    name: str
    paired: Paired
    interval: str


class Judge:
    """Collects the evidence of both models, batch by batch."""

    def __init__(self, metric: Metric, metadata: Mapping[str, str]) -> None:
        """Begin with nothing seen.

        Args:
            metric: What to score by.
            metadata: The float model's metadata entries.
        """
        self._metric = metric
        self._metadata = metadata
        self._found: tuple[list[Any], list[Any]] = ([], [])

    def add(
        self,
        before: Mapping[str, Any],
        after: Mapping[str, Any],
        labels: Mapping[str, Array],
        samples: int,
    ) -> None:
        """Take in one batch.

        Args:
            before: Outputs of the float model; what is no tensor is left out.
            after: Outputs of the quantized model.
            labels: The ``label…`` arrays.
            samples: How many samples the batch holds.

        Raises:
            RecipeError: The metric does not fit the outputs.
            CalibrationError: The labels are missing or do not fit, or the metric fails.
        """
        reference = tensors(before)
        for outputs, found in zip((reference, tensors(after)), self._found, strict=True):
            answers = Answers(
                outputs=outputs,
                reference=reference,
                labels=labels,
                samples=samples,
                metadata=self._metadata,
            )
            found.extend(self._metric.evidence(answers))

    def result(self) -> Scored:
        """Return both scores.

        Raises:
            CalibrationError: A score is NaN or infinite.
        """
        return scored(self._metric, *self._found)


def tensors(outputs: Mapping[str, Any]) -> dict[str, Array]:
    """Return the outputs that are tensors."""
    return {name: array for name, array in outputs.items() if isinstance(array, np.ndarray)}


def scored(metric: Metric, before: Sequence[Any], after: Sequence[Any]) -> Scored:
    """Score two models by what was found.

    Args:
        metric: What found it.
        before: Evidence of the float model, one item a sample.
        after: Evidence of the quantized model, the same samples in the same order.

    Returns:
        Scores, and the 95 % interval of the difference: of the paired scores where there is one
        a sample, else by leaving out one of 20 random groups of samples after the other.

    Raises:
        CalibrationError: A score is NaN or infinite.
    """
    scores = [
        checked_score(metric, found, model)
        for found, model in ((before, "float"), (after, "quantized"))
    ]
    if _per_sample(before) and _per_sample(after):
        pair = paired(np.array(before, np.float64), np.array(after, np.float64))
        return Scored(name=metric.name, paired=pair, interval="paired")
    pair = Paired(
        before=scores[0],
        after=scores[1],
        half_width=_jackknife(metric, before, after),
        samples=len(before),
    )
    return Scored(name=metric.name, paired=pair, interval="jackknife")


def _per_sample(evidence: Sequence[Any]) -> bool:
    """Say whether the items are scores of samples."""
    return all(isinstance(item, Real) for item in evidence)


def checked_score(metric: Metric, evidence: Sequence[Any], model: str) -> float:
    """Return the score of samples.

    Raises:
        CalibrationError: It is NaN or infinite; the message names the first sample that is.
    """
    for number, item in enumerate(evidence):
        if isinstance(item, Real) and not math.isfinite(item):
            raise CalibrationError(
                f"metric {metric.name!r} is {item} on sample {number} of the {model} model"
            )
    if not math.isfinite(score := metric.score(evidence)):
        raise CalibrationError(f"metric {metric.name!r} is {score} for the {model} model")
    return score


def _jackknife(metric: Metric, before: Sequence[Any], after: Sequence[Any]) -> float:
    """Return half the 95 % interval of the difference by the delete-a-group jackknife.

    With G groups and D_g the difference without group g:
    ``variance = (G − 1)/G · Σ_g (D_g − mean D)²``; half width ``t_{0.975, G−1} · √variance``.
    NaN for a single sample.

    Source:
        P. Kott, "The delete-a-group jackknife", Journal of Official Statistics 17 (2001), 521-526.
    """
    count = min(GROUPS, len(before))
    if count < 2:
        return math.nan
    group = np.random.default_rng(SEED).permutation(len(before)) % count
    changes = np.array([_without(metric, before, after, group == g) for g in range(count)])
    variance = (count - 1) / count * float(np.square(changes - changes.mean()).sum())
    return STUDENT[count - 2] * math.sqrt(variance)


def _without(metric: Metric, before: Sequence[Any], after: Sequence[Any], gone: Array) -> float:
    """Return the difference of the scores without some samples."""
    left = np.flatnonzero(~gone).tolist()
    return metric.score([after[i] for i in left]) - metric.score([before[i] for i in left])
