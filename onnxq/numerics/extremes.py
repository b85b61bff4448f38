"""Extremes of tiles in plain numpy: all that min–max ranges of weights need."""

import numpy as np

from onnxq.numerics.histogram import TINY
from onnxq.numerics.tiles import grid, iterate
from onnxq.types import Array, TensorStats, Tile


def extremes(array: Array, tile: Tile = ()) -> TensorStats:
    """Return count, smallest and largest value of every tile; subnormals count as zero.

    Args:
        array: Finite float values with at least one element.
        tile: Reach of one entry.

    Returns:
        Statistics without histograms, one entry a tile.
    """
    parts = list(iterate(np.where(np.abs(array) < TINY, 0, array), tile))
    shape = grid(array.shape, tile)
    return TensorStats(
        count=np.array([part.size for part in parts], np.int64).reshape(shape),
        lo=np.array([part.min() for part in parts], np.float64).reshape(shape),
        hi=np.array([part.max() for part in parts], np.float64).reshape(shape),
    )
