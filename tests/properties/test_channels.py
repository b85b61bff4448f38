"""Ends of channels: any split of the batches gives what sorting every channel gives."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxq.numerics.channels import ChannelObserver
from onnxq.numerics.ends import ends
from onnxq.numerics.histogram import HUGE, MIXED
from onnxq.numerics.tiles import channel_tile
from onnxq.types import Array
from tests import strategies


@given(strategies.tensors(strategies.ANYTHING, least=1), st.data(), st.integers(1, 5))
def test_channels_equal_sorting(array: Array, data: st.DataObject, keep: int) -> None:
    values = np.where(np.abs(array) < HUGE, array, 0)[None]
    axis = data.draw(
        st.integers(1 - values.ndim, values.ndim - 1).filter(lambda a: a % values.ndim)
    )
    observer = ChannelObserver(axis, keep)
    times = data.draw(st.integers(1, 3))
    for _ in range(times):
        observer.see(values)
    stats = observer.stats()
    assert stats is not None
    whole = np.concatenate([values] * times)
    expected = ends(whole, channel_tile(whole.ndim, axis), keep)
    assert stats.count.sum() == whole.size
    assert (stats.nan, stats.infinite) == (0, 0)
    for one, other in zip(stats.ends, expected, strict=True):
        assert (one.above, one.below) == (other.above, other.below)
        np.testing.assert_array_equal(one.largest, other.largest)
        np.testing.assert_array_equal(one.smallest, other.smallest)


def test_nothing_seen_is_not_the_same_as_no_channels() -> None:
    observer = ChannelObserver(1, 4)
    assert observer.stats() is None
    observer.see(np.ones((2, 3)))
    assert observer.stats() is not MIXED
    observer.see(np.ones((2, 4)))
    assert observer.stats() is MIXED


def test_odd_values_are_counted_apart() -> None:
    observer = ChannelObserver(0, 2)
    observer.see(np.array([[np.nan, 1], [np.inf, 1e-40], [-1e30, -2]], np.float32))
    stats = observer.stats()
    assert stats is not None
    assert (stats.nan, stats.infinite, stats.count.tolist()) == (1, 2, [[2], [2], [2]])
    assert stats.hi.reshape(-1).tolist() == [1, 0, -2]
