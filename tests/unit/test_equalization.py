"""Factors between layers: closed forms, limits, and channels without weights."""

import numpy as np
import pytest

from onnxq.numerics.equalization import Limits, Weight, clip_room, equalizing, room
from onnxq.types import Array


def free(channels: int) -> Limits:
    return Limits(least=np.full(channels, 1e-6), most=np.full(channels, 1e6))


def layer(sizes: Array, reads: int | None = None, writes: int | None = None) -> Weight:
    return Weight(sizes=np.atleast_3d(sizes).astype(float), reads=reads, writes=writes)


FIRST = np.array([8.0, 2.0, 0.5]).reshape(1, 3, 1)
SECOND = np.array([1.0, 4.0, 2.0]).reshape(1, 1, 3)


def test_two_layers_get_the_root_of_the_ratio_of_their_shares() -> None:
    (found,) = equalizing([layer(FIRST, writes=0), layer(SECOND, reads=0)], [free(3)])
    np.testing.assert_allclose(found, np.sqrt((FIRST.ravel() / 8) / (SECOND.ravel() / 4)))


def test_afterwards_both_layers_serve_every_channel_alike() -> None:
    (found,) = equalizing([layer(FIRST, writes=0), layer(SECOND, reads=0)], [free(3)])
    one, other = FIRST.ravel() / found, SECOND.ravel() * found
    np.testing.assert_allclose(one / one.max(), other / other.max(), rtol=1e-2)


def test_a_depthwise_layer_between_is_scaled_from_both_sides() -> None:
    middle = np.array([1.0, 100.0, 0.01]).reshape(3, 1, 1)
    weights = [
        layer(FIRST, writes=0),
        layer(middle, reads=0, writes=1),
        layer(SECOND, reads=1),
    ]
    a, b = equalizing(weights, [free(3), free(3)])
    after = [FIRST.ravel() / a, middle.ravel() * a / b, SECOND.ravel() * b]
    shares = np.array([each / each.max() for each in after])
    np.testing.assert_allclose(shares, np.broadcast_to(shares[0], shares.shape), rtol=1e-2)
    assert shares.min() > 100 * (middle / middle.max()).min()


def test_limits_hold() -> None:
    limits = Limits(least=np.array([1.0, 0.5, 0.7]), most=np.array([1.0, 9.0, 9.0]))
    (found,) = equalizing([layer(FIRST, writes=0), layer(SECOND, reads=0)], [limits])
    assert found[0] == 1
    assert (found >= limits.least).all()
    assert found[2] == pytest.approx(0.7)  # it would be less without


@pytest.mark.parametrize("dead", [FIRST, SECOND])
def test_channels_without_weights_stay(dead: Array) -> None:
    pair = [FIRST.copy(), SECOND.copy()]
    pair[0 if dead is FIRST else 1].reshape(-1)[1] = 0
    weights = [layer(pair[0], writes=0), layer(pair[1], reads=0)]
    (found,) = equalizing(weights, [free(3)])
    assert found[1] == 1
    assert found[0] != 1


def test_of_several_layers_the_largest_share_counts() -> None:
    other = np.array([8.0, 8.0, 8.0]).reshape(1, 3, 1)
    weights = [layer(FIRST, writes=0), layer(other, writes=0), layer(SECOND, reads=0)]
    (found,) = equalizing(weights, [free(3)])
    assert found[2] > np.sqrt((0.5 / 8) / (2 / 4))


def test_room_lets_no_channel_outgrow_the_largest() -> None:
    assert room(np.array([4.0, 1.0, 0.0])).tolist() == [1, 0.25, 0]
    assert room(np.zeros(2)).tolist() == [0, 0]


def test_a_clip_lets_channels_grow_up_to_its_end_and_holds_those_that_reach_it() -> None:
    bounds = np.array([-9.0, -9.0, -9.0, -9.0]), np.array([3.0, 6.0, 6.5, np.inf])
    least, most = clip_room(bounds, (0.0, 6.0))
    assert least.tolist() == [0.5, 1, 1, 1]
    assert most.tolist() == [np.inf, np.inf, 1, 1]


def test_a_clip_with_two_ends_looks_at_both() -> None:
    least, most = clip_room((np.array([-1.0, -3.0]), np.array([1.0, 1.0])), (-2.0, 4.0))
    assert least.tolist() == [0.5, 1]
    assert most.tolist() == [np.inf, 1]


def test_a_relu_holds_nothing() -> None:
    least, most = clip_room((np.full(1, -np.inf), np.full(1, np.inf)), (0.0, np.inf))
    assert (least.item(), most.item()) == (0, np.inf)
