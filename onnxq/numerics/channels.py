"""Exact ends of every channel of an activation, folded batch by batch, compiled."""

import math

import numpy as np
from numba import njit

from onnxq.numerics.ends import Ends
from onnxq.numerics.histogram import HUGE, MIXED, TINY
from onnxq.types import Array, TensorStats


class ChannelObserver:
    """Folds the batches of one tensor into statistics a channel: counts, extremes and ends.

    Memory: 8 bytes for every value kept at an end, times the channels.
    """

    def __init__(self, axis: int, keep: int) -> None:
        """Start with nothing seen.

        Args:
            axis: The axis of channels; negative ones count from the end.
            keep: How many values to keep at each end of each channel, at least 1.
        """
        self._axis, self._keep = axis, keep
        self._rank, self._channels, self._mixed = 0, 0, False

    def see(self, array: Array) -> None:
        """Fold in one batch; one of another rank or number of channels spoils all."""
        if not -array.ndim <= self._axis < array.ndim:
            self._mixed = True
            return
        axis = range(array.ndim)[self._axis]
        if not self._rank:
            self._start(array.ndim, array.shape[axis])
        if (array.ndim, array.shape[axis]) != (self._rank, self._channels):
            self._mixed = True
            return
        with np.errstate(over="ignore"):  # a float64 beyond float32 counts as infinite
            values = np.ascontiguousarray(array, np.float32)
        outer, inner = math.prod(array.shape[:axis]), math.prod(array.shape[axis + 1 :])
        rows = values.reshape(outer, self._channels, inner)
        _scan(rows, self._held, self._fill, self._tally)

    def _start(self, rank: int, channels: int) -> None:
        """Make room once the number of channels is known."""
        self._rank, self._channels = rank, channels
        self._held = np.empty((2, channels, self._keep), np.float32)  # heaps: values, negatives
        self._fill = np.zeros((2, channels), np.int64)
        self._tally = np.zeros((5, channels), np.int64)  # above, below, zeros, NaN, infinite

    def stats(self) -> TensorStats | None:
        """Return what was seen so far, one entry a channel.

        None before the first batch; `MIXED` where the channels are not fixed.
        """
        if self._mixed:
            return MIXED
        if not self._rank:
            return None
        shape = [1] * self._rank
        shape[self._axis] = self._channels
        ends = [self._ends(channel) for channel in range(self._channels)]
        return TensorStats(
            count=self._tally.sum(axis=0).reshape(shape),
            lo=np.reshape([e.smallest[0] if e.smallest.size else np.inf for e in ends], shape),
            hi=np.reshape([e.largest[0] if e.largest.size else -np.inf for e in ends], shape),
            nan=int(self._tally[3].sum()),
            infinite=int(self._tally[4].sum()),
            ends=tuple(ends),
        )

    def _ends(self, channel: int) -> Ends:
        """Return the ends of one channel."""
        above, below, zeros = (int(count) for count in self._tally[:3, channel])
        nothing = np.zeros(min(zeros, self._keep), np.float32)
        held = [self._held[side, channel, : self._fill[side, channel]] for side in (0, 1)]
        largest = np.sort(np.concatenate([held[0], nothing]))[::-1][: self._keep].copy()
        smallest = np.sort(np.concatenate([-held[1], nothing]))[: self._keep]
        return Ends(self._keep, above, below, largest, smallest)


@njit(cache=True, nogil=True)
def _scan(rows: Array, held: Array, fill: Array, tally: Array) -> None:
    """Fold ``(outer, channels, inner)`` values into heaps with their smallest value on top.

    Args:
        rows: float32.
        held: The largest values, and negatives of values, ``(2, channels, keep)``.
        fill: How many are held, ``(2, channels)``.
        tally: Positive, negative, zero, NaN, infinite or huge, ``(5, channels)``.
    """
    for o in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            for i in range(rows.shape[2]):
                value = rows[o, c, i]
                if abs(value) < TINY:
                    tally[2, c] += 1
                elif abs(value) < HUGE:
                    tally[0 if value > 0 else 1, c] += 1
                    if fill[0, c] < held.shape[2] or value > held[0, c, 0]:
                        fill[0, c] = _push(held[0, c], fill[0, c], value)
                    if fill[1, c] < held.shape[2] or -value > held[1, c, 0]:
                        fill[1, c] = _push(held[1, c], fill[1, c], -value)
                else:
                    tally[4 if abs(value) >= HUGE else 3, c] += 1


@njit(cache=True, nogil=True)
def _push(heap: Array, fill: int, value: float) -> int:
    """Put a value on a heap, in place of the smallest where it is full; return its new size."""
    if fill < heap.size:
        at = fill
        while at and heap[(at - 1) >> 1] > value:
            heap[at] = heap[(at - 1) >> 1]
            at = (at - 1) >> 1
        heap[at] = value
        return fill + 1
    at, child = 0, 1
    while child < fill:
        if child + 1 < fill and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[at] = heap[child]
        at, child = child, 2 * child + 1
    heap[at] = value
    return fill
