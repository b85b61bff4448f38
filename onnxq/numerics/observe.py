"""One fused compiled pass over a tensor: histogram on the float's bits, exact ends, odd values.

A batch is read once, in blocks that stay in the first cache. Each block is counted into two
histograms in turn, so that equal neighbours do not wait for each other, and its largest and
smallest value are kept for every lane of 64 (elementwise, hence vector instructions). The
histogram of all that was seen says below which value nothing can belong to the K largest, so only
the few lanes beyond it are looked at again.

Apart from `onnxq.numerics.histogram` because only calibration needs the compiler loaded.
"""

from typing import Any

import numpy as np
from numba import njit

from onnxq.numerics.ends import Ends
from onnxq.numerics.histogram import EMPTY, HUGE, SHIFT, TINY, FloatHistogram
from onnxq.numerics.tiles import grid, iterate
from onnxq.types import Array, TensorStats, Tile

LANES = 64
BLOCK = 64 * LANES  # values; 16 KiB
FINE = 1 << (23 - SHIFT)  # bins an exponent
EXPONENTS = 256
SCRATCH = (2, 2, EXPONENTS * FINE)
MAGNITUDE = np.uint32(0x7FFFFFFF)
INFINITE = np.uint32(0x7F800000)
HUGE_BITS = HUGE.view(np.uint32)
ONE, BIN = np.uint32(1), np.uint32(SHIFT)


def observe(array: Array, tile: Tile = (), *, histogram: bool = True, keep: int = 0) -> TensorStats:
    """Look at a tensor once.

    Args:
        array: float values of any shape; float64 and float16 are seen as float32.
        tile: Reach of one entry of the statistics.
        histogram: Also keep the histogram; without, only extremes and counts.
        keep: How many values to keep at each end; 0 keeps no ends.

    Returns:
        Statistics with one entry a tile.
    """
    shape = grid(array.shape, tile)
    scratch = np.zeros(SCRATCH, np.int32)
    seen = []
    for part in iterate(array, tile):
        observer = Observer(keep)
        observer.see(part, scratch)
        seen.append(observer.stats())
    return TensorStats(
        count=np.reshape([one.count for one in seen], shape),
        lo=np.reshape([one.lo for one in seen], shape),
        hi=np.reshape([one.hi for one in seen], shape),
        nan=sum(one.nan for one in seen),
        infinite=sum(one.infinite for one in seen),
        histograms=tuple(one.histograms[0] for one in seen) if histogram else (),
        ends=tuple(end for one in seen for end in one.ends),
    )


