"""One scale a channel of an activation: who has it, who does not and why, and what is written."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxq import calibration, planning
from onnxq.emit.qdq import required_opset
from onnxq.errors import CalibrationError, RecipeError, UnsupportedError
from onnxq.graph.io import from_proto
from onnxq.graph.segments import Cut
from onnxq.numerics.affine import fake_quantize
from onnxq.numerics.channels import ChannelObserver
from onnxq.numerics.extremes import extremes
from onnxq.numerics.histogram import MIXED
from onnxq.parameters import activation_params
from onnxq.plan import Plan, resolve
from onnxq.recipe import NodeRule, Recipe, TensorRule
from onnxq.table import CalibrationTable, Group
from onnxq.targets import Target, names, target
from onnxq.types import Array, QuantParams, TensorStats
from tests.graphs import (
    build,
    copy,
    cosine,
    feed_for,
    initializers,
    ops,
    quantized,
    run,
    session,
)
from tests.unit.test_emit_qdq import MODELS

LOOKS = (1, 32)  # first onnxruntime that looks at the number of scales before it fuses
BY_CHANNEL = Recipe(activations=TensorRule(granularity="channel"))
PAD = "<pads = [1, 1, 1, 1]>"
POOL = "<kernel_shape = [2, 2], strides = [2, 2]>"
NET = f"""
net (float[N, 3, 8, 8] x) => (float[N, 5] y)
{{
    c = Conv{PAD}(x, w, b)
    r = Relu(c)
    d = Conv{PAD}(r, k)
    s = Mul(d, each)
    a = Add(s, r)
    p = MaxPool{POOL}(a)
    q = GlobalAveragePool(p)
    f = Flatten(q)
    y = Gemm<transB = 1>(f, v, e)
}}
"""
WEIGHTS = {
    "w": (4, 3, 3, 3),
    "b": (4,),
    "k": (4, 4, 3, 3),
    "each": (4, 1, 1),
    "v": (5, 4),
    "e": (5,),
}
IMAGE = (0, 1, 0, 0)  # the tile of a map


def planned(
    recipe: Recipe = BY_CHANNEL,
    text: str = NET,
    on: Target | None = None,
    whole: dict[str, str] | None = None,
) -> Plan:
    proto = build(text, {name: w for name, w in WEIGHTS.items() if f" {name}" in text})
    return resolve(from_proto(proto), on or target("generic"), recipe, whole=whole)


def channelled(asked: str = "channel") -> Recipe:
    return Recipe(activations=TensorRule(granularity=asked))


def conv(body: str, output: str = "float[N, 4, 6, 6] y", given: str = "float[N, 3, 8, 8] x") -> str:
    return f"net ({given}) => ({output}) {{ {body} }}"


# --- the plan


def test_which_activations_take_one_scale_a_channel_and_why_the_others_do_not() -> None:
    plans = planned().activations
    assert {name: plan.spec.tile for name, plan in plans.items()} == {
        **dict.fromkeys("xrdsap", IMAGE),
        **dict.fromkeys("qf", ()),
    }
    assert plans["x"].reason == "read by Conv(c)"
    assert plans["q"].reason.endswith("; per tensor: Flatten(f) hands its parameters on")
    assert plans["f"].reason.endswith("; per tensor: Flatten(f) hands its parameters on")


def test_a_max_pool_shares_the_scales_of_its_channels() -> None:
    plans = planned().activations
    assert plans["p"].shares == "a"
    assert plans["p"].spec == plans["a"].spec


def test_a_max_pool_across_the_axis_of_the_scales_does_not() -> None:
    plans = planned(channelled("channel:-1")).activations
    assert plans["d"].spec.tile == (0, 0, 0, 1)
    for name in "ap":
        assert plans[name].spec.tile == ()
        assert plans[name].reason.endswith("per tensor: MaxPool(p) hands its parameters on")


def test_per_tensor_is_the_default_and_gives_no_reasons() -> None:
    for recipe in (Recipe(), channelled("tensor")):
        plan = planned(recipe)
        assert not any(activation.spec.tile for activation in plan.activations.values())
        assert not any("per tensor" in a.reason for a in plan.activations.values())


def test_a_bias_stays_float_behind_channels() -> None:
    nodes = planned().nodes
    assert nodes["c"].bias is None
    assert nodes["c"].reason.endswith("float bias: 'x' has one scale a channel")
    assert nodes["y"].bias == 2


def test_constants_keep_one_scale() -> None:
    (weight,) = planned().nodes["s"].weights
    assert weight.spec.tile == ()
    assert weight.whole == "it is a constant"
    assert not planned(Recipe()).nodes["s"].weights[0].whole


@pytest.mark.parametrize(
    ("text", "name", "asked", "why"),
    [
        (conv("y = Conv(x, w)"), "x", "channel:4", "it has no axis 4"),
        (
            conv("y = Conv(x, w)", given="float[N, 1, 8, 8] x").replace("w)", "one)"),
            *("x", "channel", "it has one channel"),
        ),
        (
            "net (float[12] x) => (float[3, 5] y) { r = Reshape(x, to) y = Gemm(r, u) }",
            *("r", "channel", "what was seen is 'x', which has other channels"),
        ),
        ("net (float[4] x) => (float[5] y) { y = MatMul(x, m) }", "x", "channel", "its rank is 1"),
    ],
)
def test_tensors_without_channels_keep_one_scale(
    text: str, name: str, asked: str, why: str
) -> None:
    more = {"w": (4, 3, 3, 3), "one": (4, 1, 3, 3), "u": (4, 5), "m": (4, 5)}
    held: dict[str, tuple[int, ...] | Array] = {n: s for n, s in more.items() if f" {n})" in text}
    if "Reshape" in text:
        held["to"] = np.array([3, 4], np.int64)
    plan = resolve(from_proto(build(text, held)), target("generic"), channelled(asked))
    assert plan.activations[name].spec.tile == ()
    assert plan.activations[name].reason.endswith(f"; per tensor: {why}")


def test_a_unified_grid_and_a_known_range_keep_one_scale() -> None:
    text = conv("c = Conv(x, w) g = Sigmoid(c) y = Concat<axis = 1>(g, c)", "float[N, 8, 6, 6] y")
    plans = planned(text=text, on=replace(target("qnn"), one_scale="")).activations
    assert plans["x"].spec.tile == IMAGE
    assert "per tensor: its range is known beforehand" in plans["g"].reason
    assert "per tensor: Concat(y) has one grid for all it reads and writes" in plans["y"].reason
    assert all(plans[name].spec.tile == () for name in "cgy")


def test_what_was_seen_can_rule_channels_out() -> None:
    plans = planned(whole={"a": "it has no fixed number"}).activations
    assert plans["a"].spec.tile == plans["p"].spec.tile == ()
    assert plans["a"].reason.endswith("per tensor: it has no fixed number")


def test_rules_for_nodes_decide_too() -> None:
    rule = NodeRule(op="Conv", activations=TensorRule(granularity="channel"))
    plans = planned(Recipe(rules=(rule,))).activations
    assert {name for name, plan in plans.items() if plan.spec.tile} == {"x", "r", "d"}


# --- refusals


@pytest.mark.parametrize("on", sorted(set(names()) - {"generic"}))
def test_targets_that_take_one_scale_refuse_with_the_reason(on: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        planned(on=target(on))
    assert str(caught.value) == (
        f"target {on} has no per-channel activations: {target(on).one_scale}"
    )


@pytest.mark.parametrize("name", ["percentile", "mse", "entropy"])
def test_ranges_that_need_histograms_are_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=f"range '{name}' .* use minmax, outlier-var"):
        planned(Recipe(activations=TensorRule(granularity="channel", range=name)))


# --- the table


def table_of(channels: dict[str, TensorStats]) -> tuple[CalibrationTable, Plan]:
    proto = build(conv("y = Conv(x, w)"), {"w": (4, 3, 3, 3)})
    model = from_proto(proto)
    plan = resolve(model, target("generic"), BY_CHANNEL)
    tensors = {name: extremes(np.ones((1, 3, 8, 8), np.float32)) for name in plan.activations}
    group = Group(samples=1, tensors=tensors, channels=channels)
    return CalibrationTable(model_sha256=model.sha256, groups=(group,), batch_size=1), plan


def by_channel(axis: int) -> TensorStats:
    observer = ChannelObserver(axis, 4)
    observer.see(np.ones((1, 3, 8, 8), np.float32))
    return observer.stats()


def test_a_table_without_channels_says_how_to_calibrate() -> None:
    table, plan = table_of({})
    model = from_proto(build(conv("y = Conv(x, w)"), {"w": (4, 3, 3, 3)}))
    with pytest.raises(CalibrationError, match=r"with --activation-granularity channel$"):
        calibration.statistics(table, model, plan)


def test_channels_of_another_axis_are_refused() -> None:
    table, plan = table_of({"x": by_channel(2), "y": by_channel(1)})
    model = from_proto(build(conv("y = Conv(x, w)"), {"w": (4, 3, 3, 3)}))
    with pytest.raises(CalibrationError, match=r"another axis than 1: .* channel:1"):
        calibration.statistics(table, model, plan)


def test_tensors_without_fixed_channels_fall_back_to_one_scale() -> None:
    table, plan = table_of({"x": MIXED, "y": by_channel(1)})
    model = from_proto(build(conv("y = Conv(x, w)"), {"w": (4, 3, 3, 3)}))
    found = planning._fitting(model, plan, table, {})
    assert found.activations["x"].spec.tile == ()
    assert "per tensor: it has no fixed number of channels" in found.activations["x"].reason
    assert found.activations["y"].spec.tile == IMAGE
    assert found.channels == {"y": 1}


def test_a_channel_of_zeros_takes_the_ends_of_all_others() -> None:
    _, plan = table_of({})
    values = np.zeros((1, 3, 8, 8), np.float32)
    values[0, 1, 0, :2] = (-1.5, 3)
    seen = {name: extremes(values, IMAGE) for name in plan.activations}
    scale = activation_params(plan, seen)["x"].scale
    np.testing.assert_allclose(scale.reshape(-1), [4.5 / 255] * 3, rtol=1e-6)


# --- what is written


@pytest.fixture(scope="module", params=["int8", "uint8"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("name", MODELS)
def test_onnxruntime_does_not_misread_channels(name: str, dtype: str) -> None:
    """Neither by integer fusions, nor by quantizing what is float."""
    rule = TensorRule(granularity="channel", dtype=dtype)
    result = quantized(MODELS[name], Recipe(activations=rule), on="generic")
    onnx.checker.check_model(result.model, full_check=True)
    assert any(params.tile for params in result.activations.values())
    plain = run(result.model, result.feed)
    optimized = run(result.model, result.feed, optimize=True)
    for expected, a, b in zip(run(result.original, result.feed), plain, optimized, strict=True):
        assert cosine(expected, a) >= 0.99
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(np.abs(a).max(), 1))


def test_the_numbers_are_those_of_numpy(dtype: str) -> None:
    """Reference: pointwise convolutions by einsum, every tensor fake-quantized by channel."""
    text = conv(
        "c = Conv(x, w, b) r = Relu(c) d = Conv(r, k) a = Add(d, r) y = Conv(a, k)",
        "float[N, 4, 8, 8] y",
    )
    proto = build(text, {"w": (4, 3, 1, 1), "b": (4,), "k": (4, 4, 1, 1)})
    feed = {"x": feed_for(proto)["x"] * np.array([1, 10, 0.1], np.float32)[:, None, None]}
    recipe = Recipe(activations=TensorRule(granularity="channel", dtype=dtype))
    result = quantized(proto, recipe, feed=feed, on="generic")
    assert {name for name, params in result.activations.items() if params.tile} == set("xrday")
    expected = _reference(initializers(proto), feed["x"], result.activations)
    for optimize in (False, True):
        found = run(result.model, feed, optimize=optimize)[0]
        wrong = np.abs(found - expected) > 1e-5 * np.abs(expected).max()
        assert wrong.mean() <= 0.005  # a sum in another order may round to the next code
        assert (np.abs(found - expected) <= 2.001 * result.activations["y"].scale).all()


def _reference(held: dict[str, Array], x: Array, used: Mapping[str, QuantParams]) -> Array:
    def pointwise(values: Array, weight: Array) -> Array:
        grid = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / np.float32(127)
        rounded = np.rint(weight / grid) * grid
        made: Array = np.einsum("ncij,oc->noij", values, rounded[:, :, 0, 0])
        return made

    c = pointwise(fake_quantize(x, used["x"]), held["w"]) + held["b"][:, None, None]
    r = fake_quantize(np.maximum(c, 0), used["r"])
    d = fake_quantize(pointwise(r, held["k"]), used["d"])
    a = fake_quantize(d + r, used["a"])
    return fake_quantize(pointwise(a, held["k"]), used["y"])


def test_the_operator_set_is_needed_for_the_activations() -> None:
    assert required_opset(planned()) == (13, "per-channel weights")
    recipe = replace(BY_CHANNEL, weights=TensorRule(granularity="tensor"))
    assert required_opset(planned(recipe)) == (13, "per-channel activations")


def test_a_pair_stands_between_operators_that_do_nothing() -> None:
    text = conv("c = Conv(x, w) y = Sin(c)")
    model = quantized(build(text, {"w": (4, 3, 3, 3)}), BY_CHANNEL, on="generic").model
    by_output = {node.output[0]: node for node in model.graph.node}
    chain, name = [], "c"
    while name in by_output:
        node = by_output[name]
        chain.append(node.op_type)
        name = node.input[0]
    pair = ["Max", "DequantizeLinear", "QuantizeLinear", "Max"]
    assert chain == [*pair, "Conv", *pair]
    stores = [n for n in model.graph.node if "uantize" in n.op_type and n.name[0] in "cx"]
    assert [[a.i for a in n.attribute] for n in stores] == [[1]] * 4
    assert initializers(model)["c_scale"].shape == (4,)


def test_without_them_onnxruntime_fails_to_load_the_model() -> None:
    """From 1.32 on it looks at the number of scales; the copies are for those before."""
    text = conv("c = Conv(x, w) a = Add(c, c) d = Conv(a, k) y = Sin(d)", "float[N, 4, 4, 4] y")
    proto = build(text, {"w": (4, 3, 3, 3), "k": (4, 4, 3, 3)})
    bare = copy(quantized(proto, BY_CHANNEL, on="generic").model)
    copied = {n.output[0]: n.input[0] for n in bare.graph.node if n.op_type == "Max"}
    for node in list(bare.graph.node):
        node.input[:] = [_original(copied, name) for name in node.input]
        if node.op_type == "Max":
            bare.graph.node.remove(node)
    assert "Max" not in ops(bare)
    if tuple(map(int, ort.__version__.split(".")[:2])) >= LOOKS:
        session(bare)
        return
    with pytest.raises(Exception, match="must be a scalar"):
        session(bare)


def _original(copied: dict[str, str], name: str) -> str:
    while name in copied:
        name = copied[name]
    return name


def test_layers_are_those_of_the_float_model() -> None:
    proto = build(NET, WEIGHTS)
    result = quantized(proto, BY_CHANNEL, on="generic")
    segments = Cut(from_proto(proto), from_proto(result.model)).segments
    found = {segment.output: segment for segment in segments}
    assert {name: segment.op for name, segment in found.items()} == {
        **dict.fromkeys("rs", "Conv"),  # the Mul is folded
        "a": "Add",
        "p": "MaxPool",
        "q": "GlobalAveragePool",
        "f": "Flatten",
        "y": "Gemm",
    }
    assert list(found["r"].input_grids) == ["x"]
    grid, params = found["r"].grid, result.activations["r"]
    assert grid is not None
    values = np.random.default_rng(0).normal(size=(2, 4, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(grid.rounded(values), fake_quantize(values, params))
