"""Weights in blocks: what is written computes what blocks and plain numpy say, however it runs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.errors import RecipeError, UnsupportedError
from onnxq.graph.io import from_proto
from onnxq.numerics.affine import fake_quantize
from onnxq.parameters import weight_params
from onnxq.plan import resolve
from onnxq.recipe import NodeRule, Recipe, TensorRule, block
from onnxq.targets import names, target
from onnxq.types import Array, QuantParams
from tests import oracles
from tests.graphs import Result, build, eager, initializers, ops, quantized, run, session
from tests.layers import LAYERS, matrices_of, model, unfolded

FLOAT = TensorRule(dtype="float")
ON_CPU = [name for name in LAYERS if "transpose" not in name]  # it has no ConvTranspose


def asked(size: int, dtype: str = "int4", activations: str = "float") -> Recipe:
    return Recipe(
        weights=TensorRule(dtype=dtype, granularity=f"block:{size}"),
        activations=TensorRule(dtype=activations),
    )


def blocked(name: str, weight: Array, size: int, bits: int) -> Array:
    """Return what signed blocks make of the weight of a layer, by loops over them."""
    stack = matrices_of(name, weight, kernel_major=False)
    codes, scales = oracles.tiled_codes(stack, (size, 1), bits)
    real = codes * scales.repeat(size, axis=1)[:, : stack.shape[1]].astype(np.float64)
    return unfolded(name, real, kernel_major=False)


def on_grid(values: Array, params: QuantParams | None) -> Array:
    """Return what is left of an activation."""
    if params is None:
        return values.astype(np.float64)
    codes = np.rint(values / params.scale) + params.zero_point
    codes = np.clip(codes, params.dtype.qmin, params.dtype.qmax)
    return (codes - params.zero_point) * np.float64(params.scale)


def check(name: str, recipe: Recipe, on: str, used: Array | None = None) -> Result:
    """Compare a layer with numpy, with and without optimization; codes on a tie may differ."""
    result = quantized(model(name), recipe, on=on)
    onnx.checker.check_model(result.model, full_check=True)
    if used is None:
        size, bits = block(recipe.weights.granularity), int((recipe.weights.dtype or "")[3:])
        used = blocked(name, initializers(result.original)["w"], size or 0, bits)
    real = LAYERS[name][3](on_grid(result.feed["x"], result.activations.get("x")), used)
    written = result.activations.get("y")
    wanted = on_grid(real, written)
    tie = np.zeros(real.shape, bool)
    if written is not None:
        tie = np.abs(np.abs(real / written.scale) % 1 - 0.5) < 1e-4
        assert tie.mean() < 0.02
    for optimize in (False, True):
        (got,) = run(result.model, result.feed, optimize=optimize)
        assert got.shape == wanted.shape
        atol = 1e-6 * np.abs(wanted).max()
        np.testing.assert_allclose(got[~tie], wanted[~tie], rtol=1e-6, atol=atol)
    return result


@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.parametrize(("size", "bits"), [(4, 4), (32, 4), (16, 8), (1, 8), (5, 3), (1000, 6)])
def test_every_layer_computes_what_its_blocks_say_on_cpu(name: str, size: int, bits: int) -> None:
    result = check(name, asked(size, f"int{bits}"), "cpu")
    assert not result.activations
    assert result.plan.nodes["y"].weight_only


@pytest.mark.parametrize(
    ("name", "activations"),
    [
        (name, activations)
        for name in LAYERS
        for activations in ("float", "uint8", "int8")
        if name != "gemm, transA" or activations == "float"  # no integer kernel transposes
    ],
)
@pytest.mark.parametrize(("size", "bits"), [(4, 4), (32, 4), (16, 8)])
def test_every_layer_computes_what_its_blocks_say_on_generic(
    name: str, activations: str, size: int, bits: int
) -> None:
    result = check(name, asked(size, f"int{bits}", activations), "generic")
    assert ("x" in result.activations) == (activations != "float")


@pytest.mark.parametrize("name", ["conv", "grouped conv", "gemm, transB, wide", "matmul, wide"])
@pytest.mark.parametrize(("bits", "symmetric"), [(4, False), (4, True), (8, False)])
def test_unsigned_blocks_have_zero_points(name: str, bits: int, symmetric: bool) -> None:
    weights = TensorRule(dtype=f"uint{bits}", granularity="block:16", symmetric=symmetric)
    recipe = Recipe(weights=weights, activations=FLOAT)
    graph = from_proto(model(name))
    params = weight_params(resolve(graph, eager(), recipe), graph)["y", 1]
    assert (len(np.unique(params.zero_point)) > 1) != symmetric
    used = fake_quantize(graph.graph.tensors()["w"].values, params).astype(np.float64)
    result = check(name, recipe, "cpu", used)
    assert (
        initializers(result.model)["w_zero_point"].shape
        == initializers(result.model)["w_scale"].shape
    )


@pytest.mark.parametrize("name", ["conv", "depthwise conv", "gemm", "gemm, transB", "matmul"])
def test_a_block_as_large_as_the_layer_is_a_channel(name: str) -> None:
    for dtype in ("int4", "int8"):
        found = []
        for granularity in ("channel", "block:1000"):
            weights = TensorRule(dtype=dtype, granularity=granularity)
            result = quantized(model(name), Recipe(weights=weights, activations=FLOAT))
            scale = initializers(result.model)["w_scale"].reshape(-1)
            found.append((scale, run(result.model, result.feed, optimize=True)[0]))
        np.testing.assert_array_equal(found[0][0], found[1][0])
        np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.parametrize("on", ["cpu", "generic"])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_weights_alone_by_channel_or_tensor_run_alike_at_every_level(
    name: str, on: str, granularity: str
) -> None:
    weights = TensorRule(dtype="int4", granularity=granularity)
    result = quantized(model(name), Recipe(weights=weights, activations=FLOAT), on=on)
    assert result.emitted.saturating == (0, 0)
    got = [run(result.model, result.feed, optimize=level)[0] for level in (False, True)]
    np.testing.assert_allclose(got[0], got[1], rtol=1e-6, atol=1e-6 * np.abs(got[0]).max())


# --- in a network

NET = """net (float[N, 3, 8, 8] x) => (float[N, 5] y) {
    c = Conv(x, w, b) r = Relu(c) d = Conv(r, k, h) s = Relu(d) a = Add(s, s)
    q = GlobalAveragePool(a) f = Flatten(q) y = Gemm<transB = 1, alpha = 0.5>(f, u, e) }"""
WEIGHTS = {"w": (6, 3, 3, 3), "b": (6,), "k": (4, 6, 3, 3), "h": (4,), "u": (5, 4), "e": (5,)}


def same_at_both_levels(result: Result) -> None:
    got = [run(result.model, result.feed, optimize=level)[0] for level in (False, True)]
    np.testing.assert_allclose(got[0], got[1], rtol=1e-5, atol=1e-6 * np.abs(got[0]).max())


@pytest.mark.parametrize("on", ["cpu", "generic"])
def test_weights_alone_leave_everything_else_as_it_is(on: str) -> None:
    result = quantized(build(NET, WEIGHTS), asked(8), on=on)
    same_at_both_levels(result)
    assert not result.activations
    assert "QuantizeLinear" not in ops(result.model)
    assert ops(result.model).count("DequantizeLinear") == 3
    assert {"b", "h", "e"} <= set(initializers(result.model))
    nodes = result.plan.nodes
    assert nodes["y"].quantized  # no integer kernel has to know its alpha
    assert nodes["c"].reason == "Conv has weights to quantize; its activations stay float, as asked"
    assert nodes["a"].reason == "its activations stay float, as asked"


def test_biases_beside_blocks_stay_float() -> None:
    result = quantized(build(NET, WEIGHTS), asked(8, activations="uint8"), on="generic")
    nodes = result.plan.nodes
    assert nodes["c"].bias is None
    assert nodes["c"].reason.endswith("float bias: its weights have one scale a block")
    assert {"x", "r", "s"} <= set(result.activations)
    got = [run(result.model, result.feed, optimize=level)[0] for level in (False, True)]
    step = max(float(params.scale) for params in result.activations.values())
    np.testing.assert_allclose(got[0], got[1], atol=step)


@pytest.mark.parametrize("granularity", ["block:8", "channel"])
def test_a_rule_leaves_the_activations_of_some_nodes_float(granularity: str) -> None:
    weights = TensorRule(dtype="int4", granularity=granularity)
    rule = NodeRule(name=r"Conv\(d\)", activations=FLOAT, weights=weights)
    result = quantized(build(NET, WEIGHTS), Recipe(rules=(rule,)))
    nodes = result.plan.nodes
    assert [n.output for n in nodes.values() if n.weight_only] == ["d"]
    assert nodes["c"].bias == 2
    assert nodes["d"].bias is None
    assert not nodes["a"].quantized  # what it reads is written as floats
    assert set(result.activations) == {"x", "r"}
    same_at_both_levels(result)


def test_worth_is_no_question_of_weights_alone() -> None:
    plan = resolve(from_proto(build(NET, WEIGHTS)), target("cpu"), asked(8))
    assert plan.nodes["c"].quantized  # 6 channels, where integers want 16
    plan = resolve(from_proto(build(NET, WEIGHTS)), target("cpu"), asked(8), {"r": "is huge"})
    assert plan.nodes["c"].quantized


def test_two_activations_have_no_weights() -> None:
    proto = build(
        "net (float[4, 6] x) => (float[4, 4] y) {"
        " a = MatMul(x, w) t = Transpose(a) y = MatMul(a, t) }",
        {"w": (6, 6)},
    )
    plan = quantized(proto, asked(4)).plan
    assert plan.nodes["a"].quantized
    assert plan.nodes["y"].reason == (
        "neither input is constant, and its activations stay float, as asked"
    )


@pytest.mark.parametrize("algorithm", ["minmax", "mse", "percentile", "entropy", "outlier-var"])
def test_ranges_are_chosen_block_by_block(algorithm: str) -> None:
    weights = TensorRule(dtype="int4", range=algorithm, granularity="block:6")
    graph = from_proto(build(NET, WEIGHTS, opset=21, ir=10))
    plan = resolve(graph, target("cpu"), Recipe(weights=weights, activations=FLOAT))
    found = weight_params(plan, graph)["d", 1]
    assert found.scale.shape == (1, 9, 4)
    largest = np.abs(graph.graph.tensors()["k"].values.reshape(4, 9, 6)).max(axis=2).T
    assert (found.scale[0] <= largest / 7 * (1 + 1e-6)).all()


# --- what is refused


@pytest.mark.parametrize("text", ["block", "block:", "block:0", "block:x", "block:-4", "block:1.5"])
def test_what_is_no_block_is_refused(text: str) -> None:
    message = "granularity of weights is tensor, channel or block:N, e.g. block:32, not"
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict({"weights": {"granularity": text}})
    rule = {"op": "Conv", "weights": {"granularity": text}}
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict({"rules": [rule]})
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict({"tensors": {"w": {"granularity": text}}})


def test_blocks_of_activations_are_refused() -> None:
    message = "granularity is tensor, channel or channel:AXIS, not 'block:32'"
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict({"activations": {"granularity": "block:32"}})
    recipe = Recipe(tensors={"x": TensorRule(granularity="block:32")})
    with pytest.raises(RecipeError, match=message):
        resolve(from_proto(build(NET, WEIGHTS)), eager(), recipe)


def test_one_weight_is_asked_for_by_its_name() -> None:
    rule = Recipe.from_dict({"tensors": {"k": {"granularity": "block:9"}}, "weights": {}})
    recipe = rule.over(Recipe(activations=FLOAT))
    result = quantized(build(NET, WEIGHTS), recipe)
    assert initializers(result.model)["k_scale"].shape == (4, 6)
    assert initializers(result.model)["w_scale"].shape == (6,)


@pytest.mark.parametrize("name", sorted(set(names()) - {"cpu", "generic", "crossbar"}))
def test_targets_without_blocks_refuse_them(name: str) -> None:
    recipe = Recipe(weights=TensorRule(granularity="block:32"))
    with pytest.raises(UnsupportedError, match=f"target {name} has no blocks of weights"):
        resolve(from_proto(build(NET, WEIGHTS)), target(name), recipe)
    with pytest.raises(UnsupportedError, match=f"target {name} does not leave activations float"):
        resolve(from_proto(build(NET, WEIGHTS)), target(name), Recipe(activations=FLOAT))


def test_cpu_has_blocks_beside_float_activations_only() -> None:
    recipe = Recipe(weights=TensorRule(granularity="block:32"))
    with pytest.raises(UnsupportedError, match="only where activations stay float"):
        resolve(from_proto(build(NET, WEIGHTS)), eager(), recipe)


@pytest.mark.parametrize(
    ("weights", "on", "message"),
    [
        (TensorRule(symmetric=False), "cpu", "int8 weights in blocks are symmetric: take uint8"),
        (TensorRule(dtype="int16"), "generic", "at most 8 bits, not int16"),
        (TensorRule(dtype="int16"), "cpu", "has no int16 weights; it has int2, int3"),
        (TensorRule(dtype="int9"), "generic", "has no int9 weights"),
    ],
)
def test_types_blocks_cannot_have_are_refused(weights: TensorRule, on: str, message: str) -> None:
    recipe = Recipe(weights=weights.over(TensorRule(granularity="block:8")), activations=FLOAT)
    with pytest.raises(UnsupportedError, match=message):
        resolve(from_proto(build(NET, WEIGHTS)), eager(on), recipe)


def test_types_only_float_activations_allow_are_hinted_at() -> None:
    recipe = Recipe(weights=TensorRule(dtype="uint4"))
    message = (
        "no uint4 weights; it has int8, uint8, int7, .*, and beside float activations that too"
    )
    with pytest.raises(UnsupportedError, match=message):
        resolve(from_proto(build(NET, WEIGHTS)), eager(), recipe)


# --- blocks a runtime takes into its operator


def fused(dtype: str = "int4", symmetric: bool | None = None) -> Recipe:
    rule = TensorRule(dtype=dtype, granularity="block:16", symmetric=symmetric)
    return Recipe(weights=rule, activations=FLOAT, fuse_blocks=True)


@pytest.mark.parametrize(("dtype", "symmetric"), [("int4", True), ("uint4", False)])
@pytest.mark.parametrize("inputs", [64, 40])
def test_blocks_beside_a_matmul_become_matmulnbits(
    dtype: str, inputs: int, tmp_path: Path, *, symmetric: bool
) -> None:
    proto = build(
        f"net (float[3, {inputs}] x) => (float[3, 24] y) {{ y = MatMul(x, w) }}",
        {"w": (inputs, 24)},
    )
    result = quantized(proto, fused(dtype, symmetric))
    plain = quantized(proto, replace(fused(dtype, symmetric), fuse_blocks=None))
    assert ops(result.model) == ["DequantizeLinear", "MatMul"]
    exact = run(result.model, result.feed)[0]
    np.testing.assert_allclose(exact, run(plain.model, plain.feed)[0], rtol=1e-5, atol=1e-5)
    near = run(result.model, result.feed, optimize=True)[0]
    assert np.abs(near - exact).max() < 0.02 * np.abs(exact).max()
    session(result.model, save=tmp_path / "o.onnx")
    assert "MatMulNBits" in ops(onnx.load(tmp_path / "o.onnx"))


@pytest.mark.parametrize("name", [name for name in ON_CPU if "matmul" not in name])
def test_other_layers_keep_their_blocks(name: str) -> None:
    result = quantized(model(name), fused())
    plain = quantized(model(name), replace(fused(), fuse_blocks=None))
    assert ops(result.model) == ops(plain.model)
