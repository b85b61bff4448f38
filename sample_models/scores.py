"""How good answers are: top-1, mean IoU, mean average precision.

Shapes:
    ``N`` samples, ``K`` classes, ``A`` and ``B`` boxes of one picture, ``M`` labelled garments.
    A box is x0, y0, x1, y1 in pixels.
"""

import numpy as np


def top1(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of samples whose greatest logit is the label's.

    Args:
        logits: ``(N, K)``.
        labels: ``(N,)``.

    Returns:
        A number between 0 and 1.
    """
    return float((logits.argmax(1) == labels).mean())


def mean_iou(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return intersection over union, averaged over the classes.

    Args:
        logits: ``(N, K, H, W)``.
        labels: ``(N, H, W)``, background included as class 0.

    Returns:
        A number between 0 and 1; pixels of all samples are counted together.
    """
    count = logits.shape[1]
    pairs = labels.astype(np.int64) * count + logits.argmax(1)
    table = np.bincount(pairs.ravel(), minlength=count**2).reshape(count, count)
    both = np.diag(table)
    return float((both / np.maximum(table.sum(0) + table.sum(1) - both, 1)).mean())


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return intersection over union of every pair, ``(A, 4)`` and ``(B, 4)`` to ``(A, B)``."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = [np.prod(np.maximum(x[:, 2:] - x[:, :2], 0), axis=-1) for x in (a, b)]
    return both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-9)


def suppress(boxes: np.ndarray, scores: np.ndarray, overlap: float = 0.5) -> np.ndarray:
    """Keep the best of the boxes that overlap each other (non-maximum suppression).

    Args:
        boxes: ``(A, 4)``.
        scores: ``(A,)``.
        overlap: IoU above which the lesser of two boxes goes.

    Returns:
        The indices kept, best first.
    """
    left = np.argsort(-scores, kind="stable")
    iou = box_iou(boxes, boxes)
    kept = []
    while left.size:
        kept.append(left[0])
        left = left[1:][iou[left[0], left[1:]] <= overlap]
    return np.array(kept, np.int64)


def match(found: np.ndarray, wanted: np.ndarray, overlap: float) -> np.ndarray:
    """Say which boxes hit a garment no better box has hit.

    Args:
        found: ``(A, 4)``, best first.
        wanted: ``(B, 4)``.
        overlap: IoU that counts as a hit.

    Returns:
        bool ``(A,)``.
    """
    hits = np.zeros(len(found), bool)
    if not len(wanted):
        return hits
    iou = box_iou(found, wanted)
    for n in range(len(found)):
        best = int(iou[n].argmax())
        if iou[n, best] >= overlap:
            hits[n] = True
            iou[:, best] = -1
    return hits


def average_precision(scores: np.ndarray, hits: np.ndarray, wanted: int) -> float:
    """Return the area under precision over recall, precision made monotone from the right.

    Args:
        scores: ``(A,)`` of all pictures' boxes.
        hits: bool ``(A,)``.
        wanted: How many garments there are.

    Returns:
        A number between 0 and 1.
    """
    hits = hits[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[hits].sum() / max(wanted, 1))


def mean_average_precision(
    boxes: np.ndarray,
    scores: np.ndarray,
    label_boxes: np.ndarray,
    label_classes: np.ndarray,
    overlap: float = 0.5,
    least: float = 0.01,
) -> float:
    """Return average precision, averaged over the classes, after suppression in each class.

    Args:
        boxes: ``(N, A, 4)``.
        scores: ``(N, A, K)``.
        label_boxes: ``(N, M, 4)``.
        label_classes: ``(N, M)``, -1 where there is no garment.
        overlap: IoU that counts as a hit.
        least: Score below which a box is left out.

    Returns:
        A number between 0 and 1.
    """
    precisions = []
    for k in range(scores.shape[2]):
        all_scores, all_hits = [np.zeros(0)], [np.zeros(0, bool)]
        for n in range(len(boxes)):
            strong = scores[n, :, k] >= least
            found, score = boxes[n, strong], scores[n, strong, k]
            kept = suppress(found, score)
            all_scores.append(score[kept])
            wanted = label_boxes[n, label_classes[n] == k]
            all_hits.append(match(found[kept], wanted, overlap))
        total = int((label_classes == k).sum())
        precisions.append(
            average_precision(np.concatenate(all_scores), np.concatenate(all_hits), total)
        )
    return float(np.mean(precisions))
