"""What each model of the benchmark is for, and how its answers are scored.

Shapes:
    ``N`` samples, one an entry in a list of outputs: every model is run with batches of one.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort

from benchmarks.metrics import (
    Change,
    bootstrap_change,
    edit_counts,
    mean_change,
    mean_iou,
    neighbour_hits,
    neighbours,
    overlap_counts,
    ratio,
)
from onnxq.types import Array
from sample_models.scores import match, suppress

Outputs = Sequence[Sequence[Any]]
Labels = Mapping[str, Array]

LEAST = 0.5  # score of a detected box, and overlap with the labelled one


class Task(Protocol):
    """Turn outputs into answers and answers into metrics."""

    def answers(self, outputs: Outputs) -> Any:
        """Return what is kept of the outputs: one answer a sample."""

    def changes(self, before: Any, after: Any, labels: Labels) -> tuple[Change, ...]:
        """Return the metrics of the float and the quantized model, the foremost first."""

    def agreement(self, before: Any, after: Any) -> float:
        """Return the share of answers, 0 to 1, that stayed the same."""


class Classify:
    """Name the class: top-1 accuracy."""

    def answers(self, outputs: Outputs) -> Array:
        """Return the highest class, ``(N,)``."""
        return np.array([np.asarray(output[0]).reshape(-1).argmax() for output in outputs])

    def changes(self, before: Array, after: Array, labels: Labels) -> tuple[Change, ...]:
        """Return top-1 accuracy."""
        label = labels["label"]
        return (mean_change("top-1", before == label, after == label),)

    def agreement(self, before: Array, after: Array) -> float:
        """Return the share of equal classes."""
        return float((before == after).mean())


class ReadLines:
    """Read a line of text: character error rate and lines read without error."""

    def __init__(self, model: Path) -> None:
        """Take the characters from the model's metadata."""
        session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        listed = session.get_modelmeta().custom_metadata_map["character"].splitlines()
        self._characters = ["", *listed, " "]  # class 0 is the blank

    def answers(self, outputs: Outputs) -> list[str]:
        """Return the lines, repetitions and blanks dropped, spaces at both ends stripped."""
        return [self._line(output[0][0].argmax(axis=-1)) for output in outputs]

    def _line(self, classes: Array) -> str:
        new = np.diff(classes, prepend=-1) != 0
        return "".join(self._characters[index] for index in classes[new]).strip()

    def changes(self, before: list[str], after: list[str], labels: Labels) -> tuple[Change, ...]:
        """Return character error rate and exact match."""
        label = labels["label"].tolist()
        edits, edits_after = (edit_counts(lines, label) for lines in (before, after))
        exact, exact_after = (np.array(lines) == labels["label"] for lines in (before, after))
        return (
            bootstrap_change("CER", edits, edits_after, ratio, better="lower"),
            mean_change("exact", exact, exact_after),
        )

    def agreement(self, before: list[str], after: list[str]) -> float:
        """Return the share of equal lines."""
        return float(np.mean([a == b for a, b in zip(before, after, strict=True)]))


class Embed:
    """Place a text near its like: label found by the five nearest others."""

    def answers(self, outputs: Outputs) -> Array:
        """Return the embeddings, ``(N, D)``."""
        return np.concatenate([output[0] for output in outputs])

    def changes(self, before: Array, after: Array, labels: Labels) -> tuple[Change, ...]:
        """Return the accuracy of the five nearest neighbours."""
        hits, hits_after = (neighbour_hits(rows, labels["label"]) for rows in (before, after))
        return (mean_change("5-NN", hits, hits_after),)

    def agreement(self, before: Array, after: Array) -> float:
        """Return the share of texts whose nearest neighbour stayed the same."""
        return float((neighbours(before, 1) == neighbours(after, 1)).mean())


class Segment:
    """Name the class of each pixel: mean IoU over the pixels of all pictures."""

    def answers(self, outputs: Outputs) -> Array:
        """Return the highest class of each pixel, ``(N, H, W)``."""
        self._classes = outputs[0][0].shape[1]
        return np.concatenate([output[0].argmax(axis=1) for output in outputs])

    def changes(self, before: Array, after: Array, labels: Labels) -> tuple[Change, ...]:
        """Return mean IoU."""
        label, classes = labels["label"], self._classes
        counts, counts_after = (overlap_counts(a, label, classes) for a in (before, after))
        return (bootstrap_change("mIoU", counts, counts_after, mean_iou),)

    def agreement(self, before: Array, after: Array) -> float:
        """Return the share of equal pixels."""
        return float((before == after).mean())


class Detect:
    """Find objects: F1 of boxes with a score and an overlap of at least one half."""

    def answers(self, outputs: Outputs) -> list[dict[int, Array]]:
        """Return the boxes of each class that are left after suppression."""
        return [self._boxes(output[0][0], output[1][0]) for output in outputs]

    def _boxes(self, boxes: Array, scores: Array) -> dict[int, Array]:
        found = {}
        for k in range(scores.shape[1]):
            strong = scores[:, k] >= LEAST
            if strong.any():
                found[k] = boxes[strong][suppress(boxes[strong], scores[strong, k])]
        return found

    def changes(
        self, before: list[dict[int, Array]], after: list[dict[int, Array]], labels: Labels
    ) -> tuple[Change, ...]:
        """Return F1."""
        wanted = [
            {int(k): boxes[classes == k] for k in np.unique(classes[classes >= 0])}
            for boxes, classes in zip(labels["label_boxes"], labels["label_classes"], strict=True)
        ]
        counts, counts_after = (_f1_counts(found, wanted) for found in (before, after))
        return (bootstrap_change("F1", counts, counts_after, ratio),)

    def agreement(self, before: list[dict[int, Array]], after: list[dict[int, Array]]) -> float:
        """Return F1 of the quantized model's boxes against the float model's."""
        return float(ratio(_f1_counts(after, before).sum(axis=0)))


def _f1_counts(found: list[dict[int, Array]], wanted: list[dict[int, Array]]) -> Array:
    """Count twice the hits, and boxes found and wanted, ``(N, 2)``; their ratio is F1."""
    rows = []
    for a, b in zip(found, wanted, strict=True):
        hits = sum(int(match(boxes, b[k], LEAST).sum()) for k, boxes in a.items() if k in b)
        boxes = sum(len(boxes) for boxes in (*a.values(), *b.values()))
        rows.append((2 * hits, boxes))
    return np.array(rows, np.float64)


def task_of(name: str, model: Path) -> Task:
    """Return the task of a model of the benchmark.

    Args:
        name: The model's folder; names not known are classifiers.
        model: Its file.
    """
    if name in ("ppocr_rec", "plates"):
        return ReadLines(model)
    tasks: dict[str, Callable[[], Task]] = {
        "minilm": Embed,
        "fashion_segment": Segment,
        "fashion_detect": Detect,
    }
    return tasks.get(name, Classify)()
