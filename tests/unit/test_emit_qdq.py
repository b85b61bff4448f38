import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.emit.qdq import required_opset
from onnxq.graph.io import from_proto
from onnxq.plan import resolve
from onnxq.recipe import NodeRule, Recipe, TensorRule
from tests.graphs import (
    Result,
    Weights,
    batchnorm,
    build,
    cosine,
    eager,
    feed_for,
    initializers,
    normal,
    ops,
    quantized,
    run,
    session,
)

PER_TENSOR = Recipe(weights=TensorRule(granularity="tensor"))
RNG = np.random.default_rng(7)


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def with_zero_channel() -> np.ndarray:
    weight = normal(RNG, (4, 3, 3, 3))
    weight[2] = 0
    return weight


IMAGE_WEIGHTS = {
    "w": (4, 3, 3, 3),
    "b": (4,),
    "k": (4, 4, 3, 3),
    "one": (1, 3, 3, 3),
    "ob": (1,),
    "from": (4, 1, 3, 3),
    "depth": (4, 1, 3, 3),
    "seven": (4, 7, 3, 3),
    "each": (4, 1, 1),
    "u": (5, 4),
    "e": (5,),
    "zero": scalar(0),
    "low": scalar(0.1),
    "high": scalar(0.7),
    "zeros": np.zeros((4, 3, 3, 3), np.float32),
    "zeros2": with_zero_channel(),
    "nil": np.zeros(4, np.float32),
    "huge": np.array([1e5, -1e5, 1, 0], np.float32),
    "twice": np.array([1, 1, 2, 2], np.float32),
    **{name: value for name, value in batchnorm(4).items() if name != "b"},
}
ROW_WEIGHTS = {
    "w": (8, 6),
    "t": (6, 8),
    "b": (6,),
    "v": (6, 5),
    "square": (8, 8),
    "batched": (2, 8, 5),
    "w1": (4, 3, 3),
    "k1": (4, 4, 3),
}


def image(
    body: str,
    output: str = "float[N, 4, 8, 8]",
    *,
    inputs: str = "float[N, 3, 8, 8] x",
    more: Weights | None = None,
    opset: int = 13,
    ir: int = 8,
) -> onnx.ModelProto:
    """Build a graph on images; of the weights it holds those it names."""
    text = f"net ({inputs}) => ({output} y) {{ {body} }}"
    return with_weights(text, {**IMAGE_WEIGHTS, **(more or {})}, list(more or {}), opset, ir)


def rows(
    body: str,
    output: str = "float[16, 5]",
    given: str = "float[16, 8]",
    more: Weights | None = None,
) -> onnx.ModelProto:
    """Build a graph on rows of features."""
    text = f"net ({given} x) => ({output} y) {{ {body} }}"
    return with_weights(text, {**ROW_WEIGHTS, **(more or {})}, list(more or {}))


def with_weights(
    text: str, weights: Weights, unused: list[str], opset: int = 13, ir: int = 8
) -> onnx.ModelProto:
    """Build a graph in which Conv3 stands for a padded 3×3 convolution."""
    text = text.replace("Conv3(", "Conv<pads = [1, 1, 1, 1]>(")
    named = [name for name in weights if name in unused or re.search(rf"\b{name}\b", text)]
    return build(text, {name: weights[name] for name in named}, opset=opset, ir=ir)


