import numpy as np
import onnx
import pytest

from onnxq.errors import UnsupportedError
from onnxq.graph.io import Model, from_proto
from onnxq.graph.opset import lowest_onnxruntime, raise_ir, raise_opset
from onnxq.graph.query import activation_bounds
from tests.graphs import assert_same_function, build, copy, initializers, ops

NET = """
net (float[N, 3, 8, 8] x) => (float[N, 8] z)
{
    c = Conv<pads = [1, 1, 1, 1]>(x, w, b)
    r = Relu(c)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    z = Gemm<transB = 1>(f, v, d)
}
"""
WEIGHTS = {"w": (48, 3, 3, 3), "b": (48,), "v": (8, 48), "d": (8,)}


def raised(proto: onnx.ModelProto, minimum: int) -> onnx.ModelProto:
    return raise_opset(from_proto(copy(proto)), minimum).proto


def standard(proto: onnx.ModelProto) -> list[int]:
    return [o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")]


def described(opset: int) -> onnx.ModelProto:
    """A model with a description on everything the converter would drop."""
    proto = build(NET, WEIGHTS | {"unused": (2000,)}, opset=opset)
    graph = proto.graph
    graph.value_info.append(onnx.helper.make_tensor_value_info("c", 1, ["N", 48, 8, 8]))
    messages = (proto, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input)
    for number, message in enumerate(messages):
        message.metadata_props.add(key=f"key{number}", value="kept")
        message.doc_string = f"about {number}"
    for node in graph.node:
        node.name = f"node of {node.output[0]}"
    annotation = graph.quantization_annotation.add(tensor_name="r")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="unused")
    proto.producer_name, proto.producer_version, proto.domain = "maker", "1", "org.maker"
    proto.model_version = 3
    return proto


