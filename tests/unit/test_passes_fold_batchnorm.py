import numpy as np
import onnx
import pytest

from onnxq.graph.io import from_proto, sync
from onnxq.passes import PassReport
from onnxq.passes.fold_batchnorm import fold_batchnorm
from tests.graphs import assert_same_function, batchnorm, build, copy, initializers, ops

BN = "y = BatchNormalization(c, g, b, m, v)"


def folded(proto: onnx.ModelProto) -> tuple[PassReport, onnx.ModelProto]:
    model = from_proto(copy(proto))
    report = fold_batchnorm(model)
    result = sync(model)
    onnx.checker.check_model(result, full_check=True)
    return report, result


def conv(body: str, shape: tuple[int, ...] = (4, 3, 3, 3), *, opset: int = 13) -> onnx.ModelProto:
    text = f"g (float[N, 3, 8, 8] x) => (float[N, 4, h, w2] y) {{ {body} }}"
    return build(text, {"w": shape, "bias": (4,), **batchnorm(4)}, opset=opset)


def refused(proto: onnx.ModelProto, reason: str) -> None:
    report, result = folded(proto)
    assert not report.modified
    assert len(report.skipped) == 1
    assert reason in report.skipped[0][1]
    assert result == proto


# --- folded

LAYERS = {
    "conv": ("x = Identity(i) c = Conv(x, w)", (4, 6, 3, 3)),
    "conv with bias": ("x = Identity(i) c = Conv(x, w, bias)", (4, 6, 3, 3)),
    "conv with an empty bias": ("x = Identity(i) c = Conv(x, w, empty)", (4, 6, 3, 3)),
    "grouped conv": ("x = Identity(i) c = Conv<group = 2>(x, w, bias)", (4, 3, 3, 3)),
    "depthwise conv": ("x = Slice(i, at0, at4, at1) c = Conv<group = 4>(x, w)", (4, 1, 3, 3)),
    "strided conv": ("x = Identity(i) c = Conv<strides = [2, 2]>(x, w)", (4, 6, 3, 3)),
    "conv transpose": ("x = Identity(i) c = ConvTranspose(x, w)", (6, 4, 3, 3)),
    "conv transpose with bias": (
        "x = Identity(i) c = ConvTranspose<strides = [2, 2]>(x, w, bias)",
        (6, 4, 2, 2),
    ),
    "gemm": ("x = Flatten(s) c = Gemm(x, w)", (6, 4)),
    "gemm with bias": ("x = Flatten(s) c = Gemm(x, w, bias)", (6, 4)),
    "gemm, transposed weights": ("x = Flatten(s) c = Gemm<transB = 1>(x, w, bias)", (4, 6)),
    "gemm, one bias for all": ("x = Flatten(s) c = Gemm(x, w, one)", (6, 4)),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("epsilon", [1e-5, 0.1])
def test_folding_keeps_the_function(layer: str, epsilon: float) -> None:
    body, shape = LAYERS[layer]
    proto = build(
        f"""net (float[N, 6, 8, 8] i) => (y) {{
            s = ReduceMean<axes = [2, 3]>(i)
            {body}
            y = BatchNormalization<epsilon = {epsilon}>(c, g, b, m, v)
        }}""".replace("(y)", "(float[N, 4, h, k] y)" if "emm" not in layer else "(float[N, 4] y)"),
        {
            "w": shape,
            "bias": (4,),
            "one": np.array([3], np.float32),
            "at0": np.array([0]),
            "at4": np.array([4]),
            "at1": np.array([1]),
            "empty": (4,),
            **batchnorm(4),
        },
    )
    for node in proto.graph.node:
        if "empty" in node.input:
            node.input[2] = ""
    report, result = folded(proto)
    assert report == PassReport(name="fold_batchnorm", changed=("BatchNormalization(y)",))
    assert "BatchNormalization" not in ops(result)
    assert_same_function(proto, result)


def test_the_folded_values_are_those_of_the_equation() -> None:
    proto = conv(f"c = Conv(x, w, bias) {BN}")
    before = initializers(proto)
    _, result = folded(proto)
    after = initializers(result)
    scale = before["g"] / np.sqrt(before["v"] + 1e-5)
    weight = before["w"] * scale[:, None, None, None]
    bias = (before["bias"] - before["m"]) * scale + before["b"]
    conv_node = result.graph.node[0]
    assert list(conv_node.output) == ["y"]
    np.testing.assert_allclose(after[conv_node.input[1]], weight, rtol=1e-6)
    np.testing.assert_allclose(after[conv_node.input[2]], bias, rtol=1e-5, atol=1e-6)
    assert set(after) == set(conv_node.input) - {"x"}


def test_the_result_may_have_several_readers() -> None:
    proto = build(
        f"""net (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] p, float[N, 4, 6, 6] q)
        {{ c = Conv(x, w) {BN} p = Relu(y) q = Neg(y) }}""",
        {"w": (4, 3, 3, 3), **batchnorm(4)},
    )
    report, result = folded(proto)
    assert report.modified
    assert_same_function(proto, result)


def test_the_result_may_be_read_by_a_subgraph() -> None:
    proto = build(
        f"""net (float[N, 3, 8, 8] x, bool t) => (float[N, 4, 6, 6] z) {{
            c = Conv(x, w)
            {BN}
            z = If(t) <
                then_branch = yes () => (float[N, 4, 6, 6] p) {{ p = Relu(y) }},
                else_branch = no () => (float[N, 4, 6, 6] q) {{ q = Neg(y) }}
            >
        }}""",
        {"w": (4, 3, 3, 3), **batchnorm(4)},
    )
    report, result = folded(proto)
    assert report.modified
    assert_same_function(proto, result)


def test_a_chain_of_layers() -> None:
    proto = build(
        """net (float[N, 3, 8, 8] x) => (float[N, 4, 4, 4] y) {
            c = Conv(x, w)
            d = BatchNormalization(c, g, b, m, v)
            e = Conv(d, k)
            y = BatchNormalization(e, g, b, m, v)
        }""",
        {"w": (4, 3, 3, 3), "k": (4, 4, 3, 3), **batchnorm(4)},
    )
    report, result = folded(proto)
    assert report.changed == ("BatchNormalization(d)", "BatchNormalization(y)")
    assert ops(result) == ["Conv", "Conv"]
    assert_same_function(proto, result)


def test_shared_weights_are_copied() -> None:
    proto = build(
        f"""net (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y, float[N, 4, 6, 6] z)
        {{ c = Conv(x, w, bias) {BN} z = Conv(x, w, bias) }}""",
        {"w": (4, 3, 3, 3), "bias": (4,), **batchnorm(4)},
    )
    before = initializers(proto)
    _, result = folded(proto)
    plain = next(node for node in result.graph.node if node.output[0] == "z")
    assert list(plain.input) == ["x", "w", "bias"]
    np.testing.assert_array_equal(initializers(result)["w"], before["w"])
    assert_same_function(proto, result)


def test_names_that_are_taken_are_avoided() -> None:
    proto = build(
        f"net (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) {{ c = Conv(x, w) {BN} }}",
        {"w": (4, 3, 3, 3), "y.weight": (1,), "y.bias": (1,), **batchnorm(4)},
    )
    _, result = folded(proto)
    assert_same_function(proto, result)


def test_metadata_of_the_layer_stays() -> None:
    proto = conv(f"c = Conv(x, w) {BN}")
    proto.graph.node[0].name = "layer"
    proto.graph.node[0].metadata_props.add(key="k", value="v")
    _, result = folded(proto)
    assert result.graph.node[0].name == "layer"
    assert result.graph.node[0].metadata_props[0].value == "v"


def test_half_precision_stays_half_precision() -> None:
    half = {"w": np.ones((4, 3, 1, 1)), **batchnorm(4)}
    proto = build(
        f"g (float16[N, 3, 8, 8] x) => (float16[N, 4, 8, 8] y) {{ c = Conv(x, w) {BN} }}",
        {name: value.astype(np.float16) for name, value in half.items()},
    )
    report, result = folded(proto)
    assert report.modified
    assert {value.dtype.name for value in initializers(result).values()} == {"float16"}


def test_sparse_weights_are_folded() -> None:
    proto = build(
        f"g (float[N, 4] x) => (float[N, 3] y) {{ c = Gemm<transB = 1>(x, w) {BN} }}",
        {"w": (3, 4), **batchnorm(3)},
    )
    del proto.graph.initializer[0]
    values = onnx.numpy_helper.from_array(np.array([2, -1], np.float32), "w")
    indices = onnx.numpy_helper.from_array(np.array([1, 11], np.int64), "i")
    proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [3, 4]))
    report, result = folded(proto)
    assert report.modified
    assert not result.graph.sparse_initializer
    assert_same_function(proto, result)


