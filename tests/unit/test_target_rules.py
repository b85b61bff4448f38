"""What each shipped target writes: which tensors carry pairs, of which types, sharing what."""

import numpy as np
import onnx
import pytest

from onnxq.errors import UnsupportedError
from onnxq.graph.io import from_proto
from onnxq.plan import resolve
from onnxq.recipe import Recipe, TensorRule
from onnxq.targets import names, target
from onnxq.types import IntType
from tests.graphs import Array, Result, build, cosine, initializers, ops, quantized, run

OTHERS = sorted(set(names()) - {"cpu"})  # tests of emit and choose are about cpu
INPUTS_ONLY = ["openvino", "tensorrt"]
BOTH = ["generic", "qnn"]
WEIGHTS = {
    "w": (4, 3, 3, 3),
    "b": (4,),
    "k": (4, 4, 3, 3),
    "eight": (4, 8, 3, 3),
    "up": (4, 6, 2, 2),
    "ub": (6,),
    "u": (5, 4),
    "e": (5,),
    "m": (8, 4),
    "twice": np.array([1, 1, 2, 2], np.float32),
}


def image(body: str, output: str = "float[N, 4, 8, 8]", opset: int = 13) -> onnx.ModelProto:
    """Build a graph on images in which Conv3 stands for a padded 3×3 convolution."""
    body = body.replace("Conv3(", "Conv<pads = [1, 1, 1, 1]>(")
    text = f"net (float[N, 3, 8, 8] x) => ({output} y) {{ {body} }}"
    return build(text, _named(text), opset=opset)


def rows(body: str, output: str = "float[N, 4]") -> onnx.ModelProto:
    """Build a graph on rows of features."""
    text = f"net (float[N, 8] x) => ({output} y) {{ {body} }}"
    return build(text, _named(text))


def _named(text: str) -> dict[str, tuple[int, ...] | Array]:
    words = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
    return {name: value for name, value in WEIGHTS.items() if name in words}


RESIDUAL = image(
    """c = Conv3(x, w, b) r = Relu(c) d = Conv3(r, k, b) a = Add(d, r) s = Relu(a)
       p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(s) g = Conv3(p, k)
       q = GlobalAveragePool(g) f = Flatten(q) y = Gemm<transB = 1>(f, u, e)""",
    "float[N, 5]",
)
CONCAT = image(
    "c = Conv3(x, w, b) d = Conv3(x, w) r = Relu(d) a = Concat<axis = 1>(c, r) y = Conv3(a, eight)"
)
MODELS = {
    "residual": RESIDUAL,
    "concat": CONCAT,
    "concat of concat": image(
        """c = Conv3(x, w, b) d = Conv3(c, k) p = MaxPool<kernel_shape = [1, 1]>(d)
           a = Concat<axis = 2>(c, p) o = Concat<axis = 2>(a, d) y = Conv3(o, k)""",
        "float[N, 4, 24, 8]",
    ),
    "two branches": image("c = Conv3(x, w, b) d = Conv3(x, w) a = Add(c, d) y = Conv3(a, k)"),
    "resize": image(
        "c = Conv3(x, w, b) r = Resize(c, , twice) y = Conv3(r, k)", "float[N, 4, 16, 16]"
    ),
    "conv transpose": image(
        "c = Conv3(x, w, b) y = ConvTranspose<strides = [2, 2]>(c, up, ub)", "float[N, 6, 16, 16]"
    ),
    "gate": image("c = Conv3(x, w, b) s = Sigmoid(c) m2 = Mul(c, s) y = Conv3(m2, k)"),
    "tails": rows("h = MatMul(x, m) t = Tanh(h) s = Sigmoid(t) y = Softmax(s)"),
    "relu alone": image(
        """c = Conv3(x, w, b) r = Relu(c) d = Conv3(r, k) p = MaxPool<kernel_shape = [1, 1]>(d)
           y = Relu(p)"""
    ),
}


@pytest.fixture(scope="module")
def results() -> dict[tuple[str, str], Result]:
    return {}


@pytest.fixture(params=MODELS)
def result(
    request: pytest.FixtureRequest, on: str, results: dict[tuple[str, str], Result]
) -> Result:
    key = (request.param, on)
    if key not in results:
        results[key] = quantized(MODELS[request.param], on=on)
    return results[key]