RESIDUAL = """
    c = Conv3(x, w, b) r = Relu(c)
    d = Conv3(r, k, b)
    a = Add(d, r)
    p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a)
    q = GlobalAveragePool(p)
    f = Flatten(q)
    y = Gemm<transB = 1>(f, u, e)
"""
SUBGRAPH = """
    c = Conv3(x, w, b)
    d = Conv3(c, k)
    y = If(test) <
        then_branch = yes () => (float[N, 4, 8, 8] p) { s = Add(c, d) p = Relu(s) },
        else_branch = no () => (float[N, 4, 8, 8] q) { q = Conv3(c, k) }
    >
"""
MODELS = {
    "conv, a graph output": image("y = Conv3(x, w, b)"),
    "conv without bias": image("y = Conv3(x, w)"),
    "conv of one channel": image("c = Conv3(x, one, ob) y = Conv3(c, from)"),
    "grouped conv": image("c = Conv3(x, w, b) y = Conv<group = 4>(c, depth)", "float[N, 4, 6, 6]"),
    "1-D conv": rows("c = Conv(x, w1) y = Conv(c, k1)", "float[16, 4, 4]", "float[16, 3, 8]"),
    "conv relu": image("c = Conv3(x, w, b) y = Relu(c)"),
    "conv clip": image("c = Conv3(x, w, b) y = Clip(c, zero, high)"),
    "clip above zero": image("c = Conv3(x, w, b) r = Clip(c, low, high) y = Conv3(r, k)"),
    "all-zero channel": image("y = Conv3(x, zeros2, b)"),
    "all weights zero": image("y = Conv3(x, zeros, b)"),
    "bias of zeros": image("y = Conv3(x, w, nil)"),
    "huge bias": image("y = Conv3(x, w, huge)"),
    "two convs, one weight": image("c = Conv3(x, w, b) d = Conv3(c, k) y = Conv3(d, k, b)"),
    "same tensor twice": image("c = Conv3(x, w, b) a = Add(c, c) y = Conv3(a, k)"),
    "constant factor": image("c = Conv3(x, w, b) a = Mul(c, each) y = Conv3(a, k)"),
    "concat": image("c = Conv3(x, w, b) a = Concat<axis = 1>(c, x) y = Conv3(a, seven)"),
    "batchnorm": image("c = Conv3(x, w) n = BatchNormalization(c, g, b, m, v) y = Relu(n)"),
    "gemm": rows("h = Gemm(x, w, b) y = Gemm(h, v)"),
    "gemm, transposed": rows("h = Gemm<transB = 1>(x, t, b) y = Gemm(h, v)"),
    "gemm relu": rows("h = Gemm<transB = 1>(x, t, b) r = Relu(h) y = Gemm(r, v)"),
    "matmul": rows("h = MatMul(x, w) y = MatMul(h, v)"),
    "matmul, constant left": rows("y = MatMul(t, x)", "float[6, 5]", "float[8, 5]"),
    "matmul, batched": rows("y = MatMul(x, batched)", "float[2, 4, 5]", "float[2, 4, 8]"),
    "matmul, batched input": rows(
        "h = MatMul(x, w) y = MatMul(h, v)", "float[2, 4, 5]", "float[2, 4, 8]"
    ),
    "matmul of activations": rows(
        "h = MatMul(x, w) i = Transpose(h) y = MatMul(h, i)", "float[16, 16]"
    ),
    "gemm and matmul, one weight": rows(
        "h = Gemm<transB = 1>(x, square) y = MatMul(h, square)", "float[16, 8]"
    ),
    "residual": image(RESIDUAL, "float[N, 5]"),
    "subgraph": image(SUBGRAPH, inputs="float[N, 3, 8, 8] x, bool test"),
    "graph input read by float too": image(
        "s = Sin(x) c = Conv3(x, w) d = Conv3(s, w) y = Add(c, d)"
    ),
    "float reader between": image("c = Conv3(x, w, b) s = Sigmoid(c) y = Mul(c, s)"),
    "resize": image(
        "c = Conv3(x, w, b) r = Resize(c, , twice) y = Conv3(r, k)", "float[N, 4, 16, 16]"
    ),
    "relu after max pool": image(
        "c = Conv3(x, w, b) p = MaxPool<kernel_shape = [3, 3]>(c) r = Relu(p) y = Conv(r, k)",
        "float[N, 4, 4, 4]",
    ),
}


@pytest.fixture(scope="module")
def results() -> dict[tuple[str, str], Result]:
    return {}


@pytest.fixture(params=["channel", "tensor"])
def result(
    request: pytest.FixtureRequest, name: str, results: dict[tuple[str, str], Result]
) -> Result:
    key = (name, request.param)
    if key not in results:
        recipe = Recipe(weights=TensorRule(granularity=request.param))
        results[key] = quantized(MODELS[name], recipe)
    return results[key]