class Observer:
    """Folds the batches of one tensor into statistics.

    Memory: 4 KiB for every exponent seen, and 8 bytes for every value kept at an end.
    """

    def __init__(self, keep: int) -> None:
        """Start with nothing seen.

        Args:
            keep: How many values to keep at each end; 0 keeps no ends.
        """
        self._keep = keep
        self._counts = np.zeros((2, 0), np.int64)  # positive, negative; whole exponents
        self._first = 1  # exponent of the first column
        self._size, self._zeros = 0, 0
        self._odd = np.zeros(2, np.int64)  # NaN, infinite or huge
        self._wanted = max(keep, 1)  # the outermost are the extremes
        self._held = [np.zeros(0, np.float32)] * 2  # largest values, largest negatives of values
        self._limits = np.full(2, -np.inf, np.float32)  # what is below is not wanted any more

    def see(self, array: Array, scratch: Array) -> None:
        """Fold in one batch.

        Args:
            array: float values of any shape.
            scratch: int32 zeros of shape `SCRATCH`, and so they will be afterwards.
        """
        with np.errstate(over="ignore"):  # a float64 beyond float32 counts as infinite
            values = np.ascontiguousarray(array, np.float32).reshape(-1)
        whole = values.size // BLOCK
        parts = [values[: whole * BLOCK]]
        if values.size % BLOCK:
            parts.append(np.zeros(BLOCK, np.float32))
            parts[1][: values.size % BLOCK] = values[whole * BLOCK :]
        peaks = np.full((whole + len(parts) - 1, 2, LANES), -np.inf, np.float32)
        lanes = np.full(LANES, MAGNITUDE, np.uint32)
        _count(parts[0], parts[0].view(np.uint32), scratch, peaks[:whole], lanes)
        if len(parts) > 1:
            _count(parts[1], parts[1].view(np.uint32), scratch, peaks[whole:], lanes)
        tops = peaks.max(axis=0, initial=0).max(axis=1) + np.float32(0)  # no negative zero
        if tops.max() >= HUGE or scratch[:, :, -FINE:].any():
            tops[:] = 0
            for part in parts:
                _drop_odd(part.view(np.uint32), scratch, tops.view(np.uint32), self._odd)
        low, last = max((int(lanes.min()) + 1) >> 23, 1), tops.view(np.uint32) >> 23
        self._widen(low, int(last.max()))
        self._zeros += _fold(scratch, self._counts, self._first, low, last)
        self._zeros -= len(peaks) * BLOCK - values.size
        self._size += values.size
        for side in (0, 1):
            self._held[side] = self._collect(values, peaks, side)

    def _widen(self, first: int, last: int) -> None:
        """Make room for the bins of more exponents."""
        width = self._counts.shape[1] // FINE
        if last < first or (self._first <= first and last < self._first + width):
            return
        if width:
            first, last = min(first, self._first), max(last, self._first + width - 1)
        counts = np.zeros((2, (last - first + 1) * FINE), np.int64)
        start = (self._first - first) * FINE
        counts[:, start : start + width * FINE] = self._counts
        self._first, self._counts = int(first), counts

    def _collect(self, values: Array, peaks: Array, side: int) -> Array:
        """Return the largest values, or negatives of values, of all batches so far."""
        bits = _bound(self._counts, self._first, side, self._zeros, self._wanted)
        bound = max(np.uint32(bits).view(np.float32), self._limits[side])
        held, block = self._held[side], 0
        room = np.empty(2 * BLOCK, np.float32)
        while block < len(peaks):
            block, fill = _gather(values, peaks, block, side, bound, room)
            held = np.concatenate([held, room[:fill]])
            if held.size >= 2 * self._wanted:
                held = np.partition(held, -self._wanted)[-self._wanted :]
                bound = self._limits[side] = np.nextafter(held[0], np.float32(np.inf))
        return held

    def stats(self) -> TensorStats:
        """Return what was seen so far, per tensor."""
        largest, smallest = self._outermost(0), -self._outermost(1) + np.float32(0)
        ends = Ends(
            keep=self._keep,
            above=int(self._counts[0].sum()),
            below=int(self._counts[1].sum()),
            largest=largest[: self._keep],
            smallest=smallest[: self._keep],
        )
        return TensorStats(
            count=np.array(self._size),
            lo=smallest[0] if smallest.size else np.array(np.inf),
            hi=largest[0] if largest.size else np.array(-np.inf),
            nan=int(self._odd[0]),
            infinite=int(self._odd[1]),
            histograms=(self._histogram(),),
            ends=(ends,) if self._keep else (),
        )

    def _outermost(self, side: int) -> Array:
        """Return what one end holds, with the zeros that belong there, descending."""
        zeros = np.zeros(min(self._zeros, self._wanted), np.float32)
        together = np.sort(np.concatenate([self._held[side], zeros]))
        return together[::-1][: self._wanted].copy()

    def _histogram(self) -> FloatHistogram:
        """Return the occupied run of bins on each side."""
        if not self._counts.any() and not self._zeros:
            return EMPTY
        runs: list[Any] = []
        for side in (1, 0):
            (occupied,) = np.nonzero(self._counts[side])
            start, stop = (occupied[0], occupied[-1] + 1) if occupied.size else (0, 0)
            run = self._counts[side, start:stop].copy()
            runs += [int(start) + self._first * FINE if run.size else 0, run]
        return FloatHistogram(self._zeros, *runs)


@njit(cache=True, nogil=True)
def _count(values: Array, bits: Array, scratch: Array, peaks: Array, least: Array) -> None:
    """Count whole blocks into ``scratch[2, 2, bins]``.

    Args:
        values: float32, ``(n,)``.
        bits: The same as uint32.
        scratch: Counts by turn, sign and bin.
        peaks: Minus infinities; for the largest of the values, and of their negatives, in each
            lane of each block, ``(blocks, 2, LANES)``. NaN takes no part.
        least: For the smallest magnitude but zero in each lane, less one.
    """
    counts = scratch.reshape(2, 2 * EXPONENTS * FINE)
    for block in range(peaks.shape[0]):
        start, stop = block * BLOCK, (block + 1) * BLOCK
        _peaks(values[start:stop], bits[start:stop], peaks[block, 0], peaks[block, 1], least)
        _bins(bits[start:stop], counts[0], counts[1])


