"""What every metric must hold."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from numbers import Real

import numpy as np

from onnxq.errors import OnnxqError
from onnxq.metrics.answers import Answers, Metric
from onnxq.types import Array

SAMPLES = 6
NEAR = 1e-9  # what the order of a sum may change


@dataclass(frozen=True, kw_only=True)
class MetricCase:
    """Answers of which it is known which ones are better; the first axis counts samples.

    Attributes:
        name: What kind of model answered.
        right: Outputs of the float model, as they should be, by name.
        wrong: Outputs of a worse one, same names and shapes.
        labels: The ``label…`` arrays of the data; none where a metric compares outputs only.
        metadata: The model's metadata entries.
    """

    name: str
    right: Mapping[str, Array]
    wrong: Mapping[str, Array]
    labels: Mapping[str, Array] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the name, for the ids of parametrized tests."""
        return self.name

    def answers(self, outputs: Mapping[str, Array], among: slice = slice(None)) -> Answers:
        """Return some samples of ``right`` or ``wrong`` as a metric gets them, in copies."""
        kept, reference, labels = (
            {name: array[among].copy() for name, array in arrays.items()}
            for arrays in (outputs, self.right, self.labels)
        )
        return Answers(
            outputs=kept,
            reference=reference,
            labels=labels,
            samples=len(next(iter(kept.values()))),
            metadata=self.metadata,
        )


def metric_cases() -> dict[str, MetricCase]:
    """Return a case for each kind of model: ``classes``, ``pixels``, ``boxes``, ``texts``.

    A metric of another kind of output brings a case of its own.
    """
    return {case.name: case for case in (_classes(), _pixels(), _boxes(), _texts())}


def check_metric_is_a_frozen_dataclass(metric: Metric, case: MetricCase) -> None:  # noqa: ARG001
    """The protocol is held, the options are fields, and equal options make equal metrics."""
    assert isinstance(metric, Metric), "name, evidence and score are wanted"
    assert isinstance(metric.name, str), "the name must be a text"
    parameters = getattr(metric, "__dataclass_params__", None)
    assert parameters is not None, "a metric must be a dataclass"
    assert parameters.frozen, "a metric must be frozen"
    assert replace(metric) == metric, "the fields must be the options"  # type: ignore[type-var]


def check_metric_has_an_item_a_sample(metric: Metric, case: MetricCase) -> None:
    """There is one item of evidence a sample, whatever the batch."""
    for among in (slice(None), slice(0, 1), slice(1, 4)):
        answers = case.answers(case.wrong, among)
        assert len(metric.evidence(answers)) == answers.samples, "one item a sample is wanted"


def check_metric_prefers_right_answers(metric: Metric, case: MetricCase) -> None:
    """The score is a finite number, higher for right answers than for wrong ones."""
    right, wrong = (_score(metric, case.answers(each)) for each in (case.right, case.wrong))
    assert np.isfinite([right, wrong]).all(), "the score must be finite"
    assert right > wrong, "higher must be better"


def check_metric_ignores_batches(metric: Metric, case: MetricCase) -> None:
    """The evidence of a whole batch scores as that of its parts, in any order."""
    whole = _score(metric, case.answers(case.wrong))
    parts = (slice(3, None), slice(0, 1), slice(1, 3))
    items = [i for part in parts for i in metric.evidence(case.answers(case.wrong, part))]
    assert abs(metric.score(items) - whole) <= NEAR, "batches and order must not matter"


def check_metric_scores_subsets(metric: Metric, case: MetricCase) -> None:
    """Any samples have a score; where items are numbers it is their mean."""
    items = metric.evidence(case.answers(case.wrong))
    for subset in (items[:1], items[2:], [*items, *items]):
        score = metric.score(subset)
        assert isinstance(score, float), "the score must be a float"
        assert np.isfinite(score), "any samples must have a score"
        if all(isinstance(item, Real) for item in subset):
            mean = float(np.mean(np.array(subset, np.float64)))
            assert abs(score - mean) <= NEAR, "scores of samples must be averaged"


