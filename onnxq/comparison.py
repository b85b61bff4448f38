"""Run the float and the quantized model on the same data and say how near they are."""

import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxq.errors import CalibrationError, ModelError
from onnxq.feeds import Batch
from onnxq.graph.session import Session
from onnxq.metrics.answers import Metric
from onnxq.metrics.classification import Paired, hits, paired
from onnxq.metrics.judge import Judge, Scored
from onnxq.metrics.similarity import Similarity, similarity
from onnxq.readers import Feed
from onnxq.types import Array


@dataclass(frozen=True, kw_only=True)
class OutputComparison:
    """How near one output is.

    Attributes:
        name: The output.
        similarity: Cosine, SQNR, largest difference.
        agreement: Share of samples with the same highest score, for ``(samples, classes)``
            outputs; None for others.
    """

    name: str
    similarity: Similarity
    agreement: float | None = None


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Median time of one run of each model, measured in turns.

    Attributes:
        float_ms: Milliseconds of the float model.
        quantized_ms: Milliseconds of the quantized model.
        batch_size: Samples a run.
        threads: Threads inside an operator.
        runs: Runs of each.
    """

    float_ms: float
    quantized_ms: float
    batch_size: int
    threads: int
    runs: int

    @property
    def ratio(self) -> float:
        """Quantized ÷ float; below 1 is faster."""
        return self.quantized_ms / self.float_ms


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How near two models are.

    Attributes:
        samples: How many samples were run.
        outputs: One entry an output.
        top1: Top-1 accuracy of both, where labels were given, else None.
        top5: Top-5 accuracy, where there are more than five classes too.
        metric: What the metric asked for says, else None.
    """

    samples: int
    outputs: tuple[OutputComparison, ...]
    top1: Paired | None = None
    top5: Paired | None = None
    metric: Scored | None = None

    @property
    def cosine(self) -> float:
        """Mean cosine of the worst output."""
        return min(output.similarity.cosine for output in self.outputs)


class _Scores:
    """Highest classes of one output, sample by sample."""

    def __init__(self) -> None:
        self.same: list[Array] = []
        self.hits: dict[int, tuple[list[Array], list[Array]]] = {1: ([], []), 5: ([], [])}

    def add(self, reference: Array, got: Array, label: Array | None) -> None:
        """Take in one batch of ``(samples, classes)`` scores."""
        self.same.append(reference.argmax(axis=1) == got.argmax(axis=1))
        for k, both in self.hits.items():
            if label is not None and reference.shape[1] > k:
                for scores, found in zip((reference, got), both, strict=True):
                    found.append(hits(scores, label, k))

    def accuracy(self, k: int) -> Paired | None:
        """Return the top-k accuracy of both models, or None without labels."""
        before, after = self.hits[k]
        return paired(np.concatenate(before), np.concatenate(after)) if before else None


def compare(
    reference: Session, quantized: Session, data: Iterable[Batch], metric: Metric | None = None
) -> Comparison:
    """Compare two models on data.

    Args:
        reference: The float model.
        quantized: The quantized model, with the same inputs and outputs.
        data: Batches; an array ``label`` of class indices in them gives accuracies.
        metric: Also score both models by this.

    Returns:
        What was measured. Accuracies are those of the first ``(samples, classes)`` output.

    Raises:
        ModelError: The models have other inputs or outputs, or fail to run.
        CalibrationError: The labels do not fit the outputs, or the metric fails or is NaN.
        RecipeError: The metric does not fit the outputs.
    """
    _same_interface(reference, quantized)
    near = {name: Similarity() for name in reference.outputs}
    scores: dict[str, _Scores] = {}
    judge = Judge(metric, reference.metadata) if metric else None
    samples = 0
    for batch in data:
        before, after = (_named(session, batch) for session in (reference, quantized))
        if judge:
            judge.add(before, after, batch.labels, batch.samples)
        for name in reference.outputs:
            a, b = before[name], after[name]
            near[name] += nearness(a, b, batch.samples)
            if _classes(a, batch):
                label = _class_labels(batch.labels, a, first=next(iter(scores), name) == name)
                scores.setdefault(name, _Scores()).add(a, b, label)
        samples += batch.samples
    outputs = tuple(
        OutputComparison(
            name=name,
            similarity=near[name],
            agreement=float(np.concatenate(scores[name].same).mean()) if name in scores else None,
        )
        for name in reference.outputs
    )
    first = next(iter(scores.values()), _Scores())
    return Comparison(
        samples=samples,
        outputs=outputs,
        top1=first.accuracy(1),
        top5=first.accuracy(5),
        metric=judge.result() if judge else None,
    )


def _named(session: Session, batch: Batch) -> dict[str, Any]:
    """Run a batch and return the outputs by name."""
    return dict(zip(session.outputs, session.run(batch.inputs), strict=True))


def _same_interface(reference: Session, quantized: Session) -> None:
    """Refuse two models that cannot take each other's place."""
    ours, theirs = ({info.name for info in s.inputs} for s in (reference, quantized))
    if ours != theirs or reference.outputs != quantized.outputs:
        raise ModelError(
            f"the models do not have the same inputs and outputs: {sorted(ours)} → "
            f"{reference.outputs} and {sorted(theirs)} → {quantized.outputs}"
        )


def nearness(a: Any, b: Any, samples: int) -> Similarity:
    """Compare one output of a batch; what is no numeric tensor counts for nothing."""
    if not isinstance(a, np.ndarray) or a.dtype.kind not in "fiub":
        return Similarity()
    if a.shape != b.shape:
        return Similarity(samples=samples, cosine_min=0.0, unequal=samples)
    if a.ndim == 0 or a.shape[0] != samples:
        a, b = a[None], b[None]  # the first axis does not count samples
    return similarity(a, b)


def _classes(output: Any, batch: Batch) -> bool:
    """Say whether an output looks like ``(samples, classes)`` scores."""
    return (
        isinstance(output, np.ndarray)
        and output.dtype.kind == "f"
        and output.ndim == 2
        and output.shape[0] == batch.samples
        and output.shape[1] > 1
    )


def _class_labels(labels: Mapping[str, Array], scores: Array, *, first: bool) -> Array | None:
    """Return the class indices of a batch, for the first classifying output."""
    label = labels.get("label")
    if label is None or not first or label.dtype.kind not in "iu":
        return None
    if label.size != scores.shape[0]:
        return None
    if label.min() < 0 or label.max() >= scores.shape[1]:
        raise CalibrationError(
            f"label {label.max()} is no class of an output with {scores.shape[1]} classes"
        )
    return label.reshape(-1)


def latency(
    reference: Session, quantized: Session, feed: Feed, threads: int, seconds: float = 2.0
) -> Latency:
    """Measure both models in turns, so that a busy machine slows both alike.

    Args:
        reference: The float model.
        quantized: The quantized model.
        feed: One batch.
        threads: Threads the sessions were made with, for the record.
        seconds: About how long to measure, after a few runs to warm up.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(3):
        reference.run(feed)
        quantized.run(feed)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for session, found in zip((reference, quantized), times, strict=True):
            begin = time.perf_counter()
            session.run(feed)
            found.append(time.perf_counter() - begin)
    float_ms, quantized_ms = (1e3 * statistics.median(found) for found in times)
    size = len(next(iter(feed.values()))) if feed else 1
    return Latency(
        float_ms=float_ms,
        quantized_ms=quantized_ms,
        batch_size=size,
        threads=threads,
        runs=len(times[0]),
    )
