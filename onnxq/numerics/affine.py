"""Uniform affine quantization: ``q = clamp(round(x/s) + z)``, ``x̂ = (q − z)·s``.

Rounding is half to even and arithmetic is float32, as in ONNX QuantizeLinear, so that what is
computed here is what the written model computes.
"""

import numpy as np

from onnxq.numerics.fixed_point import position_of
from onnxq.numerics.matrices import matrices, restored
from onnxq.numerics.tiles import expand
from onnxq.types import Array, IntType, QuantParams, QuantSpec, Range

TINY = np.float32(2.0**-126)  # smallest normal float32: a smaller scale would be flushed to 0
EXACT_BITS = 16  # sums of codes this wide and zero points are exact in float32


def params_of(chosen: Range, spec: QuantSpec) -> QuantParams:
    """Turn a range into scale and zero point.

    Affine: ``s = (hi − lo)/(qmax − qmin)``, ``z = clamp(round(qmin − lo/s))``. Symmetric:
    ``s = max(|lo|, |hi|)/qmax'`` with ``qmax' = (qmax − qmin − 1)/2``, ``z`` the middle code
    (0 when signed). ``lo = hi = 0`` gives ``s = 1``. The scale is rounded towards zero, so that
    a range that begins or ends at 0 is never left: onnxruntime folds a Relu or Clip into the
    integer kernel only then.

    Power of two: ``s = 2^(−p)`` with the finest position p at which nothing of the range clips,
    ``z = 0``; see `onnxq.numerics.fixed_point`.

    Args:
        chosen: One interval a tile.
        spec: The type and whether it is symmetric.

    Returns:
        Parameters with the spec's tile.

    Source:
        ../docs/algorithms.md, "range to parameters".
    """
    dtype = spec.dtype
    if spec.power_of_two:
        scale = np.ldexp(np.float32(1), -position_of(chosen, spec))
        zero_point = np.zeros(scale.shape, np.int64)
    elif spec.symmetric:
        half = (dtype.qmax - dtype.qmin) // 2
        scale = _scale(np.maximum(-chosen.lo, chosen.hi) / half, half)
        middle = 0 if dtype.signed else half + 1
        zero_point = np.full(scale.shape, middle, np.int64)
    else:
        steps = dtype.qmax - dtype.qmin
        scale = _scale((chosen.hi - chosen.lo) / steps, steps)
        zero_point = np.rint(dtype.qmin - chosen.lo / scale.astype(np.float64))
        zero_point = np.clip(zero_point, dtype.qmin, dtype.qmax).astype(np.int64)
    return QuantParams(
        dtype=dtype, scale=scale, zero_point=zero_point, tile=spec.tile, matrix=spec.matrix
    )


def _scale(exact: Array, steps: int) -> Array:
    """Round to float32 such that ``steps`` of them do not exceed the exact width."""
    with np.errstate(over="ignore"):
        scale = exact.astype(np.float32)
    width = exact * steps
    scale = np.where(scale * np.float32(steps) > width, np.nextafter(scale, np.float32(0)), scale)
    scale = np.minimum(scale, np.finfo(np.float32).max)
    return np.where(exact == 0, np.float32(1), np.maximum(scale, TINY)).astype(np.float32)


def storage(dtype: IntType) -> np.dtype[np.signedinteger] | np.dtype[np.unsignedinteger]:
    """Return the numpy type that holds the codes of an integer type."""
    width = next(bits for bits in (8, 16, 32) if dtype.bits <= bits)
    return np.dtype(f"{'' if dtype.signed else 'u'}int{width}")


def quantize(real: Array, params: QuantParams) -> Array:
    """Return the codes of a tensor.

    Args:
        real: float array, shape ``(d0, …)``.
        params: Parameters whose tile fits that shape, or that of the matrices they cut.

    Returns:
        Codes in the smallest numpy integer type that holds them, shape of ``real``.
    """
    seen = matrices(real, params.matrix)
    scale = expand(params.scale, seen.shape, params.tile)
    zero_point = expand(params.zero_point, seen.shape, params.tile)
    with np.errstate(over="ignore"):
        codes = np.rint(seen.astype(np.float32) / scale).astype(np.float64) + zero_point
    codes = np.clip(codes, params.dtype.qmin, params.dtype.qmax).astype(storage(params.dtype))
    return restored(codes, params.matrix, real.shape)


def dequantize(codes: Array, params: QuantParams) -> Array:
    """Return the float32 values codes stand for, shape of ``codes``."""
    seen = matrices(codes, params.matrix)
    scale = expand(params.scale, seen.shape, params.tile)
    zero_point = expand(params.zero_point, seen.shape, params.tile)
    real = (seen.astype(np.int64) - zero_point).astype(np.float32) * scale
    return restored(real, params.matrix, codes.shape)


def fake_quantize(real: Array, params: QuantParams) -> Array:
    """Quantize, then dequantize: float32 values on the grid of the parameters.

    The same as `dequantize` of `quantize`, without going through integers.
    """
    kind = np.float32 if params.dtype.bits <= EXACT_BITS else np.float64
    seen = np.ascontiguousarray(matrices(real, params.matrix), np.float32)
    scale = expand(params.scale, seen.shape, params.tile)
    zero_point = expand(params.zero_point.astype(kind), seen.shape, params.tile)
    with np.errstate(over="ignore"):
        codes = np.rint(seen / scale).astype(kind, copy=False)
    codes = np.clip(codes + zero_point, params.dtype.qmin, params.dtype.qmax) - zero_point
    return restored(codes.astype(np.float32, copy=False) * scale, params.matrix, real.shape)
