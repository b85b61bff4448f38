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


def suppress(boxes: Array, scores: Array, most: float) -> Array:
    """Keep the best of boxes that overlap (greedy non-maximum suppression).

    Args:
        boxes: Corners, ``(A, 4)``.
        scores: ``(A,)``.
        most: Intersection over union above which the lesser of two goes.

    Returns:
        Indices of what is kept, best first; among equal scores the lower index comes first.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = np.ascontiguousarray(boxes[order], np.float64)
    kept: Array = order[_alive(ranked, areas(ranked), float(most))]
    return kept


def _alive(boxes: Array, sizes: Array, most: float) -> Array:
    """Say which boxes, best first, no better one that is kept overlaps too much."""
    alive = np.ones(len(boxes), np.bool_)
    for i in range(len(boxes)):
        if alive[i]:
            rest = boxes[i + 1 :]
            inside = np.minimum(boxes[i, 2:], rest[:, 2:]) - np.maximum(boxes[i, :2], rest[:, :2])
            both = np.maximum(inside, 0.0).prod(axis=1)
            alive[i + 1 :] &= both <= most * (sizes[i] + sizes[i + 1 :] - both)
    return alive
