"""Factors of smoothing: the formula, its ends, and channels that are always 0."""

import numpy as np
import pytest

from onnxq.numerics.smoothing import WIDEST, smoothing

SEEN, WEIGHT = np.array([100.0, 1.0, 2.0]), np.array([1.0, 1.0, 0.5])


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_it_is_the_published_factor_up_to_a_constant(alpha: float) -> None:
    plain = SEEN**alpha / WEIGHT ** (1 - alpha)
    np.testing.assert_allclose(smoothing(SEEN, WEIGHT, alpha), plain / np.exp(np.log(plain).mean()))


def test_an_alpha_of_1_makes_all_channels_of_the_activation_alike() -> None:
    found = SEEN / smoothing(SEEN, WEIGHT, 1.0)
    np.testing.assert_allclose(found, found[0])


def test_an_alpha_of_0_makes_all_rows_of_the_weights_alike() -> None:
    found = WEIGHT * smoothing(SEEN, WEIGHT, 0.0)
    np.testing.assert_allclose(found, found[0])


def test_channels_that_are_0_keep_their_factor() -> None:
    found = smoothing(np.array([0.0, 9.0, 1.0, 4.0]), np.array([1.0, 1.0, 1.0, 0.0]), 0.5)
    assert found[0] == found[3] == 1
    assert found[1] / found[2] == pytest.approx(3)
    assert smoothing(np.zeros(2), np.ones(2), 0.5).tolist() == [1, 1]


def test_no_factor_is_out_of_all_proportion() -> None:
    found = smoothing(np.array([1e30, 1e-30]), np.ones(2), 1.0)
    assert found.tolist() == pytest.approx([WIDEST, 1 / WIDEST])