@pytest.mark.parametrize("name", MODELS)
def test_the_checker_accepts_every_emitted_model(result: Result) -> None:
    onnx.checker.check_model(result.model, full_check=True)


@pytest.mark.parametrize("name", MODELS)
def test_every_emitted_model_runs_and_is_near_the_float_model(result: Result) -> None:
    reference = run(result.original, result.feed)
    plain = run(result.model, result.feed, optimize=False)
    integer = run(result.model, result.feed, optimize=True)
    names = [value.name for value in result.model.graph.output]
    for output, expected, a, b in zip(names, reference, plain, integer, strict=True):
        assert cosine(expected, a) >= 0.99
        assert cosine(expected, b) >= 0.99
        used = result.activations.get(output)
        steps = 2 * used.scale if used else 0.02 * np.abs(a).max()
        assert np.abs(a - b).max() <= steps * 1.001


@pytest.mark.parametrize("name", MODELS)
def test_inputs_and_outputs_stay(result: Result) -> None:
    assert list(result.model.graph.input) == list(result.original.graph.input)
    assert list(result.model.graph.output) == list(result.original.graph.output)


@pytest.mark.parametrize("name", MODELS)
def test_no_float_weight_is_left_behind(result: Result) -> None:
    read = {name for node in result.model.graph.node for name in _reads(node)}
    assert set(initializers(result.model)) <= read
    weights = {w.name for node in result.plan.nodes.values() for w in node.weights}
    float_readers = {
        name
        for node in result.model.graph.node
        if node.op_type != "DequantizeLinear"
        for name in _reads(node)
    }
    assert (weights & set(initializers(result.model))) <= float_readers


def _reads(node: onnx.NodeProto) -> set[str]:
    names = set(node.input)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            names |= _reads(inner)
    return names


@pytest.mark.parametrize("name", MODELS)
def test_the_report_counts_what_was_written(result: Result) -> None:
    nodes = result.model.graph.node
    assert result.emitted.activations == sum(node.op_type == "QuantizeLinear" for node in nodes)
    assert result.emitted.weights == sum(len(n.weights) for n in result.plan.nodes.values())


# --- structure


def node_of(proto: onnx.ModelProto, output: str) -> onnx.NodeProto:
    return next(node for node in proto.graph.node if output in node.output)


def producer(proto: onnx.ModelProto, node: onnx.NodeProto, index: int) -> onnx.NodeProto:
    return node_of(proto, node.input[index])


def reader(proto: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in proto.graph.node if name in node.input)


def test_a_conv_reads_and_writes_pairs() -> None:
    result = quantized(MODELS["conv, a graph output"]).model
    conv = next(node for node in result.graph.node if node.op_type == "Conv")
    data, weight, bias = (producer(result, conv, index) for index in range(3))
    assert [n.op_type for n in (data, weight, bias)] == ["DequantizeLinear"] * 3
    assert producer(result, data, 0).op_type == "QuantizeLinear"
    assert producer(result, data, 0).input[0] == "x"
    after = reader(result, conv.output[0])
    assert after.op_type == "QuantizeLinear"
    assert reader(result, after.output[0]).output[0] == "y"
    assert list(after.input[1:]) == list(reader(result, after.output[0]).input[1:])


