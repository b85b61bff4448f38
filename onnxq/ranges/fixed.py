"""A range that is known beforehand."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxq.types import QuantSpec, Range, TensorStats


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """Return the same interval whatever was seen; targets ask for it, people do not.

    The interval is half open, ``[lo, hi)``: ``scale = (hi − lo)/2^bits``, so that the ends of
    a sigmoid or tanh give scales that are powers of two.

    Attributes:
        lo: Lower end, the value of the first code.
        hi: Upper end, one step above the value of the last code.
    """

    name: ClassVar[str] = "fixed"
    needs_histogram: ClassVar[bool] = False
    needs_ends: ClassVar[bool] = False

    lo: float
    hi: float

    def __call__(self, stats: TensorStats, spec: QuantSpec) -> Range:
        """Return the interval, one for each tile.

        Args:
            stats: Only their shape matters.
            spec: Its type says how many codes there are.
        """
        step = (self.hi - self.lo) / 2**spec.dtype.bits
        shape = stats.lo.shape
        return Range(np.full(shape, self.lo), np.full(shape, self.hi - step))