@njit(cache=True, nogil=True)
def _peaks(values: Array, bits: Array, high: Array, low: Array, least: Array) -> None:
    """Find the peaks of one block, lane by lane: elementwise, so that it is vectorised."""
    for row in range(0, BLOCK, LANES):
        for lane in range(LANES):
            value = values[row + lane]
            high[lane] = max(high[lane], value)
            low[lane] = max(low[lane], -value)
            size = np.uint32((bits[row + lane] & MAGNITUDE) - ONE)  # zero wraps around
            least[lane] = min(least[lane], size)


@njit(cache=True, nogil=True)
def _bins(bits: Array, even: Array, odd: Array) -> None:
    """Count one block in two turns."""
    for i in range(0, BLOCK, 2):
        even[bits[i] >> BIN] += 1
        odd[bits[i + 1] >> BIN] += 1


@njit(cache=True, nogil=True)
def _drop_odd(bits: Array, scratch: Array, tops: Array, odd: Array) -> None:
    """Take NaN, infinite and huge values out of the counts.

    Args:
        bits: What was counted.
        scratch: Counts by turn, sign and bin.
        tops: For the bits of the largest ordinary magnitude, by sign.
        odd: NaN, infinite or huge; added to.
    """
    for i in range(bits.size):
        side, magnitude = bits[i] >> np.uint32(31), bits[i] & MAGNITUDE
        if magnitude < HUGE_BITS:
            tops[side] = max(tops[side], magnitude)
        else:
            scratch[i & 1, side, magnitude >> BIN] -= 1
            odd[1 if magnitude <= INFINITE else 0] += 1


@njit(cache=True, nogil=True)
def _fold(scratch: Array, counts: Array, first: int, low: int, last: Array) -> int:
    """Move what was counted into a tensor's own counts, and leave zeros behind.

    Args:
        scratch: Counts by turn, sign and bin.
        counts: Counts by sign and bin, from exponent ``first`` on.
        first: Exponent of the first column of ``counts``.
        low: Smallest exponent that was counted.
        last: Largest exponent of the positive and of the negative values.

    Returns:
        The number of zeros.
    """
    zeros = 0
    for side in range(2):
        even, odd, own = scratch[0, side], scratch[1, side], counts[side]
        for i in range(FINE):
            zeros += even[i] + odd[i]
        for i in range(low * FINE, (np.int64(last[side]) + 1) * FINE):
            own[i - first * FINE] += even[i] + odd[i]
        stop = (np.int64(last[side]) + 1) * FINE
        for part in (even, odd):
            part[:FINE] = 0
            part[low * FINE : max(stop, low * FINE)] = 0
    return zeros


@njit(cache=True, nogil=True)
def _bound(counts: Array, first: int, side: int, zeros: int, wanted: int) -> int:
    """Return the bits of a value that at least ``wanted`` of the values seen reach or exceed.

    On side 1 all are taken negative. Bins are walked from the outermost inwards, then those of
    the other sign outwards. Among the zeros it is the smallest normal value; where there are
    not so many values at all it is minus infinity.
    """
    width = counts.shape[1]
    total = 0
    for i in range(width - 1, -1, -1):
        total += counts[side, i]
        if total >= wanted:
            return (first * FINE + i) << SHIFT
    total += zeros
    if total >= wanted:
        return FINE << SHIFT
    for i in range(width):
        total += counts[1 - side, i]
        if total >= wanted:
            return 0x80000000 | (first * FINE + i + 1) << SHIFT
    return 0xFF800000


@njit(cache=True, nogil=True)
def _gather(
    values: Array, peaks: Array, block: int, side: int, bound: Any, room: Array
) -> tuple[int, int]:
    """Copy the values, or their negatives, that reach a bound, until the room may be full.

    Args:
        values: The tensor, ``(n,)``.
        peaks: The largest of each lane of each block, by side.
        block: Where to begin.
        side: 0 for the values, 1 for their negatives.
        bound: What is below is not wanted; zeros, infinite and huge values never are.
        room: For at least `BLOCK` values.

    Returns:
        The block to go on with, and how many values were copied.
    """
    sign, fill = np.float32(1 - 2 * side), 0
    while block < peaks.shape[0] and fill + BLOCK <= room.size:
        stop = min((block + 1) * BLOCK, values.size)
        for lane in range(LANES):
            if peaks[block, side, lane] >= bound:
                for i in range(block * BLOCK + lane, stop, LANES):
                    value = sign * values[i]
                    if value >= bound and TINY <= abs(value) < HUGE:
                        room[fill] = value
                        fill += 1
        block += 1
    return block, fill