def test_weights_are_int8_codes_with_a_scale_per_channel() -> None:
    proto = MODELS["conv, a graph output"]
    result = quantized(proto).model
    held = initializers(result)
    weight = next(n for n in result.graph.node if n.output[0] == "w_dequantized")
    codes, scale, zero_point = (held[name] for name in weight.input)
    assert codes.dtype == zero_point.dtype == np.int8
    assert codes.shape == (4, 3, 3, 3)
    assert scale.shape == zero_point.shape == (4,)
    assert not zero_point.any()
    assert [a.i for a in weight.attribute if a.name == "axis"] == [0]
    original = initializers(proto)["w"]
    np.testing.assert_allclose(scale, np.abs(original).max(axis=(1, 2, 3)) / 127, rtol=1e-6)
    error = np.abs(codes * scale[:, None, None, None] - original)
    assert (error <= scale[:, None, None, None] * 0.5001).all()


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_biases_are_int32_at_the_scale_of_the_accumulator(granularity: str) -> None:
    proto = MODELS["gemm, transposed"]
    result = quantized(proto, Recipe(weights=TensorRule(granularity=granularity)))
    held = initializers(result.model)
    gemm = next(n for n in result.model.graph.node if len(n.input) == 3 and n.op_type == "Gemm")
    _, weight, bias = (producer(result.model, gemm, index) for index in range(3))
    assert len(bias.input) == 2  # no zero point
    codes, scale = held[bias.input[0]], held[bias.input[1]]
    assert codes.dtype == np.int32
    assert scale.shape == ((6,) if granularity == "channel" else ())
    np.testing.assert_allclose(
        scale, result.activations["x"].scale * held[weight.input[1]], rtol=1e-6
    )
    np.testing.assert_allclose(codes * scale, initializers(proto)["b"], atol=scale.max())


@pytest.mark.parametrize(
    ("name", "weight", "axis"), [("gemm", "w", 1), ("gemm, transposed", "t", 0), ("matmul", "w", 1)]
)
def test_the_axis_is_that_of_the_output_channels(name: str, weight: str, axis: int) -> None:
    result = quantized(MODELS[name]).model
    node = node_of(result, f"{weight}_dequantized")
    assert [a.i for a in node.attribute] == [axis]
    assert initializers(result)[node.input[1]].shape == (6,)


def test_per_tensor_nodes_have_no_axis() -> None:
    result = quantized(MODELS["residual"], PER_TENSOR).model
    assert not any(n.attribute for n in result.graph.node if "Quantize" in n.op_type)


def test_sharers_use_the_same_parameters() -> None:
    result = quantized(MODELS["residual"])
    for sharer, source in (("p", "a"), ("f", "q")):
        assert result.activations[sharer] is result.activations[source]


def test_an_absorbed_activation_has_no_pair_in_front() -> None:
    result = quantized(MODELS["conv relu"]).model
    relu = next(node for node in result.graph.node if node.op_type == "Relu")
    assert producer(result, relu, 0).op_type == "Conv"
    assert reader(result, relu.output[0]).op_type == "QuantizeLinear"


def test_the_range_obeys_the_activation() -> None:
    result = quantized(MODELS["conv clip"])
    params = result.activations["y"]
    assert params.zero_point == 0
    assert params.scale * 255 <= 0.7


# --- who reads what


def test_float_readers_of_a_float_tensor_keep_it() -> None:
    result = quantized(MODELS["graph input read by float too"]).model
    sin = next(node for node in result.graph.node if node.op_type == "Sin")
    assert list(sin.input) == ["x"]


def test_float_readers_of_an_integer_tensor_read_it_dequantized() -> None:
    result = quantized(MODELS["float reader between"]).model
    sigmoid = next(node for node in result.graph.node if node.op_type == "Sigmoid")
    assert producer(result, sigmoid, 0).op_type == "DequantizeLinear"


def test_subgraphs_read_an_integer_tensor_dequantized() -> None:
    result = quantized(MODELS["subgraph"])
    assert node_of(result.model, "c").op_type == "DequantizeLinear"
    for value in (True, False):
        feed = result.feed | {"test": np.array(value)}
        for optimize in (True, False):
            got = run(result.model, feed, optimize=optimize)[0]
            assert cosine(run(result.original, feed)[0], got) > 0.99


def test_subgraphs_keep_their_weights() -> None:
    result = quantized(MODELS["subgraph"]).model
    assert "k" in initializers(result)
    assert "w" not in initializers(result)


def test_a_weight_that_a_float_node_reads_stays() -> None:
    proto = image(
        "c = Conv3(x, w, b) e1 = ReduceMax(x) s = Div(w, e1) most = ReduceMax(s) y = Mul(c, most)"
    )
    result = quantized(proto)
    assert {"w", "w_quantized"} <= set(initializers(result.model))
    assert cosine(run(proto, result.feed)[0], run(result.model, result.feed)[0]) > 0.99


