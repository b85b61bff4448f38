"""Mean intersection over union of segmented pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onnxq.errors import CalibrationError
from onnxq.metrics.answers import Answers, class_indices, label_of, misfit, output_of
from onnxq.types import Array


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """Mean intersection over union of the classes, pixels of all samples counted together.

    ``IoU_c = |answered c and labelled c| / |answered c or labelled c|``; classes that occur in
    neither are left out of the mean. The label ``label`` holds a class index a pixel,
    ``(samples, height, width)``.

    Attributes:
        ignore: Label of pixels that do not count.
        output: Name of the output; None for the first: scores ``(samples, classes, height,
            width)``, or integer class indices ``(samples, height, width)``.
        axis: Axis of the classes in an output of scores; 3 or -1 for channels last.
        classes: How many classes there are, for an output of class indices.
    """

    name: ClassVar[str] = "segmentation"
    best: ClassVar[float] = 1.0
    ignore: int = 255
    output: str | None = None
    axis: int = 1
    classes: int | None = None

    def __post_init__(self) -> None:
        """Check the axis.

        Raises:
            ValueError: It is none of the classes'.
        """
        if self.axis not in (1, 3, -1):
            raise ValueError(f"axis must be 1, 3 or -1, not {self.axis}")

    def evidence(self, answers: Answers) -> Sequence[Array]:
        """Return for each sample pixels in both and in either, ``(2, classes)``."""
        answer, classes = self._answer(answers)
        label = label_of(self.name, answers, "label", len(answer))
        if label.shape != answer.shape:
            raise CalibrationError(
                f"metric {self.name!r}: labels of shape {label.shape} for an output of "
                f"{answer.shape} pixels: one class index a pixel is wanted"
            )
        counts = label != self.ignore
        class_indices(self.name, "label", label[counts], classes)
        return [
            _overlap(a[c], b[c], classes) for a, b, c in zip(answer, label, counts, strict=True)
        ]

    def score(self, evidence: Sequence[Any]) -> float:
        """Return the mean over the classes; NaN if no pixel counts."""
        both, either = np.sum(evidence, axis=0)
        there = either > 0
        return float((both[there] / either[there]).mean()) if there.any() else np.nan

    def _answer(self, answers: Answers) -> tuple[Array, int]:
        """Return the class of each pixel, and how many classes there are."""
        found = output_of(self.name, answers.outputs, self.output)
        scores = found[1]
        if scores.ndim == 4 and scores.dtype.kind == "f" and scores.shape[self.axis] > 1:
            return scores.argmax(axis=self.axis), scores.shape[self.axis]
        if scores.ndim != 3 or scores.dtype.kind not in "iu":
            raise misfit(self.name, "scores of shape (samples, classes, height, width)", found)
        if self.classes is None:
            raise misfit(self.name, "the option classes for an output of class indices", found)
        return class_indices(self.name, found[0], scores, self.classes), self.classes


def _overlap(answer: Array, label: Array, classes: int) -> Array:
    """Count pixels of one sample in both and in either, ``(2, classes)``."""
    pairs = label.astype(np.int64) * classes + answer
    table = np.bincount(pairs.ravel(), minlength=classes**2).reshape(classes, classes)
    both = np.diag(table)
    return np.array([both, table.sum(axis=0) + table.sum(axis=1) - both])
