"""Mean errors of channels, and how much of them few samples make certain."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxq.numerics.bias import channel_means, likely_shift, shifted

SEEDS = st.integers(0, 2**16)


@given(seed=SEEDS, rank=st.integers(2, 5), last=st.booleans())
def test_a_shift_moves_the_means_by_itself(seed: int, rank: int, *, last: bool) -> None:
    rng = np.random.default_rng(seed)
    axis = -1 if last else 1
    values = rng.normal(size=rng.integers(1, 5, rank))
    shift = rng.normal(size=values.shape[axis])
    moved = channel_means(shifted(values, shift, axis), axis)
    np.testing.assert_allclose(moved, channel_means(values, axis) + shift, atol=1e-12)


@given(seed=SEEDS, count=st.integers(1, 9), channels=st.integers(1, 9))
def test_the_shift_is_between_nothing_and_the_mean(seed: int, count: int, channels: int) -> None:
    errors = np.random.default_rng(seed).normal(0.3, 1, (count, channels))
    shift, mean = likely_shift(errors), errors.mean(axis=0)
    assert (np.abs(shift) <= np.abs(mean) * (1 + 1e-12)).all()
    assert (shift * mean >= 0).all()


@given(seed=SEEDS, count=st.integers(1, 9))
def test_what_all_samples_lack_alike_is_the_shift(seed: int, count: int) -> None:
    lacking = np.random.default_rng(seed).normal(size=7)
    np.testing.assert_allclose(likely_shift(np.tile(lacking, (count, 1))), lacking, rtol=1e-9)


def test_chance_is_shrunk_away_and_more_samples_are_believed_more() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=400)
    misses = []
    for count in (4, 8, 64):
        errors = truth + 3 * rng.normal(size=(count, 400))
        shift, mean = likely_shift(errors), errors.mean(axis=0)
        misses.append(((shift - truth) ** 2).mean())
        assert misses[-1] < ((mean - truth) ** 2).mean()
    assert misses[0] > misses[1] > misses[2]
    assert misses[0] < 1.2 * (truth**2).mean()  # hardly worse than no correction


def test_what_is_not_finite_counts_as_nothing() -> None:
    errors = np.array([[1.0, np.nan], [1.0, np.inf]])
    assert np.isfinite(likely_shift(errors)).all()