def test_a_float_activation_of_an_integer_gemm_is_left_exact() -> None:
    """The Relu has a Gemm before it that writes floats, but it is not part of it."""
    proto = rows(
        "h = Gemm(x, w, b) s = Sigmoid(h) r = Relu(h) y = Gemm(r, v)",
        "float[16, 6] s, float[16, 6] r, float[16, 5]",
    )
    result = quantized(proto)
    assert not result.plan.activations["r"].written
    assert node_of(result.model, "r").op_type == "Relu"
    gemm = node_of(result.model, "y")
    assert producer(result.model, gemm, 0).op_type == "DequantizeLinear"


def test_several_readers_share_one_pair() -> None:
    proto = image("c = Conv3(x, w) d = Conv3(x, w, b) y = Add(c, d)")
    result = quantized(proto).model
    assert sum(node.input[0] == "x" for node in result.graph.node) == 1


# --- shared weights


def test_weights_shared_with_equal_parameters_are_stored_once() -> None:
    proto = image("c = Conv3(x, w, b) d = Conv3(c, k) y = Conv3(d, k)")
    held = initializers(quantized(proto).model)
    assert [name for name in held if name.startswith("k_quantized")] == ["k_quantized"]


def test_weights_shared_with_channels_on_different_axes_are_stored_twice() -> None:
    result = quantized(MODELS["gemm and matmul, one weight"]).model
    readers = [node for node in result.graph.node if node.output[0].startswith("square_deq")]
    assert sorted(a.i for node in readers for a in node.attribute) == [0, 1]


def test_equal_scales_on_different_axes_are_not_taken_for_one() -> None:
    ones = np.where(np.random.default_rng(3).random((8, 8)) > 0.5, 1, -1).astype(np.float32)
    proto = rows("h = Gemm<transB = 1>(x, s) y = MatMul(h, s)", "float[16, 8]", more={"s": ones})
    result = quantized(proto).model
    axes = {}
    for op in ("Gemm", "MatMul"):
        node = next(node for node in result.graph.node if node.op_type == op)
        axes[op] = producer(result, node, 1).attribute[0].i
    assert axes == {"Gemm": 0, "MatMul": 1}


def test_names_that_are_taken_are_avoided() -> None:
    taken = {name: np.array(100, np.float32) for name in ("x_scale", "w_quantized", "y_float")}
    proto = image("y = Conv3(x, w, b)", more=taken)
    result = quantized(proto)
    onnx.checker.check_model(result.model)
    assert cosine(run(proto, result.feed)[0], run(result.model, result.feed)[0]) > 0.99
    for name, value in taken.items():
        assert initializers(result.model)[name] == value


# --- biases that do not fit


def test_a_huge_bias_raises_the_scale_of_its_channel() -> None:
    bias = np.array([1e6, 0.5, -1e6, 0], np.float32)
    proto = image(
        "y = Conv3(x, w, h)", more={"h": bias, "w": normal(RNG, (4, 3, 3, 3)) * np.float32(1e-3)}
    )
    result = quantized(proto)
    assert dict(result.emitted.raised) == {"Conv(y)": 2}
    conv = next(node for node in result.model.graph.node if node.op_type == "Conv")
    node = producer(result.model, conv, 2)
    codes, scale = (initializers(result.model)[name] for name in node.input)
    assert np.abs(codes.astype(np.int64)).max() < 2**31 - 1
    np.testing.assert_allclose(codes * scale.astype(np.float64), bias, rtol=1e-4)


def test_raising_is_not_reported_where_nothing_was_raised() -> None:
    assert quantized(MODELS["residual"]).emitted.raised == {}


def test_an_all_zero_channel_is_the_bias_exactly() -> None:
    bias = np.array([0.3, -0.2, 0.123456, 0], np.float32)
    proto = image("y = Conv3(x, z, b)", more={"z": with_zero_channel(), "b": bias})
    result = quantized(proto)
    inside = result.model.graph
    conv = next(node for node in inside.node if node.op_type == "Conv")
    before = run(result.model, result.feed, names=[conv.output[0]])[0]
    np.testing.assert_allclose(before[:, 2], bias[2], rtol=1e-5)


