"""Whatever the order of the channels, a network computes the same."""

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxq.graph.coupling import channels_of
from onnxq.graph.io import from_proto, sync
from onnxq.passes.reorder_channels import reorder_channels
from tests.channels import assert_function_kept, orders, sizes
from tests.graphs import copy, initializers
from tests.networks import Net, model_of, networks

MANY = max(500, settings().max_examples)


@settings(max_examples=MANY)
@given(networks(), st.integers(0, 10**6))
def test_a_reordered_network_computes_the_same(proto: onnx.ModelProto, seed: int) -> None:
    assert_function_kept(proto, [seed])


@given(networks(), st.integers(0, 10**6))
def test_the_inverse_orders_restore_a_network(proto: onnx.ModelProto, seed: int) -> None:
    before = initializers(proto)
    model = from_proto(copy(proto))
    channels = channels_of(model)
    drawn = orders(channels, seed)
    reorder_channels(model, channels, drawn)
    reorder_channels(model, channels, [np.argsort(order) for order in drawn])
    after = initializers(sync(model))
    assert list(after) == list(before)
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)


@given(st.lists(st.integers(2, 6), min_size=1, max_size=5))
def test_all_inner_channels_of_a_chain_move(widths: list[int]) -> None:
    net = Net(np.random.default_rng(0), [])
    name = "x"
    for wide, narrow in zip([*widths, 4], [3, *widths], strict=True):
        made = net.one("Conv", name, net.floats(wide, narrow, 1, 1), net.floats(wide))
        name = net.one("Relu", made)
    channels = channels_of(from_proto(model_of(net, [name])))
    assert sizes(channels) == sorted(widths, reverse=True)
