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


# --- folded into the layer behind

BEHIND = {
    "conv": ("y = Conv(n, w)", (5, 4, 3, 3)),
    "conv with bias": ("y = Conv(n, w, bias)", (5, 4, 3, 3)),
    "grouped conv": ("y = Conv<group = 2>(n, w6, bias6)", (5, 4, 3, 3)),
    "depthwise conv": ("y = Conv<group = 4>(n, w8)", (5, 4, 3, 3)),
    "strided, dilated conv": (
        "y = Conv<strides = [2, 1], dilations = [1, 2], pads = [0, 0, 0, 0]>(n, w, bias)",
        (5, 4, 3, 3),
    ),
    "conv, valid": ('y = Conv<auto_pad = "VALID">(n, w)', (5, 4, 3, 3)),
    "conv transpose that mixes channels": ("y = ConvTranspose(n, w, bias)", (4, 5, 1, 1)),
    "grouped conv transpose that mixes channels": (
        "y = ConvTranspose<group = 2>(n, w, bias6)",
        (4, 3, 1, 1),
    ),
}


@pytest.mark.parametrize("layer", BEHIND)
def test_folding_into_the_layer_behind_keeps_the_function(layer: str) -> None:
    body, shape = BEHIND[layer]
    proto = build(
        f"""net (float[N, 4, 8, 8] x) => (float[N, o, h, k] y)
        {{ a = Abs(x) n = BatchNormalization<epsilon = 0.01>(a, g, b, m, v) {body} }}""",
        {
            "w": shape,
            "w6": (6, 2, 3, 3),
            "w8": (8, 1, 3, 3),
            "bias": (5,),
            "bias6": (6,),
            **batchnorm(4),
        },
    )
    report, result = folded(proto)
    assert report == PassReport(name="fold_batchnorm", changed=("BatchNormalization(n)",))
    assert ops(result) == ["Abs", proto.graph.node[-1].op_type]
    assert_same_function(proto, result)


@pytest.mark.parametrize("layer", ["Gemm(n, w)", "Gemm(n, w, bias)", "Gemm<transB = 1>(n, wt)"])
def test_a_gemm_behind(layer: str) -> None:
    text = f"""net (float[N, 4] x) => (float[N, 5] y)
    {{ n = BatchNormalization(x, g, b, m, v) y = {layer} }}"""
    proto = build(text, {"w": (4, 5), "wt": (5, 4), "bias": (5,), **batchnorm(4)})
    report, result = folded(proto)
    assert report.modified
    assert ops(result) == ["Gemm"]
    assert_same_function(proto, result)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        ("Conv<pads = [1, 1, 1, 1]>(n, w)", (5, 4, 3, 3)),
        ('Conv<auto_pad = "SAME_UPPER">(n, w)', (5, 4, 3, 3)),
        ("ConvTranspose<strides = [2, 2]>(n, w)", (4, 5, 3, 3)),
        ("ConvTranspose<group = 2>(n, w)", (4, 3, 3, 3)),
    ],
)
def test_without_a_shift_padding_does_no_harm(layer: str, shape: tuple[int, ...]) -> None:
    text = f"""net (float[N, 4, 8, 8] x) => (float[N, o, h, k] y)
    {{ n = BatchNormalization(x, g, zero, zero, v) y = {layer} }}"""
    proto = build(text, {"w": shape, "zero": np.zeros(4, np.float32), **batchnorm(4)})
    report, result = folded(proto)
    assert report.modified
    assert_same_function(proto, result)


def test_the_layer_before_is_taken_first() -> None:
    text = f"""net (float[N, 3, 8, 8] x) => (float[N, 5, 4, 4] z)
    {{ c = Conv(x, w) {BN} z = Conv(y, k) }}"""
    proto = build(text, {"w": (4, 3, 3, 3), "k": (5, 4, 3, 3), **batchnorm(4)})
    _, result = folded(proto)
    assert result.graph.node[1] == proto.graph.node[2]
    assert_same_function(proto, result)


def test_the_layer_behind_is_taken_where_the_one_before_refuses() -> None:
    text = f"""net (float[N, 3, 8, 8] x) => (float[N, 5, 4, 4] z, float[N, 4, 6, 6] c)
    {{ c = Conv(x, w) {BN} z = Conv(y, k) }}"""
    proto = build(text, {"w": (4, 3, 3, 3), "k": (5, 4, 3, 3), **batchnorm(4)})
    report, result = folded(proto)
    assert report.modified
    assert not report.skipped
    assert result.graph.node[0] == proto.graph.node[0]
    assert_same_function(proto, result)


def test_two_in_a_row_go_to_either_side() -> None:
    text = f"""net (float[N, 3, 8, 8] x) => (float[N, 5, 4, 4] z)
    {{ c = Conv(x, w) {BN} n = BatchNormalization(y, hg, hb, hm, hv) z = Conv(n, k) }}"""
    weights = {"w": (4, 3, 3, 3), "k": (5, 4, 3, 3), **batchnorm(4), **batchnorm(4, 1, "h")}
    proto = build(text, weights)
    report, result = folded(proto)
    assert len(report.changed) == 2
    assert ops(result) == ["Conv", "Conv"]
    assert_same_function(proto, result)