# --- refused


def test_refused_when_the_middle_has_another_reader() -> None:
    text = f"""g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y, float[N, 4, 6, 6] z)
    {{ c = Conv(x, w) {BN} z = Relu(c) }}"""
    refused(build(text, {"w": (4, 3, 3, 3), **batchnorm(4)}), "other readers")


def test_refused_when_a_subgraph_reads_the_middle() -> None:
    text = f"""g (float[N, 3, 8, 8] x, bool t) => (float[N, 4, 6, 6] y, float[N, 4, 6, 6] z) {{
        c = Conv(x, w)
        {BN}
        z = If(t) <
            then_branch = yes () => (float[N, 4, 6, 6] p) {{ p = Relu(c) }},
            else_branch = no () => (float[N, 4, 6, 6] q) {{ q = Neg(c) }}
        >
    }}"""
    refused(build(text, {"w": (4, 3, 3, 3), **batchnorm(4)}), "other readers")


def test_refused_when_the_middle_is_a_graph_output() -> None:
    text = f"""g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y, float[N, 4, 6, 6] c)
    {{ c = Conv(x, w) {BN} }}"""
    refused(build(text, {"w": (4, 3, 3, 3), **batchnorm(4)}), "other readers")


@pytest.mark.parametrize("computed", ["w", "bias", "g", "b", "m", "v"])
def test_refused_when_something_is_not_constant(computed: str) -> None:
    proto = conv(f"c = Conv(x, w, bias) {BN}")
    held = next(t for t in proto.graph.initializer if t.name == computed)
    held.name = "raw"
    proto.graph.node.insert(0, onnx.helper.make_node("Abs", ["raw"], [computed]))
    refused(proto, "not constant")


