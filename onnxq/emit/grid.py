"""What comes before QuantizeLinear, so that it computes exactly the codes of a grid.

QuantizeLinear rounds half to even and saturates at the type the codes are stored in::

    floor    x' = Floor(x·2^p)·2^(−p)
    half-up  x' = Ceil(Floor(x·2^(p+1))/2)·2^(−p)        = ⌊x·2^p + ½⌋·2^(−p)
    narrow   x'' = Clip(x', qmin·s, qmax·s)              codes of fewer bits than their storage

Multiplying by powers of two is exact, and so is all of this: ⌊v + ½⌋ itself would round its sum.
"""

from collections.abc import Iterator

import numpy as np

from onnxq.numerics.affine import storage
from onnxq.types import IntType, QuantParams

Step = tuple[str, tuple[float, ...]]


def grid_steps(params: QuantParams, rounding: str) -> Iterator[Step]:
    """Yield operators and their constants, in order; mostly there are none.

    Args:
        params: Of the activation.
        rounding: ``half-even``; with a power of two also ``half-up`` or ``floor``.
    """
    if rounding != "half-even":
        yield from _rounding(float(params.scale), rounding)
    if is_narrow(params.dtype):
        scale = params.scale.astype(np.float64)
        ends = np.array([params.dtype.qmin, params.dtype.qmax]) - params.zero_point.astype(float)
        yield "Clip", (float(ends[0] * scale), float(ends[1] * scale))


def is_narrow(dtype: IntType) -> bool:
    """Say whether codes have fewer bits than the numpy type they are stored in."""
    return dtype.bits < 8 * storage(dtype).itemsize


def _rounding(scale: float, rounding: str) -> Iterator[Step]:
    """Yield the operators that round to multiples of a power of two."""
    half_up = rounding == "half-up"
    yield "Mul", ((2 if half_up else 1) / scale,)
    yield "Floor", ()
    if half_up:
        yield "Mul", (0.5,)
        yield "Ceil", ()
    yield "Mul", (scale,)
