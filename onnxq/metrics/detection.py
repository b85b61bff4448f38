"""Mean average precision of detected boxes, by pycocotools."""

import contextlib
import copy
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onnxq.errors import CalibrationError, UnknownNameError, UsageError
from onnxq.metrics.answers import Answers, class_indices, label_of, misfit, output_of, share
from onnxq.numerics.boxes import FORMATS, areas, corners, suppress
from onnxq.types import Array

COCO = tuple(np.linspace(0.5, 0.95, 10).tolist())
EVERYTHING = [[0.0, 1e10]]  # areas that count: pycocotools' "all"


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Boxes of one picture.

    Attributes:
        corners: x0, y0, x1, y1, ``(A, 4)``.
        classes: ``(A,)``.
        scores: ``(A,)``; ones for labels.
    """

    corners: Array
    classes: Array
    scores: Array


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Mean average precision over classes and overlaps, as pycocotools computes it.

    The outputs are boxes ``(samples, A, 4)`` and scores ``(samples, A, classes)``; or, with
    ``classes``, scores and class indices ``(samples, A)`` each. Boxes below ``min_score`` go, then
    the lesser of two of a class that overlap by more than ``nms``, then all but the best
    ``max_detections`` of a class. Labels: ``label_boxes`` ``(samples, M, 4)``, corners in the
    unit of the outputs, and ``label_classes`` ``(samples, M)``, −1 where there is no object.

    Attributes:
        iou: Overlap of a hit: a number, or ``coco`` for the mean over 0.5, 0.55, …, 0.95.
        boxes: Name of the output with the boxes.
        scores: Name of the output with the scores.
        classes: Name of the output with class indices, if the scores have no axis of classes.
        layout: ``xyxy``, ``xywh`` or ``cxcywh``.
        min_score: Least score of a box.
        nms: Greatest overlap of two boxes of a class; 1 keeps all.
        max_detections: Boxes of a class and picture that count.

    Raises:
        ValueError: An option is out of its bounds.
    """

    name: ClassVar[str] = "detection"
    best: ClassVar[float] = 1.0
    iou: float | str = "coco"
    boxes: str = "boxes"
    scores: str = "scores"
    classes: str | None = None
    layout: str = "xyxy"
    min_score: float = 0.01
    nms: float = 0.5
    max_detections: int = 100

    def __post_init__(self) -> None:
        """Check the bounds."""
        if self.iou != "coco":
            if isinstance(self.iou, str):
                raise ValueError(f"iou must be coco or a number, not {self.iou!r}")
            share("iou", self.iou)
        share("nms", self.nms)
        if self.layout not in FORMATS:
            raise UnknownNameError("layout of boxes", str(self.layout), FORMATS)
        if self.max_detections < 1:
            raise ValueError(f"max_detections must be at least 1, not {self.max_detections}")

    def evidence(self, answers: Answers) -> Sequence[Mapping[int, Any]]:
        """Return for each picture, by class, which of its boxes are hits."""
        boxes, scores, classes = self._outputs(answers)
        wanted = _labels(answers, len(boxes), scores.shape[2] if classes is None else None)
        found = [
            self._kept(boxes[n], scores[n], None if classes is None else classes[n])
            for n in range(len(boxes))
        ]
        return _matched(found, wanted, self._thresholds(), self.max_detections)

    def score(self, evidence: Sequence[Any]) -> float:
        """Return mean average precision; NaN without a labelled object."""
        names = sorted({c for picture in evidence for c in picture})
        if not names:
            return np.nan
        evaluation = _evaluation(self._thresholds(), self.max_detections)
        evaluation.params.imgIds, evaluation.params.catIds = list(range(len(evidence))), names
        evaluation._paramsEval = copy.deepcopy(evaluation.params)  # noqa: SLF001
        evaluation.evalImgs = [picture.get(c) for c in names for picture in evidence]
        with _silent():
            evaluation.accumulate()
        precision = evaluation.eval["precision"]
        there = precision[precision > -1]
        return float(there.mean()) if there.size else np.nan

    def _thresholds(self) -> tuple[float, ...]:
        """Return the overlaps of a hit."""
        return COCO if isinstance(self.iou, str) else (float(self.iou),)

    def _outputs(self, answers: Answers) -> tuple[Array, Array, Array | None]:
        """Return corners, scores and class indices, checked."""
        boxes = output_of(self.name, answers.outputs, self.boxes)
        if boxes[1].ndim != 3 or boxes[1].shape[2] != 4:
            raise misfit(self.name, "boxes of shape (samples, boxes, 4)", boxes)
        scores = output_of(self.name, answers.outputs, self.scores)
        fits = scores[1].ndim == (3 if self.classes is None else 2)
        if not fits or scores[1].shape[:2] != boxes[1].shape[:2]:
            shape = "(samples, boxes, classes)" if self.classes is None else "(samples, boxes)"
            raise misfit(self.name, f"scores of shape {shape}", scores)
        classes = None
        if self.classes is not None:
            named = output_of(self.name, answers.outputs, self.classes)
            if named[1].shape != scores[1].shape:
                raise misfit(self.name, f"class indices of shape {scores[1].shape}", named)
            classes = named[1].astype(np.int64)
        return corners(boxes[1], self.layout), scores[1].astype(np.float64), classes

    def _kept(self, boxes: Array, scores: Array, classes: Array | None) -> Boxes:
        """Return the boxes of one picture that are left after suppression."""
        if classes is None:
            count = scores.shape[1]
            classes = np.tile(np.arange(count), len(boxes))
            boxes, scores = boxes.repeat(count, axis=0), scores.reshape(-1)
        strong = np.flatnonzero(scores >= self.min_score)
        kept = [np.zeros(0, np.int64)]
        for c in np.unique(classes[strong]):
            own = strong[classes[strong] == c]
            best = suppress(boxes[own], scores[own], self.nms)
            kept.append(own[best[: self.max_detections]])
        chosen = np.concatenate(kept)
        return Boxes(corners=boxes[chosen], classes=classes[chosen], scores=scores[chosen])


