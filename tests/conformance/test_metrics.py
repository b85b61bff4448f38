"""The published suite on every metric of ours, and on broken ones it must catch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from onnxq.metrics import METRICS
from onnxq.metrics.answers import Answers, Metric
from onnxq.metrics.classification import Classification
from onnxq.metrics.detection import Detection
from onnxq.metrics.fitness import Fitness
from onnxq.metrics.recognition import Recognition
from onnxq.metrics.segmentation import Segmentation
from onnxq.metrics.unlabelled import Cosine, Noise, RelativeEntropy
from onnxq.testing import METRIC_CHECKS, MetricCase, MetricCheck, metric_cases
from onnxq.testing import metrics as suite

CASES = metric_cases()
UNLABELLED = {name: replace(case, labels={}) for name, case in CASES.items()}
TRIALS: list[tuple[Metric, MetricCase]] = [
    (Classification(), CASES["classes"]),
    (Classification(weight=1, k=2, output="y"), CASES["classes"]),
    (Segmentation(), CASES["pixels"]),
    (Detection(), CASES["boxes"]),
    (Detection(iou=0.5, max_detections=1), CASES["boxes"]),
    (Recognition(), CASES["texts"]),
    (Recognition(weight=0, spaces="ignore"), CASES["texts"]),
    *((Cosine(), case) for case in UNLABELLED.values()),
    *((Noise(), case) for case in UNLABELLED.values()),
    *((RelativeEntropy(normalize="softmax"), case) for case in UNLABELLED.values()),
    (Fitness(), UNLABELLED["classes"]),
    (Fitness(weight=0.5), CASES["classes"]),
]
IDS = [f"{metric.name}-{case}" for metric, case in TRIALS]


@pytest.mark.parametrize(("metric", "case"), TRIALS, ids=IDS)
@pytest.mark.parametrize("check", METRIC_CHECKS)
def test_conformance(check: MetricCheck, metric: Metric, case: MetricCase) -> None:
    check(metric, case)


def test_every_metric_is_tried() -> None:
    assert {type(metric) for metric, _ in TRIALS} == set(METRICS)


def test_every_check_is_in_the_suite() -> None:
    assert {check.__name__ for check in METRIC_CHECKS} == {
        name for name in vars(suite) if name.startswith("check_")
    }


# --- what each check is for


@dataclass(frozen=True, kw_only=True)
class Top1:
    """A metric that holds."""

    name: str = "top-1"

    def evidence(self, answers: Answers) -> Sequence[Any]:
        found = answers.outputs["y"].argmax(axis=1) == answers.labels["label"]
        return [float(hit) for hit in found]

    def score(self, evidence: Sequence[Any]) -> float:
        return float(np.mean(evidence))


class OneItem(Top1):
    def evidence(self, answers: Answers) -> Sequence[Any]:
        return [super().score(super().evidence(answers))]


class Errors(Top1):
    def evidence(self, answers: Answers) -> Sequence[Any]:
        return [1 - hit for hit in super().evidence(answers)]


class Batchwise(Top1):
    def evidence(self, answers: Answers) -> Sequence[Any]:
        found = super().evidence(answers)
        return [max(found)] * len(found)


class Sums(Top1):
    def score(self, evidence: Sequence[Any]) -> float:
        return float(np.sum(evidence))


class Sorts(Top1):
    def evidence(self, answers: Answers) -> Sequence[Any]:
        found = super().evidence(answers)
        answers.outputs["y"].sort(axis=1)
        return found


BROKEN = {
    "a_frozen_dataclass": OneItem,
    "an_item_a_sample": OneItem,
    "right_answers": Errors,
    "batches": Batchwise,
    "subsets": Sums,
    "keeps": Sorts,
    "refuses": Top1,
}


@pytest.mark.parametrize(("part", "broken"), BROKEN.items())
def test_broken_metrics_are_caught(part: str, broken: type[Top1]) -> None:
    (check,) = (each for each in METRIC_CHECKS if part in each.__name__)
    metric: Any = object() if part == "a_frozen_dataclass" else broken()
    with pytest.raises(KeyError if broken is Top1 else AssertionError):
        check(metric, CASES["classes"])


def test_a_metric_that_holds_passes_all_but_the_wording() -> None:
    for check in METRIC_CHECKS[:-1]:
        check(Top1(), CASES["classes"])
