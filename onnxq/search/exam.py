"""Samples to be examined on: read once, put in the order that decides soonest."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
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
from onnxq.search.hopeless import is_hopeless
from onnxq.table import CalibrationTable, content_hash
from onnxq.types import Array

FIRST = 8  # samples in the first batches
FEWEST = 8  # samples that nothing was fitted on; with fewer, all are taken


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

    def units(self, evidence: Sequence[Any]) -> Array:
        """Return the scores of a batch: of its samples if they have any, else one of them all."""
        if self._units is not None:
            return np.array(self._units(evidence), np.float64)
        if by_sample(evidence):
            return np.array(evidence, np.float64)
        return np.array([self.metric.score(evidence)])

    def is_hopeless(self, units: Array, before: Array, wanted: float) -> bool:
        """Say whether a candidate cannot exceed another any more, see `onnxq.search.hopeless`.

        Args:
            units: What `units` gives of the batches it has seen, ``(n,)``.
            before: The same of the other, of all batches, ``(N,)``.
            wanted: The mean gain that must be exceeded.
        """
        rest = before[len(units) :]
        scored_ = self._units is not None or by_sample(self.perfect)
        single = scored_ and len(before) == self.samples
        best = getattr(self.metric, "best", math.inf) if single else math.inf
        room: Array = np.full(rest.shape, best) - rest
        return is_hopeless(units - before[: len(units)], room, wanted)

    @cached_property
    def _units(self) -> Callable[[Sequence[Any]], Sequence[float]] | None:
        """What gives samples scores, where the evidence is none."""
        units, signal = (getattr(self.metric, name, None) for name in ("units", "signal"))
        if units is None or signal is None:
            return units
        return partial(units, signal=signal(self.perfect))  # of all samples, not of a batch

    @cached_property
    def perfect(self) -> list[Any]:
        """What the metric finds in the float model's own answers to all samples.

        Raises:
            RecipeError: The metric does not fit the outputs.
            CalibrationError: The labels are missing or do not fit, or the metric fails.
        """
        numbered = enumerate(self.references)
        return [item for number, outputs in numbered for item in self.evidence(number, outputs)]


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
    """Return the same samples in random order, in batches of at most the same size."""
    rows = list(_rows(batches))
    order = np.random.default_rng(seed).permutation(len(rows))
    return _stacked([rows[i] for i in order], batches)


def unfitted(batches: Sequence[Batch], table: CalibrationTable) -> Sequence[Batch]:
    """Return the samples that repairs are not fitted on, or all of them if those are few."""
    fitted = {content_hash(feed) for feed in table.kept.fit}
    rows = list(_rows(batches))
    others = [row for row in rows if content_hash(row.inputs) not in fitted]
    if len(others) == len(rows) or len(others) < FEWEST:
        return batches
    return _stacked(others, batches)


def easy_last(exam: Exam, answers: Sequence[Mapping[str, Any]]) -> Sequence[Batch]:
    """Return the samples that leave something to gain first, in their order, then the others.

    Of the others those come first that may be lost soonest: their two highest scores are nearest,
    if the first output is ``(samples, classes)`` scores. Where it is not known what can be gained,
    or all samples are alike, the batches stay as they are.

    Args:
        exam: The samples.
        answers: A model's outputs of each batch.
    """
    best = getattr(exam.metric, "best", None)
    rows = list(_rows(exam.batches))
    found = [exam.evidence(number, outputs) for number, outputs in enumerate(answers)]
    items = [item for part in found for item in part]
    if best is None or not by_sample(items) or len(items) != len(rows):
        return exam.batches
    easy = np.array([item >= best for item in items])
    margins = np.concatenate([_margins(outputs) for outputs in answers])
    if not easy.any() or margins.size != easy.size:
        margins = np.zeros(easy.size)
    order = np.lexsort((np.where(easy, margins, 0.0), easy))
    if np.array_equal(order, np.arange(len(rows))):
        return exam.batches
    return _stacked([rows[i] for i in order], exam.batches)


def _margins(outputs: Mapping[str, Any]) -> Array:
    """Return by how much the highest score exceeds the next, one a sample; none for others."""
    scores = next(iter(outputs.values()))
    if not isinstance(scores, np.ndarray) or scores.ndim != 2 or scores.shape[1] < 2:
        return np.zeros(0)
    highest = np.partition(scores, -2, axis=1)[:, -2:]
    margins: Array = (highest[:, 1] - highest[:, 0]).astype(np.float64)
    return margins


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
    """Put samples together to batches, small ones first: they may be all that is needed.

    Two of `FIRST` samples, two of twice as many, and so on up to the largest size of others.
    """
    most = max(batch.samples for batch in like)
    if most == 1 or not all(row.splittable for row in rows):
        return list(rows)
    found: list[Batch] = []
    start = 0
    while start < len(rows):
        size = min(FIRST << (len(found) // 2), most)
        group = rows[start : start + size]
        inputs, labels = _joined([r.inputs for r in group]), _joined([r.labels for r in group])
        found.append(replace(group[0], inputs=inputs, labels=labels, samples=len(group)))
        start += size
    return found


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