def normal(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The message without what may differ: versions, and fields set to their defaults."""
    plain = copy(proto)
    plain.ClearField("ir_version")
    plain.ClearField("opset_import")
    for node in plain.graph.node:
        if not node.domain:
            node.ClearField("domain")
    return plain


@pytest.mark.parametrize(("before", "after"), [(11, 13), (12, 13), (13, 21), (9, 10), (7, 13)])
def test_raising_keeps_all_but_the_version(before: int, after: int) -> None:
    proto = described(before)
    result = raised(proto, after)
    assert standard(result) == [after]
    known = [value for value in result.graph.value_info if value.name == "c"]
    del result.graph.value_info[:]  # the converter adds what it inferred
    result.graph.value_info.extend(known)
    assert normal(result) == normal(proto)
    onnx.checker.check_model(result, full_check=True)
    assert_same_function(proto, result)


def test_raising_keeps_the_bounds_of_a_clip_as_constants() -> None:
    text = "g (float[N, 4] x) => (float[N, 4] y) { y = Clip<min = 0.0, max = 6.0>(x) }"
    proto = build(text, opset=9, ir=4)
    model = raise_opset(from_proto(copy(proto)), 13)
    assert activation_bounds(model.graph.nodes[0]) == (0, 6)
    assert_same_function(proto, model.proto)


@pytest.mark.parametrize("minimum", [1, 12, 13])
def test_a_model_high_enough_is_left_alone(minimum: int) -> None:
    model = from_proto(build(NET, WEIGHTS, opset=13))
    assert raise_opset(model, minimum) is model


def test_raising_rewrites_operators_that_changed() -> None:
    text = "g (float[2, 3, 1] x) => (float[2, 3] z) { s = Squeeze<axes = [2]>(x) z = Softmax(s) }"
    proto = build(text, opset=11)
    result = raised(proto, 13)
    squeeze = result.graph.node[0]
    assert squeeze.op_type == "Squeeze"
    assert initializers(result)[squeeze.input[1]].tolist() == [2]
    onnx.checker.check_model(result, full_check=True)
    assert_same_function(proto, result)


def test_weights_keep_their_bytes_and_their_order() -> None:
    proto = build(NET, WEIGHTS, opset=11)
    result = raised(proto, 13)
    assert list(result.graph.initializer) == list(proto.graph.initializer)


def test_raising_keeps_digest_and_path() -> None:
    model = from_proto(build(NET, WEIGHTS, opset=11))
    model.sha256 = "abc"
    result = raise_opset(model, 13)
    assert (result.sha256, result.path) == ("abc", model.path)
    assert result.opset == 13


def test_raising_keeps_subgraphs_that_capture_weights() -> None:
    text = """g (float[N, 64] x, bool c) => (float[N, 64] y) {
        t = Relu(x)
        y = If(c) <
            then_branch = yes () => (float[N, 64] a) { a = MatMul(t, w) },
            else_branch = no () => (float[N, 64] b) { b = Add(t, s) }
        >
    }"""
    proto = build(text, {"w": (64, 64), "s": (64,)}, opset=11)
    result = raised(proto, 13)
    onnx.checker.check_model(result)
    assert_same_function(proto, result)


def test_raising_keeps_weights_that_are_inputs_too() -> None:
    proto = build(NET, WEIGHTS, opset=8, ir=3)
    result = raised(proto, 13)
    assert [value.name for value in result.graph.input] == ["x", *WEIGHTS]
    onnx.checker.check_model(result)
    assert_same_function(proto, result)


def test_raising_keeps_other_domains() -> None:
    text = "g (float[N] x) => (float[N] y) { r = Relu(x) y = com.test.Custom<k = 2>(r) }"
    proto = build(text, opset=11)
    result = raised(proto, 13)
    assert {o.domain: o.version for o in result.opset_import} == {"": 13, "com.test": 1}
    assert result.graph.node[1].attribute == proto.graph.node[1].attribute


def test_raising_keeps_local_functions_that_mean_the_same() -> None:
    text = """g (float[N] x) => (float[N] y) { y = com.test.twice(x) }
    <domain: "com.test", opset_import: ["" : 13]> twice (v) => (d) { d = Sin(v) }"""
    proto = build(text, opset=13)
    result = raised(proto, 21)
    assert list(result.functions) == list(proto.functions)
    onnx.checker.check_model(result)
    assert_same_function(proto, result)


def test_local_functions_of_an_older_operator_set_are_refused() -> None:
    text = """g (float[N] x) => (float[N] y) { y = com.test.twice(x) }
    <domain: "com.test", opset_import: ["" : 13]> twice (v) => (d) { d = Add(v, v) }"""
    with pytest.raises(UnsupportedError, match="opset 13 cannot be raised to 21") as caught:
        raised(build(text, opset=13), 21)
    assert "\n" not in str(caught.value)


def test_small_types_pass_through() -> None:
    import ml_dtypes  # noqa: PLC0415

    weights = {
        "i4": np.arange(-8, 8).astype(ml_dtypes.int4),
        "f8": np.ones(2000, ml_dtypes.float8_e4m3fn),
        "bf": np.ones(3, ml_dtypes.bfloat16),
    }
    proto = build("g (float[N] x) => (float[N] y) { y = Relu(x) }", weights, opset=13, ir=10)
    result = raised(proto, 21)
    assert list(result.graph.initializer) == list(proto.graph.initializer)
    assert initializers(result)["i4"].astype(int).tolist() == list(range(-8, 8))


def test_what_cannot_be_raised_says_what_to_do() -> None:
    text = "g (float[1, 1, 2, 2] x) => (float[1, 1, 4, 4] y) { y = Upsample(x, s) }"
    proto = build(text, {"s": np.array([1, 1, 2, 2], np.float32)}, opset=9)
    model = Model(
        graph=from_proto(copy(proto)).graph, proto=proto, path=from_proto(proto).path, sha256=""
    )
    model.proto.graph.node[0].op_type = "NoSuchOperator"
    for node in model.graph.nodes:
        node.origin.op_type = "NoSuchOperator"
    with pytest.raises(UnsupportedError, match="export the model at opset 13") as caught:
        raise_opset(model, 13)
    assert "\n" not in str(caught.value)


# --- IR version


@pytest.mark.parametrize(
    ("opset", "ir", "expected"),
    [(13, 3, 7), (13, 7, 7), (13, 8, 8), (12, 7, 7), (21, 8, 10), (21, 10, 10), (10, 4, 5)],
)
def test_ir_is_raised_as_far_as_the_operator_set_needs(opset: int, ir: int, expected: int) -> None:
    proto = build(NET, WEIGHTS, opset=opset)
    proto.ir_version = ir
    raise_ir(proto)
    assert proto.ir_version == expected


def test_ir_is_raised_as_far_as_asked() -> None:
    proto = build(NET, WEIGHTS, opset=13, ir=8)
    raise_ir(proto, 10)
    assert proto.ir_version == 10
    raise_ir(proto, 9)
    assert proto.ir_version == 10


@pytest.mark.parametrize(("before", "ir", "after", "expected"), [(11, 6, 13, 7), (13, 8, 21, 10)])
def test_raising_raises_the_ir_version(before: int, ir: int, after: int, expected: int) -> None:
    proto = build(NET, WEIGHTS, opset=before, ir=ir)
    assert raised(proto, after).ir_version == expected


def test_other_domains_do_not_decide_the_ir_version() -> None:
    proto = build("g (float[N] x) => (float[N] y) { y = com.test.Custom(x) }", opset=13, ir=7)
    proto.opset_import[1].version = 99
    raise_ir(proto)
    assert proto.ir_version == 7


@pytest.mark.parametrize(
    ("opset", "release"), [(7, "1.0"), (10, "1.0"), (13, "1.6"), (21, "1.18"), (99, "opset 99")]
)
def test_lowest_onnxruntime(opset: int, release: str) -> None:
    assert release in lowest_onnxruntime(opset)


def test_raised_models_keep_operator_order() -> None:
    proto = build(NET, WEIGHTS, opset=11)
    assert ops(raised(proto, 13)) == ops(proto)
