"""Interval arithmetic of a layer by hand."""

import numpy as np

from onnxq.numerics.intervals import linear_interval


def test_every_weight_takes_the_end_that_serves_it() -> None:
    weight = np.array([2.0, -3.0]).reshape(1, 1, 2, 1)
    low, high = linear_interval(
        weight, np.array([1.0]), (np.array([-1.0, 0.0]), np.array([4.0, 5.0]))
    )
    np.testing.assert_allclose([low[0], high[0]], [-2 - 15 + 1, 8 + 1], rtol=1e-2)
    assert low[0] < -16  # there is a margin for rounding
    assert high[0] > 9


def test_padding_reads_zeros() -> None:
    low, high = linear_interval(np.ones((1, 1, 1, 1)), None, (np.array([2.0]), np.array([3.0])))
    assert low[0] <= 0
    assert high[0] >= 3


def test_weights_of_0_read_nothing_of_what_is_infinite() -> None:
    weight = np.array([0.0, 1.0]).reshape(1, 1, 2, 1)
    ends = np.array([-np.inf, 0.0]), np.array([np.inf, 1.0])
    low, high = linear_interval(weight, None, ends)
    assert np.isfinite([low[0], high[0]]).all()


def test_groups_read_their_own_channels() -> None:
    ends = np.array([0.0, 0.0]), np.array([1.0, 10.0])
    _, high = linear_interval(np.ones((2, 1, 1, 1)), None, ends)
    np.testing.assert_allclose(high, [1, 10], rtol=1e-2)
