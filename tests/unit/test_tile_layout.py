"""Lines of layers that change places, against models whose channels really did."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.feeds import Batch
from onnxq.graph.coupling import Channels, channels_of
from onnxq.graph.io import Model, from_proto
from onnxq.graph.session import Runtime
from onnxq.movable import ONE_TILE, movable
from onnxq.numerics.matrices import matrices
from onnxq.numerics.tile_order import TiledMatrix, permuted, total
from onnxq.passes.prepare import prepare
from onnxq.passes.reorder_channels import reorder_channels
from onnxq.plan import Plan, resolve
from onnxq.recipe import Recipe, TensorRule
from onnxq.tile_layout import (
    Layout,
    independently,
    jointly,
    layers_of,
    row_power,
    tiled,
    with_orders,
)
from onnxq.types import Array
from tests.graphs import build, eager, feed_for
from tests.layers import LAYERS, model

NETS = {
    "chain": build(
        """net (float[2, 3, 6, 6] x) => (float[2, 4, 2, 2] y) {
        a = Conv(x, w, b) r = Relu(a) y = Conv(r, v) }""",
        {"w": (7, 3, 3, 3), "b": (7,), "v": (4, 7, 3, 3)},
    ),
    "residual": build(
        """net (float[2, 3, 5, 5] x) => (float[2, 4, 5, 5] y) {
        a = Conv(x, w) b = Conv<pads = [1, 1, 1, 1]>(a, v) s = Add(a, b) r = Relu(s)
        y = Conv(r, u) }""",
        {"w": (6, 3, 1, 1), "v": (6, 6, 3, 3), "u": (4, 6, 1, 1)},
    ),
    "grouped": build(
        """net (float[2, 3, 5, 5] x) => (float[2, 4, 3, 3] y) {
        a = Conv(x, w) b = Conv<group = 2>(a, v, c) t = ConvTranspose<group = 2>(b, g)
        y = Conv<strides = [1, 1]>(t, u) }""",
        {"w": (8, 3, 1, 1), "v": (10, 4, 3, 3), "c": (10,), "g": (10, 4, 1, 1),
         "u": (4, 8, 1, 1)},
    ),
    "depthwise": build(
        """net (float[2, 3, 6, 6] x) => (float[2, 4, 4, 4] y) {
        a = Conv(x, w) d = Conv<group = 6>(a, v) e = Conv<group = 6, pads = [1, 1, 1, 1]>(d, f)
        y = Conv(e, u) }""",
        {"w": (6, 3, 1, 1), "v": (6, 1, 3, 3), "f": (12, 1, 3, 3), "u": (4, 12, 1, 1)},
    ),
    "flattened": build(
        """net (float[2, 3, 4, 4] x) => (float[2, 5] y) {
        a = Conv(x, w) r = Relu(a) f = Flatten(r) h = Gemm<transB = 1>(f, v, b) s = Sigmoid(h)
        y = Gemm(s, u) }""",
        {"w": (6, 3, 3, 3), "v": (8, 24), "b": (8,), "u": (8, 5)},
    ),
    "products": build(
        """net (float[2, 4, 9] x) => (float[2, 4, 5] y) {
        a = MatMul(x, w) c = Add(a, b) r = Relu(c) y = MatMul(r, v) }""",
        {"w": (9, 8), "b": (8,), "v": (8, 5)},
    ),
}  # fmt: skip
CROSSBAR = Recipe(crossbar="4x3", activations=TensorRule(dtype="float"))


def prepared(proto: onnx.ModelProto) -> tuple[Model, Plan, list[Batch]]:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    found = from_proto(copy)
    prepare(found)
    feeds = [feed_for(proto, seed) for seed in (1, 2)]
    samples = [Batch(inputs=feed, labels={}, samples=1, splittable=False) for feed in feeds]
    return found, resolve(found, eager("crossbar"), CROSSBAR), samples


def joint(found: Model, plan: Plan, samples: list[Batch]) -> tuple[Layout, Channels]:
    weights, channels = tiled(plan), channels_of(found)
    layers = layers_of(found, weights, row_power(found, weights, samples, Runtime()))
    return jointly(channels, weights, layers), channels


def by_group(layer: TiledMatrix) -> list[Array]:
    """Return the matrices of a layer in an order that does not tell groups apart."""
    return sorted(layer.values, key=lambda each: each.tobytes())


@pytest.mark.parametrize("name", NETS)
@given(seed=st.integers(0, 10**6))
def test_lines_are_where_reordering_the_model_brings_them(name: str, seed: int) -> None:
    found, plan, samples = prepared(NETS[name])
    layout, channels = joint(found, plan, samples)
    assert layout.families
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(family.channels) for family in layout.families]
    expected = permuted(layout.layers, layout.families, orders)
    every = [np.arange(len(family)) for family in channels.movers.families]
    for number, order in zip(layout.of, orders, strict=True):
        every[number] = order
    reorder_channels(found, channels, every)
    after, _ = joint(found, plan, samples)
    for ours, real in zip(expected, after.layers, strict=True):
        np.testing.assert_array_equal(by_group(ours), by_group(real))
    assert total(expected) == pytest.approx(total(after.layers), rel=1e-4)


@given(seed=st.integers(0, 10**6))
def test_independent_lines_are_where_the_views_store_them(seed: int) -> None:
    found, plan, samples = prepared(NETS["grouped"])
    weights = tiled(plan)
    layout = independently(weights, layers_of(found, weights, {}))
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(family.channels) for family in layout.families]
    expected = permuted(layout.layers, layout.families, orders)
    stored = tiled(with_orders(plan, layout, orders))
    assert samples
    for ours, real in zip(expected, layers_of(found, stored, {}), strict=True):
        np.testing.assert_array_equal(ours.values, real.values)


def test_lines_no_tile_would_notice_stay() -> None:
    found, plan, _ = prepared(NETS["products"])
    weights = tiled(plan)
    (first, second) = layers_of(found, weights, {})
    layout = independently(weights, (first, second))
    sides = [(each.places[0].matrix, each.places[0].side) for each in layout.families]
    assert sides == [(0, "rows"), (0, "columns"), (1, "rows"), (1, "columns")]
    narrow = Recipe(crossbar="99x1", activations=TensorRule(dtype="float"))
    plan = resolve(found, eager("crossbar"), narrow)
    weights, channels = tiled(plan), channels_of(found)
    layers = layers_of(found, weights, {})
    assert not independently(weights, layers).families
    layout = jointly(channels, weights, layers)
    assert not layout.families
    assert movable(plan, layout, channels).nothing == ONE_TILE
    assert movable(plan, independently(weights, layers), None).nothing == ONE_TILE


def test_what_moves_and_why_the_rest_stays() -> None:
    found, plan, samples = prepared(NETS["depthwise"])
    layout, channels = joint(found, plan, samples)
    reach = movable(plan, layout, channels)
    first, deep, double, last = reach.layers
    assert reach.families == (6,)
    assert first.inputs.stays == {"model input 'x'": 3}
    assert first.outputs.moves == deep.inputs.moves == deep.outputs.moves == {1: 6}
    assert double.inputs.moves == {1: 6}
    assert double.outputs.moves == last.inputs.moves == {1: 12}
    assert last.outputs.stays == {"model output 'y'": 4}
    assert not reach.nothing


def test_the_most_frequent_reason_where_nothing_moves() -> None:
    text = "net (float[2, 4, 4, 4] x) => (float[2, 8, 4, 4] y) { y = Conv(x, w) }"
    found, plan, samples = prepared(build(text, {"w": (8, 4, 1, 1)}))
    layout, channels = joint(found, plan, samples)
    assert movable(plan, layout, channels).nothing == "model output 'y'"


def power_of(name: str, x: Array, shape: tuple[int, ...]) -> Array:
    """Return the mean square of what each row of each matrix reads, by loops: (G, n)."""
    _, _, weight, _, about = LAYERS[name]
    if "conv" in name:
        channel = [np.mean(x[:, i].astype(np.float64) ** 2) for i in range(x.shape[1])]
        kernel = int(np.prod(weight[2:]))
        rows = [value for value in channel for _ in range(kernel)]
        return np.array(rows).reshape(about.get("groups", 1), -1)
    inside = x.astype(np.float64)
    if "transA" in name or "left" in name:
        inside = np.moveaxis(inside, -2, -1)
    rows = [np.mean(inside[..., i] ** 2) for i in range(inside.shape[-1])]
    return np.broadcast_to(np.array(rows), shape)


@pytest.mark.parametrize("name", LAYERS)
def test_the_power_of_rows_by_hand(name: str) -> None:
    found, plan, samples = prepared(model(name))
    weights = tiled(plan)
    (power,) = row_power(found, weights, samples, Runtime()).values()
    (weight,) = weights.values()
    shape = matrices(np.zeros(LAYERS[name][2]), weight.spec.matrix).shape[:2]
    expected = [power_of(name, batch.inputs["x"], shape) for batch in samples]
    np.testing.assert_allclose(power, np.mean(expected, axis=0), rtol=1e-12)
