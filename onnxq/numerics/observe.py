"""One compiled pass over a tensor: histogram on the float's bits, extremes, odd values.

Apart from `onnxq.numerics.histogram` because only calibration needs the compiler loaded.
"""

from typing import Any

import numpy as np
from numba import njit

from onnxq.numerics.histogram import (
    BINS,
    EMPTY,
    FIRST_NORMAL,
    HUGE,
    SHIFT,
    FloatHistogram,
)
from onnxq.numerics.tiles import grid, iterate
from onnxq.types import Array, TensorStats, Tile

BLOCK = 1 << 13  # values; 32 KiB, stays in the first cache between the two loops
HUGE_BITS = np.int32(HUGE.view(np.int32))
MAGNITUDE = np.int32(0x7FFFFFFF)


def observe(array: Array, tile: Tile = (), *, histogram: bool = True) -> TensorStats:
    """Look at a tensor once.

    Args:
        array: float values of any shape; float64 and float16 are seen as float32.
        tile: Reach of one entry of the statistics.
        histogram: Also keep the histogram; without, only extremes and counts.

    Returns:
        Statistics with one entry a tile.
    """
    shape = grid(array.shape, tile)
    seen = [_observe_one(part) for part in iterate(array, tile)]
    return TensorStats(
        count=np.array([one[0] for one in seen], np.int64).reshape(shape),
        lo=np.array([one[1] for one in seen], np.float64).reshape(shape),
        hi=np.array([one[2] for one in seen], np.float64).reshape(shape),
        nan=sum(one[3] for one in seen),
        infinite=sum(one[4] for one in seen),
        histograms=tuple(one[5] for one in seen) if histogram else (),
    )


def _observe_one(part: Array) -> tuple[int, float, float, int, int, FloatHistogram]:
    """Return count, lo, hi, nan, infinite and histogram of one tile."""
    with np.errstate(over="ignore"):  # a float64 beyond float32 counts as infinite
        bits = np.ascontiguousarray(part, np.float32).reshape(-1).view(np.int32)
    counts = np.zeros((2, BINS), np.int64)
    least, most, nan, infinite = _scan(bits, counts)
    if bits.size == nan + infinite:
        return bits.size, np.inf, -np.inf, nan, infinite, EMPTY
    return bits.size, _real(least), _real(most), nan, infinite, _compact(counts)


@njit(cache=True, nogil=True)
def _scan(bits: Array, counts: Array) -> tuple[int, int, int, int]:
    """Count a flat float32 tensor, given as its bits, into ``counts[2, BINS]``.

    Order-preserving integer keys, ``v ^ ((v >> 31) & 0x7fffffff)``, find the extremes of a
    block without a branch; only a block with something odd in it takes the careful loop.

    Returns:
        Smallest and largest key of the ordinary values, NaN count, infinite-or-huge count.
    """
    nan, infinite = 0, 0
    least, most = MAGNITUDE, -MAGNITUDE
    for start in range(0, bits.size, BLOCK):
        block = bits[start : start + BLOCK]
        low, high = MAGNITUDE, -MAGNITUDE
        for value in block:
            key = value ^ ((value >> np.int32(31)) & MAGNITUDE)
            low = min(low, key)
            high = max(high, key)
        if low >= -HUGE_BITS and high < HUGE_BITS:
            for value in block:
                counts[np.uint32(value) >> np.uint32(31), (value & MAGNITUDE) >> SHIFT] += 1
        else:
            low, high = MAGNITUDE, -MAGNITUDE
            for value in block:
                magnitude = value & MAGNITUDE
                if magnitude > np.int32(0x7F800000):
                    nan += 1
                elif magnitude >= HUGE_BITS:
                    infinite += 1
                else:
                    counts[np.uint32(value) >> np.uint32(31), magnitude >> SHIFT] += 1
                    key = value ^ ((value >> np.int32(31)) & MAGNITUDE)
                    low = min(low, key)
                    high = max(high, key)
        least, most = min(least, low), max(most, high)
    return least, most, nan, infinite  # type: ignore[return-value]


def _real(key: int) -> float:
    """Return the float of an order-preserving key; −0 comes back as 0."""
    bits = np.int32(key)
    return float((bits ^ ((bits >> np.int32(31)) & MAGNITUDE)).view(np.float32)) + 0.0


def _compact(counts: Array) -> FloatHistogram:
    """Keep the occupied run of bins on each side."""
    zeros = int(counts[:, :FIRST_NORMAL].sum())
    sides: list[Any] = []
    for side in (1, 0):
        (occupied,) = np.nonzero(counts[side, FIRST_NORMAL:])
        start = int(occupied[0]) + FIRST_NORMAL if occupied.size else 0
        stop = int(occupied[-1]) + FIRST_NORMAL + 1 if occupied.size else 0
        sides += [start, counts[side, start:stop].copy()]
    return FloatHistogram(zeros, *sides)