def test_refused_for_grouped_conv_transpose() -> None:
    text = f"""g (float[N, 4, 8, 8] x) => (float[N, 4, 10, 10] y)
    {{ c = ConvTranspose<group = 2>(x, w) {BN} }}"""
    refused(build(text, {"w": (4, 2, 3, 3), **batchnorm(4)}), "grouped")


@pytest.mark.parametrize("attributes", ["alpha = 0.5", "beta = 2.0"])
def test_refused_for_gemm_that_scales(attributes: str) -> None:
    text = f"g (float[N, 3] x) => (float[N, 4] y) {{ c = Gemm<{attributes}>(x, w, bias) {BN} }}"
    refused(build(text, {"w": (3, 4), "bias": (4,), **batchnorm(4)}), "alpha or beta")


@pytest.mark.parametrize("shape", [(1, 4), (2, 4), ()])
def test_refused_for_gemm_whose_bias_is_no_vector(shape: tuple[int, ...]) -> None:
    text = f"g (float[2, 3] x) => (float[2, 4] y) {{ c = Gemm(x, w, bias) {BN} }}"
    bias = np.ones(shape, np.float32)
    refused(build(text, {"w": (3, 4), "bias": bias, **batchnorm(4)}), "no vector")


def test_refused_in_training_form() -> None:
    text = """g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y)
    { c = Conv(x, w) y, n, o = BatchNormalization<training_mode = 1>(c, g, b, m, v) }"""
    refused(build(text, {"w": (4, 3, 3, 3), **batchnorm(4)}, opset=15), "training form")


def test_refused_for_statistics_of_every_position() -> None:
    text = """g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y)
    { c = Conv(x, w) y = BatchNormalization<spatial = 0>(c, g, b, m, v) }"""
    full = {name: np.ones((4, 6, 6), np.float32) for name in "gbmv"}
    refused(build(text, {"w": (4, 3, 3, 3), **full}, opset=8), "every position")


@pytest.mark.parametrize("before", ["c = Relu(x)", "c = MaxPool<kernel_shape = [1, 1]>(x)"])
def test_refused_after_another_operator(before: str) -> None:
    text = f"g (float[N, 4, 8, 8] x) => (float[N, 4, 8, 8] y) {{ {before} {BN} }}"
    refused(build(text, batchnorm(4)), "no Conv, ConvTranspose or Gemm comes before it")


def test_refused_at_a_graph_input() -> None:
    text = "g (float[N, 4, 8, 8] c) => (float[N, 4, 8, 8] y) { " + BN + " }"
    refused(build(text, batchnorm(4)), "no Conv, ConvTranspose or Gemm comes before it")


def test_refused_after_a_layer_of_another_domain() -> None:
    proto = conv(f"c = com.test.Conv(x, w) {BN}")
    refused(proto, "no Conv, ConvTranspose or Gemm comes before it")


def test_normalizations_of_another_domain_are_not_looked_at() -> None:
    proto = conv("c = Conv(x, w) y = com.test.BatchNormalization(c, g, b, m, v)")
    report, result = folded(proto)
    assert report == PassReport(name="fold_batchnorm")
    assert result == proto


def test_nothing_to_do() -> None:
    proto = conv("y = Conv(x, w)")
    report, result = folded(proto)
    assert report == PassReport(name="fold_batchnorm")
    assert result == proto
