"""One pass over a tensor: histogram on the float's bits, exact ends, odd values.

A batch is read once, in blocks that stay in the first cache, and counted straight into the
histogram of its tensor. The largest and the smallest value of every block are noted on the way, so
that only the few blocks that reach beyond the K largest so far are looked at again.

Apart from `onnxq.numerics.histogram` because only calibration needs the compiler loaded.
"""

from ctypes import byref, c_int64, c_uint32
from dataclasses import replace
from typing import Any

import numpy as np

from onnxq.numerics.ends import Ends
from onnxq.numerics.histogram import EMPTY, FIRST_NORMAL, HUGE, TINY, FloatHistogram
from onnxq.numerics.kernel import BLOCK, COLUMNS, LANES, SIGN, kernel
from onnxq.numerics.tiles import grid, iterate
from onnxq.types import Array, TensorStats, Tile

FINE = FIRST_NORMAL  # bins an exponent
EXPONENT, MAGNITUDE, INFINITE = 23, SIGN - 1, 0x7F800000  # of float32
TINY_BITS, HUGE_BITS = (int(value.view(np.uint32)) for value in (TINY, HUGE))
MOST = (1 << 32) - 1  # values that counts of 32 bits are safe for
TURNS = 0, (1 << 32) - 1  # what makes the key to keep of that of a value, for either end


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
    scratch, seen = Scratch(), []
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

    Memory: 4 KiB for every exponent seen, and 16 bytes for every value kept at an end.
    """

    def __init__(self, keep: int) -> None:
        """Start with nothing seen.

        Args:
            keep: How many values to keep at each end; 0 keeps no ends.
        """
        self._keep = keep
        self._counts = np.zeros((2, 0), np.uint32)  # positive, negative; whole exponents
        self._first = 1  # exponent of the first column
        self._counted, self._earlier = 0, EMPTY  # how many values; what was counted before them
        self._size, self._nan, self._infinite = 0, 0, 0
        self._ends = [_End(max(keep, 1), turn) for turn in TURNS]  # the outermost: the extremes

    def see(self, array: Array, scratch: "Scratch") -> None:
        """Fold in one batch.

        Args:
            array: float values of any shape.
            scratch: Used by nobody else meanwhile.
        """
        scratch.take(_bits(array))
        if self._counted + array.size > MOST:
            self._earlier, self._counted = self._histogram(), 0
            self._counts[:] = 0
        self._counted += array.size
        self._size += array.size
        done = scratch.count(0)
        if done < scratch.blocks:
            self._drop_odd(scratch, done)
            scratch.count(done)
        self._fold(scratch)
        for side, end in enumerate(self._ends):
            end.gather(scratch, side)

    def _drop_odd(self, scratch: "Scratch", block: int) -> None:
        """Note the odd values from a block on, and put zeros in their place."""
        magnitudes = scratch.bits[block * BLOCK :] & MAGNITUDE
        nan, odd = int(np.count_nonzero(magnitudes > INFINITE)), magnitudes >= HUGE_BITS
        self._nan += nan
        self._infinite += int(np.count_nonzero(odd)) - nan
        kept = scratch.bits.copy()
        kept[block * BLOCK :][odd] = 0
        scratch.take(kept)

    def _fold(self, scratch: "Scratch") -> None:
        """Move what was counted into the counts of this tensor."""
        first, lasts = scratch.exponents()
        if max(lasts) < first:
            return
        self._widen(first, max(lasts))
        for side, last in enumerate(lasts):
            own = self._counts[side, (first - self._first) * FINE :]
            scratch.move(side, first, last, own)

    def _widen(self, first: int, last: int) -> None:
        """Make room for the bins of more exponents."""
        width = self._counts.shape[1] // FINE
        if self._first <= first and last < self._first + width:
            return
        if width:
            first, last = min(first, self._first), max(last, self._first + width - 1)
        counts = np.zeros((2, (last - first + 1) * FINE), np.uint32)
        start = (self._first - first) * FINE if width else 0
        counts[:, start : start + width * FINE] = self._counts
        self._first, self._counts = first, counts

    def stats(self) -> TensorStats:
        """Return what was seen so far, per tensor."""
        histogram = self._histogram()
        largest, smallest = (end.outermost(histogram.zeros) for end in self._ends)
        smallest = -smallest + np.float32(0)  # no negative zero
        ends = Ends(
            keep=self._keep,
            above=int(histogram.positive.sum()),
            below=int(histogram.negative.sum()),
            largest=largest[: self._keep],
            smallest=smallest[: self._keep],
        )
        return TensorStats(
            count=np.array(self._size),
            lo=smallest[0] if smallest.size else np.array(np.inf),
            hi=largest[0] if largest.size else np.array(-np.inf),
            nan=self._nan,
            infinite=self._infinite,
            histograms=(histogram,),
            ends=(ends,) if self._keep else (),
        )

    def _histogram(self) -> FloatHistogram:
        """Return the occupied run of bins on each side; the zeros are what was not counted."""
        runs: list[Any] = []
        for side in (1, 0):
            (occupied,) = np.nonzero(self._counts[side])
            start, stop = (occupied[0], occupied[-1] + 1) if occupied.size else (0, 0)
            run = self._counts[side, start:stop].astype(np.int64)
            runs += [int(start) + self._first * FINE if run.size else 0, run]
        counted = self._earlier.merge(FloatHistogram(0, *runs))
        zeros = self._size - self._nan - self._infinite - (counted.total - counted.zeros)
        return replace(counted, zeros=zeros) if zeros or counted.total else EMPTY


class Scratch:
    """Room to look at one batch after the other: made once, since making it takes longer.

    Attributes:
        kernel: What does the work.
        bits: Those of the values of the batch, ``(n,)``.
        rows: Where the kernel finds them: the last row, which may not be full, lies apart.
        blocks: How many blocks they are.
        peaks: Where the kernel leaves the peaks of the blocks.
    """

    def __init__(self) -> None:
        """Make room."""
        self.kernel = kernel()
        self._counts = np.zeros((2, COLUMNS), np.uint32)
        self._columns, self._tail = np.empty(BLOCK, np.uint32), np.zeros(LANES, np.uint32)
        self._peaks, self._found = np.empty((0, 2), np.uint32), (c_uint32 * 3)()
        self._at = self._counts.ctypes.data, self._columns.ctypes.data, self._tail.ctypes.data
        self.peaks = self._peaks.ctypes.data

    def take(self, bits: Array) -> None:
        """Take the values of a batch."""
        whole, rest = divmod(bits.size, LANES)
        self._tail[:rest], self._tail[rest:] = bits[whole * LANES :], 0
        self.bits, self.blocks = bits, -(-bits.size // BLOCK)
        self.rows = (bits.ctypes.data, self._at[2], whole, whole + (rest > 0))
        if self.blocks > len(self._peaks):
            self._peaks = np.empty((self.blocks, 2), np.uint32)
            self.peaks = self._peaks.ctypes.data

    def count(self, block: int) -> int:
        """Count blocks from one on, up to the first with odd values, and return that."""
        if not block:
            self._found[:] = [0, 0, -1]
        counts, columns, _ = self._at
        where = (counts, columns, self.peaks, self._found)
        return int(self.kernel.count(*self.rows, block, *where))

    def exponents(self) -> tuple[int, tuple[int, int]]:
        """Return the smallest exponent of all that was counted, and the largest of each sign."""
        above, below, inner = self._found
        lasts = (max(above, SIGN) - SIGN) >> EXPONENT, (max(below, SIGN) - SIGN) >> EXPONENT
        return max((inner + TINY_BITS) >> EXPONENT, 1), lasts

    def move(self, side: int, first: int, last: int, sums: Array) -> None:
        """Add the counts of some exponents of one sign to sums, and leave zeros behind."""
        if first <= last:
            column = side * COLUMNS + LANES + (first - 1) * FINE
            rows = (last - first + 1) * FINE // LANES
            self.kernel.fold(self._at[0] + 4 * column, sums.ctypes.data, rows)


class _End:
    """The outermost values of one side, as the keys of the values or of their negatives."""

    def __init__(self, wanted: int, turn: int) -> None:
        """Start with nothing seen.

        Args:
            wanted: How many values to keep, at least 1.
            turn: What makes the key to keep of that of a value, one of `TURNS`.
        """
        self._wanted, self._turn = wanted, turn
        self._held = np.empty(2 * wanted + BLOCK + 1, np.uint32)
        self._at = self._held.ctypes.data
        self._fill, self._bound = c_int64(0), 1  # keys below the bound are not wanted any more

    def gather(self, scratch: Scratch, side: int) -> None:
        """Keep what may belong to the outermost; peaks of this side tell where to look."""
        where, block = (byref(self._fill), 2 * self._wanted), 0
        while True:
            key = (scratch.peaks + 4 * side, self._bound, self._turn, self._at)
            block = scratch.kernel.gather(*scratch.rows, block, *key, *where)
            if block == scratch.blocks:
                return
            self._drop()

    def _drop(self) -> None:
        """Let go of all that does not belong to the outermost."""
        kept = np.partition(self._held[: self._fill.value], -self._wanted)[-self._wanted :]
        self._held[: self._wanted], self._fill.value = kept, self._wanted
        self._bound = int(kept[0]) + 1

    def outermost(self, zeros: int) -> Array:
        """Return the outermost values or negatives of values, zeros among them, descending."""
        keys = self._held[: self._fill.value]
        bits = np.where(keys >= SIGN, keys ^ SIGN, ~keys)
        nothing = np.zeros(min(zeros, self._wanted), np.float32)
        together = np.sort(np.concatenate([bits.view(np.float32), nothing]))
        return together[::-1][: self._wanted].copy()


def _bits(array: Array) -> Array:
    """Return the bits of all values as float32."""
    if array.dtype != np.float32:
        with np.errstate(over="ignore"):  # a float64 beyond float32 counts as infinite
            array = array.astype(np.float32)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint32)