# --- versions


@pytest.mark.parametrize(
    ("recipe", "needed"),
    [(PER_TENSOR, (10, "int8")), (Recipe(), (13, "per-channel weights"))],
    ids=["tensor", "channel"],
)
def test_required_opset(recipe: Recipe, needed: tuple[int, str]) -> None:
    plan = resolve(from_proto(image("y = Conv3(x, w)")), eager(), recipe)
    assert required_opset(plan) == needed


@pytest.mark.parametrize("dtype", ["int4", "uint16"])
def test_odd_types_need_opset_21(dtype: str) -> None:
    dtypes = {"activations": ["uint8"], "weights": [dtype]}
    allowing = replace(eager(), dtypes=dtypes, packed="always")
    recipe = Recipe(weights=TensorRule(dtype=dtype))
    plan = resolve(from_proto(image("y = Conv3(x, w)")), allowing, recipe)
    assert required_opset(plan) == (21, dtype)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
def test_narrow_weights_take_whole_bytes_where_kernels_read_those(bits: int) -> None:
    recipe = Recipe(target="cpu", weights=TensorRule(dtype=f"int{bits}"))
    result = quantized(image("y = Conv3(x, w)"), recipe)
    stored = {tensor.name: tensor for tensor in result.model.graph.initializer}
    codes = onnx.numpy_helper.to_array(stored["w_quantized"])
    assert codes.dtype == np.int8
    assert np.abs(codes).max() == 2 ** (bits - 1) - 1
    assert result.model.opset_import[0].version < 21


def test_a_model_of_opset_10_stays_at_opset_10_per_tensor() -> None:
    proto = image(RESIDUAL, "float[N, 5]", opset=10, ir=5)
    result = quantized(proto, PER_TENSOR)
    assert [o.version for o in result.model.opset_import] == [10]
    onnx.checker.check_model(result.model, full_check=True)
    for optimize in (True, False):
        got = run(result.model, result.feed, optimize=optimize)[0]
        assert cosine(run(proto, result.feed)[0], got) > 0.99


@pytest.mark.parametrize(("opset", "ir"), [(7, 3), (8, 3), (9, 4), (11, 6)])
def test_older_models_are_raised_and_quantized(opset: int, ir: int) -> None:
    activation = "Clip<min = 0.0, max = 6.0>(c)" if opset < 11 else "Clip(c, zero, high)"
    body = f"c = Conv3(x, w, b) r = {activation} y = Conv3(r, k)"
    proto = image(body, opset=opset, ir=ir)
    result = quantized(proto)
    assert [o.version for o in result.model.opset_import] == [13]
    assert list(result.plan.activations) == ["x", "r", "y"]
    onnx.checker.check_model(result.model, full_check=True)
    assert cosine(run(proto, result.feed)[0], run(result.model, result.feed)[0]) > 0.99


@pytest.mark.parametrize(
    ("kind", "dtype"), [("weights", "int8"), ("weights", "uint8"), ("activations", "uint8")]
)
@pytest.mark.parametrize("symmetric", [True, False])
def test_every_type_of_the_target_runs(kind: str, dtype: str, *, symmetric: bool) -> None:
    recipe = Recipe(**{kind: TensorRule(dtype=dtype, symmetric=symmetric)})
    result = quantized(MODELS["residual"], recipe)
    onnx.checker.check_model(result.model, full_check=True)
    for optimize in (True, False):
        got = run(result.model, result.feed, optimize=optimize)[0]
        assert cosine(run(result.original, result.feed)[0], got) > 0.99


# --- on the target


FLOAT_KERNELS = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "Add", "MaxPool", "Relu"}
FLOAT_KERNELS |= {"GlobalAveragePool", "FusedMatMul", "MatMulNBits"}


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_onnxruntime_leaves_no_float_kernel(tmp_path: Path, granularity: str) -> None:
    recipe = Recipe(weights=TensorRule(granularity=granularity))
    result = quantized(MODELS["residual"], recipe)
    session(result.model, save=tmp_path / "optimized.onnx")
    optimized = ops(onnx.load(tmp_path / "optimized.onnx"))
    assert not FLOAT_KERNELS & set(optimized)
    assert optimized.count("QLinearConv") == 2
    assert optimized.count("QGemm") == 1