def pairs(model: onnx.ModelProto) -> dict[str, tuple[Array, Array]]:
    """Return scale and zero point of every tensor that carries Q/DQ, by its name before."""
    held = initializers(model)
    return {
        node.input[0].removesuffix("_float"): (held[node.input[1]], held[node.input[2]])
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }


def stored(model: onnx.ModelProto) -> dict[str, tuple[Array, Array]]:
    """Return codes and scale of every dequantized constant, by its name before."""
    held = initializers(model)
    return {
        node.input[0].removesuffix("_quantized"): (held[node.input[0]], held[node.input[1]])
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in held
    }


def floats(model: onnx.ModelProto, output: str) -> list[str]:
    """Return what a node reads that comes from no DequantizeLinear."""
    made = {name: node for node in model.graph.node for name in node.output}
    node = made.get(output) or made[f"{output}_float"]
    return [n for n in node.input if n not in made or made[n].op_type != "DequantizeLinear"]


# --- what holds for all


@pytest.mark.parametrize("on", OTHERS)
def test_the_checker_accepts_what_is_written(result: Result) -> None:
    onnx.checker.check_model(result.model, full_check=True)


@pytest.mark.parametrize("on", OTHERS)
@pytest.mark.parametrize("optimize", [True, False])
def test_what_is_written_runs_and_is_near(result: Result, optimize: bool) -> None:
    expected = run(result.original, result.feed)[0]
    assert cosine(expected, run(result.model, result.feed, optimize=optimize)[0]) > (
        0.99 if result.plan.target.power_of_two else 0.995
    )


LEAST = {2: -1.0, 3: 0.5, 4: 0.85, 5: 0.95, 6: 0.98, 7: 0.99}  # cosine by bits
ACTIVATIONS = {
    "crossbar": np.uint8,
    "fixed-point": np.int8,
    "generic": np.int8,
    "openvino": np.uint8,
    "qnn": np.uint16,
    "tensorrt": np.int8,
}


@pytest.mark.parametrize("on", OTHERS)
def test_element_types(on: str) -> None:
    model = quantized(RESIDUAL, on=on).model
    zero_points = [zero for _, zero in pairs(model).values()]
    assert {zero.dtype for zero in zero_points} == {np.dtype(ACTIVATIONS[on])}
    codes, scale = stored(model)["k"]
    shape = {"fixed-point": (), "crossbar": (4, 5)}.get(on, (4,))  # 36 inputs on arrays of 8
    assert (codes.dtype, scale.shape) == (np.int8, shape)
    assert ("b" in stored(model)) == (target(on).bias is not None)
    assert ("b" in initializers(model)) == (target(on).bias is None)


def test_tensorrt_has_no_zero_points() -> None:
    model = quantized(RESIDUAL, on="tensorrt").model
    held = initializers(model)
    zeros = [held[n.input[2]] for n in model.graph.node if n.op_type.endswith("izeLinear")]
    assert zeros
    assert not any(zero.any() for zero in zeros)


@pytest.mark.parametrize("kind", ["activations", "weights"])
def test_tensorrt_refuses_zero_points(kind: str) -> None:
    recipe = Recipe(**{kind: TensorRule(symmetric=False)})
    with pytest.raises(UnsupportedError, match=f"tensorrt has symmetric {kind} only"):
        resolve(from_proto(RESIDUAL), target("tensorrt"), recipe)


@pytest.mark.parametrize("on", OTHERS)
@pytest.mark.parametrize("kind", ["activations", "weights"])
def test_every_element_type_runs(on: str, kind: str) -> None:
    for dtype in target(on).dtypes[kind]:
        recipe = Recipe(**{kind: TensorRule(dtype=dtype)})
        result = quantized(RESIDUAL, recipe, on=on)
        onnx.checker.check_model(result.model, full_check=True)
        expected = run(result.original, result.feed)[0]
        for optimize in (True, False):
            got = run(result.model, result.feed, optimize=optimize)[0]
            assert cosine(expected, got) > LEAST.get(IntType.parse(dtype).bits, 0.995), dtype


# --- placement


