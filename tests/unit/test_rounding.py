"""Weights rounded for what their layer writes: never worse than the nearest codes, often better."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxq.numerics import rounding
from onnxq.numerics.rounding import Codes, output_error, reconstructed
from onnxq.types import Array


def codes_for(weights: Array, bits: int, *, affine: bool = False) -> Codes:
    ends = (0, 2**bits - 1) if affine else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    largest = np.abs(weights).max(axis=1, keepdims=True) + 1e-12
    scale = np.broadcast_to(2 * largest / (2**bits - 1), weights.shape)
    zero = np.full(weights.shape, float(2 ** (bits - 1) if affine else 0))
    return Codes(scale=scale, zero_point=zero, ends=ends)


def problem(
    seed: int, shape: tuple[int, int, int, int], noise: float
) -> tuple[Array, Array, Array]:
    """Return weights, sums of products of inputs, and of inputs and the outputs to have."""
    groups, rows, columns, places = shape
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(groups, rows, columns))
    mixed = rng.normal(size=(groups, rows, rows)) * rng.random((groups, rows, 1)) ** 3
    real = mixed @ rng.normal(size=(groups, rows, places))
    seen = real + noise * rng.normal(size=real.shape)
    wanted = seen @ (weights.transpose(0, 2, 1) @ real).transpose(0, 2, 1)
    return weights, seen @ seen.transpose(0, 2, 1), wanted


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 6), st.integers(1, 40)),
    noise=st.sampled_from([0.0, 0.1, 1.0]),
    bits=st.integers(2, 8),
    affine=st.booleans(),
)
def test_the_error_is_never_above_that_of_the_nearest_codes(
    seed: int, shape: tuple[int, int, int, int], noise: float, bits: int, affine: bool
) -> None:
    weights, gram, wanted = problem(seed, shape, noise)
    grid = codes_for(weights, bits, affine=affine)
    found = reconstructed(weights, gram, wanted, grid)
    assert np.array_equal(grid.rounded(found), found)
    before = output_error(grid.rounded(weights), gram, wanted)
    after = output_error(found, gram, wanted)
    assert (after <= before + 1e-9 * np.abs(before)).all()


def test_the_error_is_the_squared_error_of_the_outputs() -> None:
    rng = np.random.default_rng(0)
    weights, used = rng.normal(size=(2, 2, 5, 3))
    real, seen = rng.normal(size=(2, 2, 5, 30))
    outputs = weights.transpose(0, 2, 1) @ real
    error = ((outputs - used.transpose(0, 2, 1) @ seen) ** 2).sum(axis=2)
    gram, wanted = seen @ seen.transpose(0, 2, 1), seen @ outputs.transpose(0, 2, 1)
    expected = error - (outputs**2).sum(axis=2)
    assert output_error(used, gram, wanted) == pytest.approx(expected)


def test_correlated_inputs_gain_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "DAMPING", 0.01)  # these inputs are all there are
    weights, gram, wanted = problem(3, (1, 32, 8, 500), 0.0)
    grid = codes_for(weights, 4)
    power = (weights * wanted).sum()
    before = power + output_error(grid.rounded(weights), gram, wanted).sum()
    after = power + output_error(reconstructed(weights, gram, wanted, grid), gram, wanted).sum()
    assert after < before / 2


def test_inputs_with_nothing_to_do_with_each_other_take_the_nearest_codes() -> None:
    weights = np.random.default_rng(1).normal(size=(1, 12, 5))
    gram = np.eye(12)[np.newaxis] * np.arange(1, 13)
    grid = codes_for(weights, 4)
    assert np.array_equal(reconstructed(weights, gram, gram @ weights, grid), grid.rounded(weights))


def test_no_single_code_could_be_better() -> None:
    weights, gram, wanted = problem(5, (1, 6, 2, 200), 0.0)
    grid = codes_for(weights, 3)
    found = reconstructed(weights, gram, wanted, grid)
    least = output_error(found, gram, wanted)
    slack = (
        2 * rounding.DAMPING * (weights * wanted).sum(axis=1)
    )  # what holding on to the weights may cost
    for row in range(6):
        for step in (-1, 1):
            moved = found.copy()
            moved[:, row] = grid.rounded(found[:, row] + step * grid.scale[:, row], row)
            assert (output_error(moved, gram, wanted) >= least - slack).all()


def test_inputs_that_are_always_zero_keep_the_nearest_codes() -> None:
    weights = np.random.default_rng(2).normal(size=(1, 6, 3))
    grid, gram = codes_for(weights, 4), np.zeros((1, 6, 6))
    assert np.array_equal(reconstructed(weights, gram, gram @ weights, grid), grid.rounded(weights))
    gram[0, :3, :3] = np.eye(3) + 0.5
    found = reconstructed(weights, gram, gram @ weights, grid)
    assert np.array_equal(found[:, 3:], grid.rounded(weights)[:, 3:])


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, gram, wanted = problem(7, (2, 24, 4, 100), 0.1)
    grid = codes_for(weights, 4)
    whole = reconstructed(weights, gram, wanted, grid)
    monkeypatch.setattr(rounding, "BLOCK", 5)
    parts = reconstructed(weights, gram, wanted, grid)
    assert output_error(parts, gram, wanted) == pytest.approx(output_error(whole, gram, wanted))
    assert np.mean(parts == whole) > 0.95