def test_onnxruntime_drops_relu_and_clip(tmp_path: Path) -> None:
    for name in ("conv relu", "conv clip", "batchnorm"):
        session(quantized(MODELS[name]).model, save=tmp_path / "optimized.onnx")
        optimized = ops(onnx.load(tmp_path / "optimized.onnx"))
        assert "QLinearConv" in optimized
        assert not {"Relu", "Clip", "Conv", "FusedConv"} & set(optimized)


def test_onnxruntime_runs_matmul_on_integers(tmp_path: Path) -> None:
    for name in ("matmul", "matmul, batched", "gemm and matmul, one weight"):
        session(quantized(MODELS[name]).model, save=tmp_path / "optimized.onnx")
        optimized = set(ops(onnx.load(tmp_path / "optimized.onnx")))
        assert not FLOAT_KERNELS & optimized
        assert optimized & {"MatMulIntegerToFloat", "QLinearMatMul"}


KEPT_FLOAT = {
    "by a rule": "c = Conv3(x, w, b) d = Conv3(c, k, b) y = Conv3(d, k)",
    "by a rule, with a Relu": "c = Conv3(x, w, b) d = Conv3(c, k, b) r = Relu(d) y = Conv3(r, k)",
    "no integer kernel": "c = Conv3(x, w, b) d = ConvTranspose(c, k, b) y = Conv(d, k)",
}


@pytest.mark.parametrize("case", KEPT_FLOAT)
def test_weights_kept_float_stay_float_in_onnxruntime(tmp_path: Path, case: str) -> None:
    recipe = Recipe(rules=(NodeRule(name=r"\(d\)$", quantize=False),))
    result = quantized(image(KEPT_FLOAT[case]), recipe)
    assert not result.plan.nodes["d"].quantized
    session(result.model, save=tmp_path / "optimized.onnx")
    held = initializers(onnx.load(tmp_path / "optimized.onnx"))
    integers = [name for name, value in held.items() if value.dtype == np.int8 and value.ndim == 4]
    assert len(integers) == 2


def test_nodes_kept_float_by_a_rule_are_left_alone() -> None:
    recipe = Recipe(rules=(NodeRule(op="Gemm", quantize=False),))
    result = quantized(MODELS["residual"], recipe)
    gemm = node_of(result.model, "y")
    assert list(gemm.input) == ["f", "u", "e"]
    assert node_of(result.model, "f").op_type == "Flatten"


def test_emitting_twice_gives_the_same_bytes() -> None:
    proto = MODELS["residual"]
    feed = feed_for(proto)
    first, second = (quantized(proto, feed=feed).model for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize(
    "behind",
    [
        "Transpose<perm = [0, 2, 3, 1]>(r)",
        "MaxPool<kernel_shape = [2, 2]>(r)",
        "Flatten(r)",
    ],
)
@pytest.mark.parametrize("opset", [20, 21])
def test_signed_codes_load_where_float_operators_move_them(behind: str, opset: int) -> None:
    """onnxruntime's own pairs behind such an operator are invalid from operator set 21 on."""
    text = f"""net (float[1, 4, 8, 8] x) => (float[1, 4, 6, 6] z, y) {{
        c = Conv(x, w)
        r = Relu(c)
        z = Conv<pads = [1, 1, 1, 1]>(r, v)
        s = {behind}
        y = Softmax(s)
    }}"""
    proto = build(text, {"w": (4, 4, 3, 3), "v": (4, 4, 3, 3)}, opset=opset)
    recipe = Recipe(activations=TensorRule(dtype="int8"))
    result = quantized(proto, recipe, on="generic")
    outputs = [run(result.model, result.feed, optimize=level) for level in (False, True)]
    for one, other in zip(*outputs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert ops(result.model).count("Max") == (opset >= 21)