def check_metric_keeps_answers(metric: Metric, case: MetricCase) -> None:
    """What a metric is given is not changed, and the same answers give the same score."""
    answers = case.answers(case.wrong)
    before = deepcopy(answers)
    first = _score(metric, answers)
    for name in ("outputs", "reference", "labels"):
        arrays, kept = getattr(answers, name), getattr(before, name)
        assert list(arrays) == list(kept), f"{name} must stay"
        for key, array in arrays.items():
            assert array.tobytes() == kept[key].tobytes(), f"{name} must not be changed"
    assert _score(deepcopy(metric), before) == first, "the score must repeat"


def check_metric_refuses_in_words(metric: Metric, case: MetricCase) -> None:
    """Missing outputs and missing labels are an OnnxqError of one line."""
    answers = case.answers(case.right)
    odd = [replace(answers, outputs={}, reference={})]
    odd += [replace(answers, labels={})] if case.labels else []
    for each in odd:
        said = _refused(metric, each)
        assert said is not None, "missing outputs or labels must be refused"
        assert "\n" not in said, "an error must be one line"


def _refused(metric: Metric, answers: Answers) -> str | None:
    """Return the message of a refusal, or None where there is none."""
    try:
        metric.evidence(answers)
    except OnnxqError as error:
        return str(error)
    return None


MetricCheck = Callable[[Metric, MetricCase], None]

METRIC_CHECKS: tuple[MetricCheck, ...] = (
    check_metric_is_a_frozen_dataclass,
    check_metric_has_an_item_a_sample,
    check_metric_prefers_right_answers,
    check_metric_ignores_batches,
    check_metric_scores_subsets,
    check_metric_keeps_answers,
    check_metric_refuses_in_words,
)


def _score(metric: Metric, answers: Answers) -> float:
    """Return the score of one batch."""
    return metric.score(metric.evidence(answers))


def _scores(label: Array, classes: int, axis: int) -> tuple[Array, Array]:
    """Return scores whose highest class is the label, and some of other classes, float32."""
    rng = np.random.default_rng(0)
    noise = rng.uniform(0, 1, (*label.shape, classes))
    other = np.where(rng.random(label.shape) < 0.5, label, (label + 1) % classes)
    right, wrong = (2 * np.eye(classes)[each] + noise for each in (label, other))
    moved = (np.moveaxis(each, -1, axis).astype(np.float32) for each in (right, wrong))
    return next(moved), next(moved)


def _classes() -> MetricCase:
    """Return the answers of a classifier."""
    label = np.arange(SAMPLES) % 7
    right, wrong = _scores(label, 7, -1)
    return MetricCase(
        name="classes", right={"y": right}, wrong={"y": wrong}, labels={"label": label}
    )


def _pixels() -> MetricCase:
    """Return the answers of a segmentation net."""
    label = np.random.default_rng(1).integers(0, 3, (SAMPLES, 4, 5))
    right, wrong = _scores(label, 3, 1)
    return MetricCase(
        name="pixels", right={"y": right}, wrong={"y": wrong}, labels={"label": label}
    )


def _boxes() -> MetricCase:
    """Return the answers of a detector: two objects a picture, one of them moved where wrong."""
    corner = np.random.default_rng(2).uniform(0, 20, (SAMPLES, 2, 2))
    corner[:, 1] += 40
    boxes = np.concatenate([corner, corner + 10], axis=2).astype(np.float32)
    classes = np.stack([np.arange(SAMPLES) % 2, np.ones(SAMPLES, np.int64)], axis=1)
    other = np.linspace(0.05, 0.4, 2 * SAMPLES).reshape(SAMPLES, 2, 1)  # all different
    scores = (other + 0.5 * np.eye(2)[classes]).astype(np.float32)
    moved = boxes.copy()
    moved[:, 1] += 30
    return MetricCase(
        name="boxes",
        right={"boxes": boxes, "scores": scores},
        wrong={"boxes": moved, "scores": scores},
        labels={"label_boxes": boxes, "label_classes": classes},
    )


def _texts() -> MetricCase:
    """Return the answers of a reader of lines; class 0 is the blank."""
    steps = np.array([[1, 1, 0, 2, 3], [2, 0, 2, 0, 1], [3, 3, 3, 1, 0]] * (SAMPLES // 3))
    right, wrong = _scores(steps, 4, -1)
    return MetricCase(
        name="texts",
        right={"y": right},
        wrong={"y": wrong},
        labels={"label": np.array(["abc", "bba", "ca"] * (SAMPLES // 3))},
        metadata={"character": "a\nb\nc"},
    )
