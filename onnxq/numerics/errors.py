"""Quantization errors of a histogram under many ranges, compiled.

Apart from the range algorithms because only they need the compiler loaded, and only when used.
"""

import numpy as np
from numba import njit

from onnxq.numerics.fixed_point import position_of
from onnxq.types import Array, QuantSpec, Range


def squared_errors(points: tuple[Array, Array], lo: Array, hi: Array, spec: QuantSpec) -> Array:
    """Return the summed squared quantization error of a histogram under many ranges.

    Args:
        points: Bin centres and counts, each ``(bins,)``.
        lo: Lower ends to try, ≤ 0, shape ``(candidates,)``.
        hi: Upper ends to try, ≥ 0, same shape; no range is empty.
        spec: The integer type, symmetric, affine or with a power of two.

    Returns:
        float64, shape ``(candidates,)``.
    """
    values, counts = points
    dtype = spec.dtype
    if spec.power_of_two:
        scale = np.ldexp(1.0, -position_of(Range(lo, hi), spec))
        least, most = np.full(lo.shape, float(dtype.qmin)), np.full(lo.shape, float(dtype.qmax))
    elif spec.symmetric:
        half = (dtype.qmax - dtype.qmin) // 2
        scale = np.maximum(-lo, hi) / half
        least, most = np.full(lo.shape, -half - 1.0), np.full(lo.shape, float(half))
    else:
        scale = (hi - lo) / (dtype.qmax - dtype.qmin)
        zero_point = np.rint(dtype.qmin - lo / scale)
        least, most = dtype.qmin - zero_point, dtype.qmax - zero_point
    total: Array = _sums(values, counts.astype(np.float64), scale, least, most)
    return total


@njit(cache=True, nogil=True)
def _sums(values: Array, counts: Array, scale: Array, least: Array, most: Array) -> Array:
    """Return ``Σ n (x − x̂)²`` for every scale with its smallest and largest code.

    The inner loop runs over the ranges: it is compiled to vector instructions, and every sum is
    added up in the order of the bins whatever their width, so that machines agree.
    """
    sums = np.zeros(scale.size)
    for i in range(values.size):
        value, count = values[i], counts[i]
        for candidate in range(scale.size):
            step = scale[candidate]
            code = min(max(np.rint(value / step), least[candidate]), most[candidate])
            error = code * step - value
            sums[candidate] += count * error * error
    return sums