# --- refused


@pytest.mark.parametrize("other", ["z = Conv(x, w, bias)", "z = Conv(x, w)"])
def test_refused_when_another_layer_has_the_same_weights(other: str) -> None:
    text = f"""net (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y, float[N, 4, 6, 6] z)
    {{ c = Conv(x, w, bias) {BN} {other} }}"""
    proto = build(text, {"w": (4, 3, 3, 3), "bias": (4,), **batchnorm(4)})
    refused(proto, "another layer has the same weights")


def test_refused_when_a_subgraph_has_the_same_weights() -> None:
    text = f"""net (float[N, 3, 8, 8] x, bool t) => (float[N, 4, 6, 6] y, float[N, 4, 6, 6] z) {{
        c = Conv(x, w)
        {BN}
        z = If(t) <
            then_branch = yes () => (float[N, 4, 6, 6] p) {{ p = Conv(x, w) }},
            else_branch = no () => (float[N, 4, 6, 6] q) {{ q = Neg(y) }}
        >
    }}"""
    proto = build(text, {"w": (4, 3, 3, 3), **batchnorm(4)})
    refused(proto, "another layer has the same weights")


def test_a_shared_bias_is_no_hindrance() -> None:
    text = f"""net (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y, float[N, 4, 6, 6] z)
    {{ c = Conv(x, w, bias) {BN} z = Conv(x, k, bias) }}"""
    proto = build(text, {"w": (4, 3, 3, 3), "k": (4, 3, 3, 3), "bias": (4,), **batchnorm(4)})
    report, result = folded(proto)
    assert report.modified
    plain = next(node for node in result.graph.node if node.output[0] == "z")
    assert list(plain.input) == ["x", "k", "bias"]
    assert_same_function(proto, result)


REFUSED_BEHIND = {
    "Conv<pads = [1, 1, 1, 1]>(n, w)": ((5, 4, 3, 3), "every output position alike"),
    'Conv<auto_pad = "SAME_LOWER">(n, w)': ((5, 4, 3, 3), "every output position alike"),
    "ConvTranspose(n, w)": ((4, 5, 3, 3), "every output position alike"),
    "ConvTranspose<strides = [2, 2]>(n, w)": ((4, 5, 1, 1), "every output position alike"),
    "ConvTranspose<output_padding = [1, 1], strides = [2, 2]>(n, w)": (
        (4, 5, 1, 1),
        "every output position alike",
    ),
    "Conv(n, abs)": ((5, 4, 3, 3), "not constant"),
    "Conv(w, n)": ((5, 4, 3, 3), "not constant"),
}


@pytest.mark.parametrize("layer", REFUSED_BEHIND)
def test_refused_in_front_of_a_layer(layer: str) -> None:
    shape, reason = REFUSED_BEHIND[layer]
    text = f"""net (float[2, 4, 3, 3] x) => (float[s, o, h, k] y)
    {{ abs = Abs(raw) n = BatchNormalization(x, g, b, m, v) y = {layer} }}"""
    refused(build(text, {"w": shape, "raw": shape, **batchnorm(4)}), reason)


def test_refused_in_front_of_a_gemm_that_transposes() -> None:
    text = """net (float[4, 4] x) => (float[4, 5] y)
    { n = BatchNormalization(x, g, b, m, v) y = Gemm<transA = 1>(n, w) }"""
    refused(build(text, {"w": (4, 5), **batchnorm(4)}), "transposes its input")


def test_refused_when_not_only_the_layer_behind_reads_it() -> None:
    text = """net (float[N, 4, 8, 8] x) => (float[N, 5, 6, 6] y, float[N, 4, 8, 8] z)
    { n = BatchNormalization(x, g, b, m, v) y = Conv(n, w) z = Neg(n) }"""
    refused(build(text, {"w": (5, 4, 3, 3), **batchnorm(4)}), "not only the layer behind it")


def test_refused_when_the_layer_behind_is_in_a_subgraph() -> None:
    text = """net (float[N, 4, 8, 8] x, bool t) => (float[N, 4, 8, 8] z) {
        n = BatchNormalization(x, g, b, m, v)
        z = If(t) <
            then_branch = yes () => (float[N, 4, 8, 8] p) { p = Conv(n, w) },
            else_branch = no () => (float[N, 4, 8, 8] q) { q = Identity(x) }
        >
    }"""
    refused(build(text, {"w": (4, 4, 1, 1), **batchnorm(4)}), "in a subgraph")


def test_both_reasons_are_told() -> None:
    text = f"""net (float[N, 3, 8, 8] x) => (float[N, 5, 6, 6] z, float[N, 4, 6, 6] c)
    {{ c = Conv(x, w) {BN} z = Conv<pads = [1, 1, 1, 1]>(y, k) }}"""
    proto = build(text, {"w": (4, 3, 3, 3), "k": (5, 4, 3, 3), **batchnorm(4)})
    refused(proto, "other readers; what it adds does not reach every output position alike")


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