def _labels(answers: Answers, samples: int, classes: int | None) -> list[Boxes]:
    """Return the labelled boxes of each picture."""
    name = Detection.name
    boxes = label_of(name, answers, "label_boxes", samples)
    label = label_of(name, answers, "label_classes", samples)
    if boxes.ndim != 3 or boxes.shape[2] != 4 or label.shape != boxes.shape[:2]:
        raise CalibrationError(
            f"metric {name!r}: 'label_boxes' has shape {boxes.shape} and 'label_classes' "
            f"{label.shape}; (samples, M, 4) and (samples, M) are wanted"
        )
    there = label != -1
    class_indices(name, "label_classes", label[there], classes or np.iinfo(np.int64).max)
    return [
        Boxes(corners=b[t].astype(np.float64), classes=c[t].astype(int), scores=np.ones(t.sum()))
        for b, c, t in zip(boxes, label, there, strict=True)
    ]


def _matched(
    found: list[Boxes], wanted: list[Boxes], thresholds: Sequence[float], most: int
) -> list[dict[int, Any]]:
    """Return what pycocotools' accumulation needs of each picture, by class."""
    evaluation = _evaluation(thresholds, most, _dataset(wanted), _dataset(found))
    with _silent():
        evaluation.evaluate()
    pictures: list[dict[int, Any]] = [{} for _ in found]
    for entry in evaluation.evalImgs:
        if entry is not None:
            pictures[entry["image_id"]][entry["category_id"]] = {
                "dtScores": entry["dtScores"],
                "dtMatches": entry["dtMatches"] > 0,
                "dtIgnore": entry["dtIgnore"].astype(bool),
                "gtIgnore": entry["gtIgnore"],
            }
    return pictures


def _dataset(pictures: list[Boxes]) -> dict[str, Any]:
    """Return boxes as a data set in COCO's own words; identities begin with 1, 0 means none."""
    entries: list[dict[str, Any]] = []
    for number, each in enumerate(pictures):
        sizes, classes, scores = (
            a.tolist() for a in (areas(each.corners), each.classes, each.scores)
        )
        for i, (x0, y0, x1, y1) in enumerate(each.corners.tolist()):
            entries.append(
                {
                    "id": len(entries) + 1,
                    "image_id": number,
                    "category_id": int(classes[i]),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": sizes[i],
                    "iscrowd": 0,
                    "score": scores[i],
                }
            )
    names = {int(c) for each in pictures for c in each.classes}
    return {
        "images": [{"id": number} for number in range(len(pictures))],
        "categories": [{"id": c} for c in names],
        "annotations": entries,
    }


def _evaluation(
    thresholds: Sequence[float],
    most: int,
    wanted: dict[str, Any] | None = None,
    found: dict[str, Any] | None = None,
) -> Any:
    """Return pycocotools' evaluation, set up.

    Raises:
        UsageError: pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO as Data  # noqa: N811, PLC0415  an extra
        from pycocotools.cocoeval import COCOeval  # noqa: PLC0415
    except ImportError:
        raise UsageError(
            "metric 'detection' needs pycocotools: pip install 'onnxq[metrics]'"
        ) from None
    sides = []
    for dataset in (wanted, found):
        side = Data()
        side.dataset = dataset or _dataset([])
        with _silent():
            side.createIndex()
        sides.append(side)
    evaluation = COCOeval(*sides, "bbox")
    parameters = evaluation.params
    classes = {c["id"] for side in sides for c in side.dataset["categories"]}
    parameters.catIds = sorted(classes)
    parameters.iouThrs = np.array(thresholds)
    parameters.maxDets, parameters.areaRng, parameters.areaRngLbl = [most], EVERYTHING, ["all"]
    return evaluation


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Swallow what pycocotools prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
