import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxq.numerics.bias import mean_shift


@given(
    seed=st.integers(0, 2**16),
    group=st.sampled_from([1, 2, 4]),
    size=st.sampled_from([1, 3]),
)
def test_the_shift_is_the_difference_of_the_means(seed: int, group: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(6, 8))
    x_hat = x + rng.normal(scale=0.1, size=x.shape)
    weight = rng.normal(size=(4, 8 // group, size))
    w_hat = weight + rng.normal(scale=0.1, size=weight.shape)
    shift = mean_shift(weight, w_hat, x.mean(0), x_hat.mean(0), group)
    for channel in range(4):
        first = channel // (4 // group) * (8 // group)
        part = slice(first, first + 8 // group)
        kernel, kernel_hat = weight[channel].sum(1), w_hat[channel].sum(1)
        expected = (x[:, part] @ kernel).mean() - (x_hat[:, part] @ kernel_hat).mean()
        np.testing.assert_allclose(shift[channel], expected, atol=1e-9)


@given(seed=st.integers(0, 2**16))
def test_nothing_lost_nothing_shifted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight, mean = rng.normal(size=(4, 3, 3, 3)), rng.normal(size=3)
    assert not mean_shift(weight, weight, mean, mean, 1).any()
