import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.numerics.affine import quantize
from onnxq.numerics.saturation import saturating_pairs
from onnxq.types import IntType, QuantParams


@pytest.mark.parametrize(
    ("codes", "axis", "expected"),
    [
        ([[64, 64, 1, 1]], 0, (0, 2)),
        ([[64, 65, 1, 1]], 0, (1, 2)),
        ([[-128, 1, 127, -127]], 0, (2, 2)),
        ([[127], [127]], 1, (1, 1)),
        ([[127], [127]], 0, (0, 0)),
    ],
)
def test_neighbours_that_are_summed_count(
    codes: list[list[int]], axis: int, expected: tuple[int, int]
) -> None:
    assert saturating_pairs(np.array(codes, np.int8), axis) == expected


@given(seed=st.integers(0, 2**16), scale=st.floats(0.01, 10))
def test_seven_bits_never_saturate(seed: int, scale: float) -> None:
    weight = np.random.default_rng(seed).normal(size=(4, 6, 3, 3)).astype(np.float32)
    seven = IntType(7, signed=True)
    params = QuantParams(dtype=seven, scale=np.float32(scale), zero_point=np.int64(0))
    assert saturating_pairs(quantize(weight, params), 0)[0] == 0
