"""Boxes: their corners, and which of several that overlap to keep.

Shapes:
    ``A`` boxes of one picture, ``(A, 4)``; corners are x0, y0, x1, y1.
"""

import numpy as np

from onnxq.types import Array

FORMATS = ("xyxy", "xywh", "cxcywh")


def corners(boxes: Array, layout: str) -> Array:
    """Return the corners of boxes, float64.

    Args:
        boxes: ``(…, 4)``.
        layout: ``xyxy``; ``xywh``, corner and size; or ``cxcywh``, center and size.
    """
    first, second = boxes[..., :2].astype(np.float64), boxes[..., 2:].astype(np.float64)
    if layout == "cxcywh":
        first = first - second / 2
    if layout != "xyxy":
        second = first + second
    return np.concatenate([first, second], axis=-1)


def areas(boxes: Array) -> Array:
    """Return the areas of boxes given by their corners; 0 for turned ones."""
    found: Array = np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0), axis=-1)
    return found


def overlaps(box: Array, others: Array) -> Array:
    """Return intersection over union of one box ``(4,)`` with others, ``(A,)``."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    both = np.prod(np.maximum(high - low, 0), axis=-1)
    found: Array = both / np.maximum(areas(box) + areas(others) - both, 1e-12)
    return found


def suppress(boxes: Array, scores: Array, most: float) -> Array:
    """Keep the best of boxes that overlap (greedy non-maximum suppression).

    Args:
        boxes: Corners, ``(A, 4)``.
        scores: ``(A,)``.
        most: Intersection over union above which the lesser of two goes.

    Returns:
        Indices of what is kept, best first.
    """
    left = np.argsort(-scores, kind="stable")
    kept = []
    while left.size:
        kept.append(left[0])
        left = left[1:][overlaps(boxes[left[0]], boxes[left[1:]]) <= most]
    return np.array(kept, np.int64)