@pytest.mark.parametrize("on", INPUTS_ONLY)
def test_pairs_stand_in_front_of_quantized_operators_only(on: str) -> None:
    model = quantized(RESIDUAL, on=on).model
    assert set(pairs(model)) == {"x", "r", "s", "g", "q"}
    made = {node.output[0]: node for node in model.graph.node}
    assert made["y"].op_type == "Gemm"
    assert list(made["y"].input)[2] == "e"
    assert floats(model, "g") == ["p"]


@pytest.mark.parametrize("on", INPUTS_ONLY)
def test_only_the_skip_connection_of_an_addition_is_quantized(on: str) -> None:
    assert floats(quantized(RESIDUAL, on=on).model, "a") == ["d"]
    branches = quantized(MODELS["two branches"], on=on).model
    assert len(floats(branches, "a")) == 1


@pytest.mark.parametrize("on", INPUTS_ONLY)
def test_a_branch_that_others_read_is_quantized_for_the_addition(on: str) -> None:
    proto = image("c = Conv3(x, w, b) d = Conv3(c, k) a = Add(d, c) z = Conv3(d, k) o = Add(a, z) "
                  "y = Conv3(o, k)")  # fmt: skip
    assert floats(quantized(proto, on=on).model, "a") == []


@pytest.mark.parametrize("on", INPUTS_ONLY)
def test_float_readers_read_the_float_tensor(on: str) -> None:
    proto = image("c = Conv3(x, w, b) s = Sin(c) d = Conv3(c, k) y = Sub(d, s)")
    model = quantized(proto, on=on).model
    assert floats(model, "s") == ["c"]
    assert floats(model, "d") == []


@pytest.mark.parametrize("on", BOTH)
def test_every_tensor_between_carries_a_pair(on: str) -> None:
    model = quantized(RESIDUAL, on=on).model
    assert set(pairs(model)) - {"y"} == {"x", "r", "d", "s", "p", "g", "q", "f"}
    assert ("y" in pairs(model)) == (on == "qnn")
    assert floats(model, "a") == []


@pytest.mark.parametrize("on", BOTH)
def test_biases_have_the_scale_of_the_accumulator(on: str) -> None:
    model = quantized(RESIDUAL, on=on).model
    codes, scale = stored(model)["b"]
    assert codes.dtype == np.int32
    product = pairs(model)["x"][0] * stored(model)["w"][1]
    np.testing.assert_allclose(scale, product, rtol=1e-6)


def test_qnn_quantizes_whatever_stands_alone() -> None:
    result = quantized(MODELS["relu alone"], on="qnn")
    assert set(pairs(result.model)) == {"x", "r", "d", "p", "y"}
    assert result.plan.nodes["r"].reason == "part of Conv(c)"
    assert result.plan.nodes["y"].quantized


def test_qnn_takes_in_again_what_an_operator_that_drops_out_does_not_absorb() -> None:
    model = from_proto(MODELS["relu alone"])
    plan = resolve(model, target("qnn"), Recipe(), {"x": "is odd"})
    assert not plan.nodes["c"].quantized
    assert plan.nodes["r"].quantized


# --- shared parameters


def same(model: onnx.ModelProto, *tensors: str) -> bool:
    found = pairs(model)
    return len({(float(found[t][0]), int(found[t][1])) for t in tensors}) == 1


@pytest.mark.parametrize("on", BOTH)
def test_what_moves_values_shares_parameters(on: str) -> None:
    model = quantized(RESIDUAL, on=on).model
    assert same(model, "s", "p")
    assert same(model, "q", "f")
    assert not same(model, "s", "g")


def test_qnn_unifies_what_a_concat_reads_and_writes() -> None:
    assert same(quantized(CONCAT, on="qnn").model, "c", "r", "a")
    assert same(quantized(MODELS["concat of concat"], on="qnn").model, "c", "d", "p", "a", "o")
    assert not same(quantized(CONCAT, on="generic").model, "c", "r", "a")


@pytest.mark.parametrize("on", INPUTS_ONLY)
def test_a_concat_hands_one_grid_on(on: str) -> None:
    model = quantized(CONCAT, on=on).model
    assert set(pairs(model)) == {"x", "c", "r"}
    assert same(model, "c", "r")
    assert floats(model, "y") == ["a"]


