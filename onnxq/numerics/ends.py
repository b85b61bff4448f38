"""The exact ends of a tensor: its K largest and K smallest ordinary values.

Selections of the K largest are a commutative monoid: the K largest of two parts together are
among the K largest of each. Values below the smallest normal float32 count as zero, as they do
in the histogram.
"""

from dataclasses import dataclass

import numpy as np

from onnxq.numerics.histogram import TINY
from onnxq.numerics.tiles import iterate
from onnxq.types import Array, Tile


@dataclass(frozen=True, eq=False)
class Ends:
    """The ends of the ordinary values of one tile.

    Attributes:
        keep: How many values are kept at each end, at most.
        above: Number of positive values.
        below: Number of negative values.
        largest: The largest values, float32, descending; all of them where there are fewer
            than ``keep``.
        smallest: The smallest values, float32, ascending; the two overlap where there are
            fewer than twice ``keep``.
    """

    keep: int
    above: int
    below: int
    largest: Array
    smallest: Array

    def __post_init__(self) -> None:
        """Freeze the arrays."""
        self.largest.flags.writeable = False
        self.smallest.flags.writeable = False

    def merge(self, other: "Ends") -> "Ends":
        """Combine the ends of two parts; the smaller of what they keep holds."""
        keep = min(self.keep, other.keep)
        largest = np.concatenate([self.largest, other.largest])
        smallest = np.concatenate([self.smallest, other.smallest])
        return Ends(
            keep=keep,
            above=self.above + other.above,
            below=self.below + other.below,
            largest=np.sort(largest)[::-1][:keep].copy(),
            smallest=np.sort(smallest)[:keep].copy(),
        )


def ends(values: Array, tile: Tile = (), keep: int | None = None) -> tuple[Ends, ...]:
    """Select the ends of finite values by sorting them: for weights, and as the reference.

    Args:
        values: float values of any shape, none infinite or huge.
        tile: Reach of one entry.
        keep: How many at each end; None for all.

    Returns:
        One entry a tile, in C order of the grid.
    """
    return tuple(_ends(part, keep) for part in iterate(values, tile))


def _ends(part: Array, keep: int | None) -> Ends:
    """Sort one tile."""
    flat = part.astype(np.float32).reshape(-1)
    ascending = np.sort(np.where(np.abs(flat) < TINY, np.float32(0), flat))
    count = flat.size if keep is None else keep
    return Ends(
        keep=count,
        above=int((ascending > 0).sum()),
        below=int((ascending < 0).sum()),
        largest=ascending[::-1][:count].copy(),
        smallest=ascending[:count].copy(),
    )
