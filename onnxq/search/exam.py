"""Samples to be examined on: read once, put in the order that decides soonest."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np

from onnxq.comparison import nearness
from onnxq.feeds import Batch
from onnxq.graph.session import Session
from onnxq.metrics.answers import Answers, Metric
from onnxq.metrics.classification import Paired
from onnxq.metrics.judge import scored, tensors
from onnxq.metrics.similarity import Similarity
from onnxq.types import Array


@dataclass(frozen=True, kw_only=True)
class Exam:
    """What candidates are scored on.

    Attributes:
        batches: The samples.
        references: The float model's outputs of each batch, by name.
        metric: What scores them.
        metadata: The float model's metadata entries.
    """

    batches: Sequence[Batch]
    references: Sequence[Mapping[str, Array]]
    metric: Metric
    metadata: Mapping[str, str]

    def evidence(self, number: int, outputs: Mapping[str, Any]) -> Sequence[Any]:
        """Return what the metric finds in the answers to a batch."""
        batch = self.batches[number]
        answers = Answers(
            outputs=tensors(outputs),
            reference=self.references[number],
            labels=batch.labels,
            samples=batch.samples,
            metadata=self.metadata,
        )
        return self.metric.evidence(answers)

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return sum(batch.samples for batch in self.batches)


def by_sample(evidence: Sequence[Any]) -> bool:
    """Say whether the items of evidence are scores of samples."""
    return all(isinstance(item, Real) for item in evidence)


def answers_of(session: Session, feed: Mapping[str, Array]) -> dict[str, Any]:
    """Run a batch and return the outputs by name."""
    return dict(zip(session.outputs, session.run(feed), strict=True))


def examined(reference: Session, batches: Sequence[Batch], metric: Metric) -> Exam:
    """Run the float model on samples."""
    return Exam(
        batches=batches,
        references=[tensors(answers_of(reference, batch.inputs)) for batch in batches],
        metric=metric,
        metadata=reference.metadata,
    )


def shuffled(batches: Sequence[Batch], seed: int) -> list[Batch]:
    """Return the same samples in random order, in batches of the same size."""
    rows = list(_rows(batches))
    order = np.random.default_rng(seed).permutation(len(rows))
    return _stacked([rows[i] for i in order], batches)


def easy_last(exam: Exam, evidence: Sequence[Sequence[Any]]) -> Sequence[Batch]:
    """Return the samples that leave nothing to gain behind all others, else in their order.

    Where that is not known, or all are alike, those are the batches as they are.

    Args:
        exam: The samples.
        evidence: What the metric found in answers to each batch.
    """
    best = getattr(exam.metric, "best", None)
    rows = list(_rows(exam.batches))
    items = [item for found in evidence for item in found]
    if best is None or not by_sample(items) or len(items) != len(rows):
        return exam.batches
    order = np.argsort([item >= best for item in items], kind="stable")
    if np.array_equal(order, np.arange(len(rows))):
        return exam.batches
    return _stacked([rows[i] for i in order], exam.batches)


def _rows(batches: Sequence[Batch]) -> Iterator[Batch]:
    """Yield single samples, their labels with them."""
    for batch in batches:
        if not batch.splittable:
            yield batch
            continue
        for row, inputs in enumerate(batch.rows()):
            labels = {name: array[row : row + 1] for name, array in batch.labels.items()}
            yield replace(batch, inputs=inputs, labels=labels, samples=1)


def _stacked(rows: Sequence[Batch], like: Sequence[Batch]) -> list[Batch]:
    """Put samples together to batches of the size others have."""
    size = max(batch.samples for batch in like)
    if size == 1 or not all(row.splittable for row in rows):
        return list(rows)
    groups = [rows[i : i + size] for i in range(0, len(rows), size)]
    return [
        replace(
            group[0],
            inputs=_joined([row.inputs for row in group]),
            labels=_joined([row.labels for row in group]),
            samples=len(group),
        )
        for group in groups
    ]


def _joined(feeds: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Concatenate arrays along the first axis."""
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one set of samples says of the model before and after tuning.

    Attributes:
        samples: How many.
        before: The model as the recipe asked, against the float model.
        after: The tuned model, against the float model.
        gain: The tuned model against the one before.
        similarities: Of the worst output, before and after.
    """

    samples: int
    before: Paired
    after: Paired
    gain: Paired
    similarities: tuple[Similarity, Similarity]


def sides(exam: Exam, sessions: tuple[Session, Session]) -> Side:
    """Score the float model, the one before tuning and the tuned one on the same samples."""
    found: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    near: list[dict[str, Similarity]] = [{}, {}]
    for number, batch in enumerate(exam.batches):
        reference = exam.references[number]
        found[0].extend(exam.evidence(number, reference))
        for which, session in enumerate(sessions):
            outputs = answers_of(session, batch.inputs)
            found[which + 1].extend(exam.evidence(number, outputs))
            for name, array in reference.items():
                both = nearness(array, outputs[name], batch.samples)
                near[which][name] = near[which].get(name, Similarity()) + both
    pairs = [scored(exam.metric, found[a], found[b]).paired for a, b in ((0, 1), (0, 2), (1, 2))]
    compared = [[each for each in found.values() if each.samples] for found in near]
    worst = [min(each, key=lambda s: s.sqnr, default=Similarity()) for each in compared]
    return Side(
        samples=exam.samples,
        before=pairs[0],
        after=pairs[1],
        gain=pairs[2],
        similarities=(worst[0], worst[1]),
    )
