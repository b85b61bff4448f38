"""Histograms on the bits of float32: fixed bins, integer counts, exact to merge.

A bin is the upper bits of a float's magnitude: 8 exponent bits and the first 9 mantissa bits
(``bits >> 14``), so bins are 2⁻⁹ wide relative to their value, the same for every tensor and
every batch. Nothing has to be known of the data beforehand, nothing is ever rebinned, and
merging is adding integers: any order and any grouping of batches gives the same counts.

Values below the smallest normal float32 count as zero. Values that are infinite or huge
(|x| ≥ 1e30: attention masks, guards) and NaN are counted apart.
"""

from dataclasses import dataclass

import numpy as np

from onnxq.types import Array, TensorStats

SHIFT = 14
BINS = 1 << (31 - SHIFT)
FIRST_NORMAL = 1 << (23 - SHIFT)  # bins below hold subnormals and zero
HUGE = np.float32(1e30)
TINY = np.finfo(np.float32).tiny  # the smallest normal value


@dataclass(frozen=True, eq=False)
class FloatHistogram:
    """Counts of values by sign and magnitude bin, stored over the occupied bins only.

    Attributes:
        zeros: Number of zeros (and subnormals).
        negative_start: Index of the first stored bin of the negative side.
        negative: Counts, int64, by rising magnitude.
        positive_start: Index of the first stored bin of the positive side.
        positive: Counts, int64, by rising magnitude.
    """

    zeros: int
    negative_start: int
    negative: Array
    positive_start: int
    positive: Array

    def __post_init__(self) -> None:
        """Freeze the counts."""
        self.negative.flags.writeable = False
        self.positive.flags.writeable = False

    @property
    def total(self) -> int:
        """Number of values counted."""
        return self.zeros + int(self.negative.sum()) + int(self.positive.sum())

    def merge(self, other: "FloatHistogram") -> "FloatHistogram":
        """Add the counts; commutative and associative, exactly."""
        negative_start, negative = _add(
            self.negative_start, self.negative, other.negative_start, other.negative
        )
        positive_start, positive = _add(
            self.positive_start, self.positive, other.positive_start, other.positive
        )
        return FloatHistogram(
            self.zeros + other.zeros, negative_start, negative, positive_start, positive
        )

    def points(self) -> tuple[Array, Array]:
        """Return the occupied bins as values and counts.

        Returns:
            Bin centres in the tensor's units, float64, ascending, zero among them if it was
            seen; and how many values lie in each, int64. Both of shape ``(occupied,)``.
        """
        low = -centres(self.negative_start, self.negative.size)[::-1]
        high = centres(self.positive_start, self.positive.size)
        values = np.concatenate([low, [0.0], high])
        counts = np.concatenate([self.negative[::-1], [self.zeros], self.positive])
        occupied = counts > 0
        return values[occupied], counts[occupied]


EMPTY = FloatHistogram(0, 0, np.zeros(0, np.int64), 0, np.zeros(0, np.int64))


def centres(start: int, count: int) -> Array:
    """Return the middles of ``count`` bins from index ``start``, float64, positive side."""
    edges = (np.arange(start, start + count + 1, dtype=np.int64) << SHIFT).astype(np.uint32)
    real = edges.view(np.float32).astype(np.float64)
    middle: Array = (real[:-1] + real[1:]) / 2
    return middle


def _add(a_start: int, a: Array, b_start: int, b: Array) -> tuple[int, Array]:
    """Add two runs of counts that begin at different bins."""
    if not a.size or not b.size:
        return (a_start, a) if a.size else (b_start, b)
    start, stop = min(a_start, b_start), max(a_start + a.size, b_start + b.size)
    total = np.zeros(stop - start, np.int64)
    total[a_start - start : a_start - start + a.size] += a
    total[b_start - start : b_start - start + b.size] += b
    return start, total


MIXED = TensorStats(  # of a tensor that has no fixed channels
    count=np.zeros(0), lo=np.zeros(0), hi=np.zeros(0)
)


def merge(a: TensorStats, b: TensorStats) -> TensorStats:
    """Combine what two parts of the data showed; commutative and associative, exactly.

    Ends that only one of the two has are dropped.

    Raises:
        ValueError: The two have different tiles.
    """
    if a.lo.shape != b.lo.shape:
        raise ValueError(f"statistics of {a.lo.shape} and {b.lo.shape} tiles do not merge")
    return TensorStats(
        count=a.count + b.count,
        lo=np.minimum(a.lo, b.lo),
        hi=np.maximum(a.hi, b.hi),
        nan=a.nan + b.nan,
        infinite=a.infinite + b.infinite,
        histograms=tuple(x.merge(y) for x, y in zip(a.histograms, b.histograms, strict=True)),
        ends=tuple(x.merge(y) for x, y in zip(a.ends, b.ends, strict=True))
        if a.ends and b.ends
        else (),
    )
