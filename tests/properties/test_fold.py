"""Folding an affine map into a linear layer does not change the function."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxq.numerics.fold import batchnorm_affine, fold_affine, fold_affine_before


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6), st.booleans(), st.booleans())
def test_fold_is_affine_after_a_matmul(
    seed: int, inputs: int, outputs: int, biased: bool, transposed: bool
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4, inputs))
    weight = rng.normal(size=(inputs, outputs))
    bias = rng.normal(size=outputs) if biased else None
    scale, shift = rng.normal(size=outputs), rng.normal(size=outputs)
    expected = scale * (x @ weight + (0 if bias is None else bias)) + shift
    stored, axis = (weight.T, 0) if transposed else (weight, 1)
    folded, start = fold_affine(stored, bias, scale, shift, axis)
    got = x @ (folded.T if transposed else folded) + start
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


@given(
    st.integers(0, 10**6),
    st.tuples(*[st.integers(1, 3)] * 3),
    st.integers(1, 2),
    st.booleans(),
    st.booleans(),
)
def test_fold_is_affine_before_a_convolution(
    seed: int, sizes: tuple[int, int, int], kernel: int, biased: bool, transposed: bool
) -> None:
    rng = np.random.default_rng(seed)
    groups, inputs, outputs = sizes
    x = rng.normal(size=(4, groups, inputs, kernel))
    weight = rng.normal(size=(groups, outputs, inputs, kernel))
    bias = rng.normal(size=groups * outputs) if biased else None
    scale, shift = rng.normal(size=(2, groups * inputs))
    along = (groups, inputs, 1)
    moved = x * scale.reshape(along) + shift.reshape(along)
    expected = np.einsum("ngik,goik->ngo", moved, weight).reshape(4, -1)
    stored = weight.swapaxes(1, 2) if transposed else weight
    stored = stored.reshape(-1, *stored.shape[2:])
    folded, start = fold_affine_before(stored, bias, scale, shift, 0 if transposed else 1, groups)
    again = folded.reshape(groups, -1, *folded.shape[1:])
    again = again.swapaxes(1, 2) if transposed else again
    got = np.einsum("ngik,goik->ngo", x, again).reshape(4, -1) + start
    np.testing.assert_allclose(got, expected + (0 if bias is None else bias), rtol=1e-9, atol=1e-9)


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_batchnorm_is_an_affine_map(seed: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    gamma, beta, mean = rng.normal(size=(3, channels)).astype(np.float32)
    variance = rng.uniform(0, 2, channels).astype(np.float32)
    x = rng.normal(size=(5, channels))
    scale, shift = batchnorm_affine(gamma, beta, mean, variance, 1e-5)
    expected = (x - mean) / np.sqrt(variance.astype(np.float64) + 1e-5) * gamma + beta
    np.testing.assert_allclose(scale * x + shift, expected, rtol=1e-6, atol=1e-6)
