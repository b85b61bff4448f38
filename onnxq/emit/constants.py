"""The constants of Q and DQ: what is stored for parameters and for quantized weights.

Always in the same order, so that whoever knows their names can replace them by those of other
parameters without emitting the model again.
"""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from onnxq.emit.blocks import block_codes, block_values
from onnxq.emit.grid import grid_steps
from onnxq.numerics.affine import quantize, storage
from onnxq.numerics.tiles import is_blocked
from onnxq.types import Array, IntType, QuantParams

Place = str | tuple[str, int]  # an activation; or a constant: first output of its node, and index


@dataclass(frozen=True)
class Stored:
    """Where constants are.

    Attributes:
        names: Of the initializers, in the order of the functions below.
        rounding: How what comes before the pair of an activation rounds.
    """

    names: tuple[str, ...]
    rounding: str = "half-even"


def pair_values(params: QuantParams, rounding: str, *, packed: bool) -> list[Array]:
    """Return the constants of the pair of an activation, in the order they are used.

    Args:
        params: Of the activation.
        rounding: How what comes before the pair rounds, see `onnxq.emit.grid`.
        packed: Store 4 bits in half a byte.

    Returns:
        The factors of what comes before QuantizeLinear, then scale and zero point.
    """
    steps = [factor for _, factors in grid_steps(params, rounding) for factor in factors]
    return [*(np.array(step, np.float32) for step in steps), *parameters(params, packed=packed)]


def constant_values(values: Array, params: QuantParams, *, packed: bool) -> list[Array]:
    """Return the codes of a constant, then scale and zero point; signed tiles have only a scale.

    Tiles are stored as `onnxq.emit.blocks` says.
    """
    kind = element_type(params.dtype, packed=packed)
    codes, view = quantize(values, params), params.matrix
    if view is None:
        return [codes.astype(kind), *parameters(params, packed=packed)]
    stored = [block_codes(codes, view).astype(kind), block_values(params.scale, params, view)]
    if params.dtype.signed:
        return stored
    return [*stored, block_values(params.zero_point, params, view).astype(kind)]


def parameters(params: QuantParams, *, packed: bool) -> list[Array]:
    """Return scale and zero point; a 32 bit type has no zero point."""
    scale = _flat(params.scale, params)
    if params.dtype.bits == 32:
        return [scale]
    return [
        scale,
        _flat(params.zero_point, params).astype(element_type(params.dtype, packed=packed)),
    ]


def element_type(dtype: IntType, *, packed: bool) -> np.dtype[Any]:
    """Return the numpy type whose constants ONNX stores as this integer type, or a larger one."""
    if dtype.bits <= 4 and packed:
        four: np.dtype[Any] = np.dtype(ml_dtypes.int4 if dtype.signed else ml_dtypes.uint4)
        return four
    return storage(dtype)


def _flat(values: Array, params: QuantParams) -> Array:
    """Bring one value a tile into the form of ONNX: a scalar or a vector, or blocks as they are."""
    return values if values.ndim == 0 or is_blocked(params.tile) else values.reshape(-1)