@pytest.mark.parametrize("on", ["openvino", "qnn", "tensorrt"])
def test_unified_parameters_hold_all_values(on: str) -> None:
    result = quantized(CONCAT, on=on)
    values = np.concatenate([v.ravel() for v in run(CONCAT, result.feed, names=["c", "r"])])
    scale, zero = pairs(result.model)["c"]
    info = np.iinfo(zero.dtype)
    low, high = (scale * (edge - int(zero)) for edge in (info.min, info.max))
    assert low - scale <= values.min() < 0 < values.max() <= high + scale
    assert result.plan.activations["c"].group in {("r",), ("r", "a")}


def test_a_range_known_beforehand_gives_way_to_sharing() -> None:
    proto = image("c = Conv3(x, w, b) s = Sigmoid(c) t = Tanh(c) a = Concat<axis = 1>(s, t) "
                  "y = Conv3(a, eight)")  # fmt: skip
    result = quantized(proto, on="qnn")
    assert same(result.model, "s", "t", "a")
    values = run(proto, result.feed, names=["a"])[0]
    scale, zero = pairs(result.model)["a"]
    np.testing.assert_allclose(-scale * int(zero), values.min(), atol=2 * scale)


# --- needs of single operators


def test_qnn_fixes_the_range_of_sigmoid_and_tanh() -> None:
    found = pairs(quantized(MODELS["tails"], on="qnn").model)
    assert (found["s"][0], found["s"][1]) == (np.float32(1 / 65536), 0)
    assert (found["t"][0], found["t"][1]) == (np.float32(1 / 32768), 32768)


@pytest.mark.parametrize("asked", [TensorRule(), TensorRule(granularity="channel", dtype="int8")])
def test_qnn_weights_of_a_matmul_are_uint8_per_tensor(asked: TensorRule) -> None:
    model = quantized(MODELS["tails"], Recipe(weights=asked), on="qnn").model
    codes, scale = stored(model)["m"]
    assert (codes.dtype, scale.shape) == (np.uint8, ())


def test_qnn_weights_of_a_gemm_are_per_tensor() -> None:
    codes, scale = stored(quantized(RESIDUAL, on="qnn").model)["u"]
    assert (codes.dtype, scale.shape) == (np.int8, ())


@pytest.mark.parametrize("on", OTHERS)
@pytest.mark.parametrize(("group", "shape"), [(1, (4, 6, 2, 2)), (2, (4, 3, 2, 2))])
def test_transposed_convolutions(on: str, group: int, shape: tuple[int, ...]) -> None:
    proto = build(
        f"""net (float[N, 4, 8, 8] x) => (float[N, 6, 16, 16] y)
        {{ y = ConvTranspose<strides = [2, 2], group = {group}>(x, t, ub) }}""",
        {"t": shape, "ub": (6,)},
    )
    result = quantized(proto, on=on)
    shapes: dict[str, tuple[int, ...]] = {"fixed-point": (), "crossbar": (6, 2 // group)}
    shape = shapes.get(on, (6,) if group == 1 else ())
    assert stored(result.model)["t"][1].shape == shape
    for optimize in (True, False):
        got = run(result.model, result.feed, optimize=optimize)[0]
        assert cosine(run(proto, result.feed)[0], got) > 0.995


def test_openvino_resizes_integers_without_sharing() -> None:
    model = quantized(MODELS["resize"], on="openvino").model
    assert set(pairs(model)) == {"x", "c", "r"}


def test_a_gate_stays_float_where_its_sigmoid_does() -> None:
    for on, gated in (("tensorrt", False), ("openvino", False), ("qnn", True)):
        assert quantized(MODELS["gate"], on=on).plan.nodes["m2"].quantized == gated


def test_no_target_adds_operators_but_q_and_dq() -> None:
    for on in OTHERS:
        for name, proto in MODELS.items():
            added = set(ops(quantized(proto, on=on).model)) - set(ops(proto))
            unfold = {"Reshape", "Transpose", "Max"} if target(on).tiled else set()
            assert added <= {"QuantizeLinear", "DequantizeLinear", *unfold}, (on, name)
