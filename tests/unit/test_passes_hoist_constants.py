import numpy as np
import onnx
import pytest

from onnxq.graph.io import Constant, Model, array_of, from_proto, sync
from onnxq.passes import PassReport
from onnxq.passes.hoist_constants import hoist_constants
from tests.graphs import assert_same_function, build, copy, initializers, ops


def hoisted(proto: onnx.ModelProto) -> tuple[PassReport, onnx.ModelProto, Model]:
    model = from_proto(copy(proto))
    report = hoist_constants(model)
    result = sync(model)
    onnx.checker.check_model(result)
    return report, result, model


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("value = float[2, 1] {1.0, 2.0}", np.array([[1], [2]], np.float32)),
        ("value_float = 0.5", np.array(0.5, np.float32)),
        ("value_floats = [0.5, 2.0]", np.array([0.5, 2], np.float32)),
        ("value_int = 3", np.array(3, np.int64)),
        ("value_ints = [3, 4]", np.array([3, 4], np.int64)),
    ],
)
def test_every_dense_form_becomes_an_initializer(value: str, expected: np.ndarray) -> None:
    kind = "float" if expected.dtype == np.float32 else "int64"
    proto = build(
        f"g ({kind}[2, 2] x) => ({kind}[2, 2] y) {{ k = Constant<{value}>() y = Add(x, k) }}"
    )
    report, result, model = hoisted(proto)
    assert report == PassReport(name="hoist_constants", changed=("Constant(k)",))
    assert ops(result) == ["Add"]
    found = initializers(result)["k"]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)
    constant = model.graph.nodes[0].inputs[1]
    assert isinstance(constant, Constant)
    np.testing.assert_array_equal(array_of(constant), expected)
    assert_same_function(proto, result)


def test_an_empty_list_keeps_its_type() -> None:
    text = (
        "g (float[N] x) => (float r) { k = Constant<value_ints: ints = []>() r = ReduceSum(x, k) }"
    )
    _, result, _ = hoisted(build(text))
    found = initializers(result)["k"]
    assert (found.dtype, found.shape) == (np.int64, (0,))


def test_a_graph_output_is_refused() -> None:
    proto = build("""g (float[2] x) => (float[2] y, float[2] k)
        { k = Constant<value = float[2] {1.0, 2.0}>() y = Add(x, k) }""")
    report, result, _ = hoisted(proto)
    assert report.skipped == (("Constant(k)", "it is a graph output"),)
    assert not report.modified
    assert result == proto


def test_strings_and_sparse_values_are_refused() -> None:
    proto = build("""g (float[2] x) => (float[2] y, string s)
        { k = Constant<value = float[2] {1.0, 2.0}>() y = Add(x, k)
          t = Constant<value_string = "a">() s = Identity(t) }""")
    values = onnx.numpy_helper.from_array(np.array([4], np.float32), "v")
    indices = onnx.numpy_helper.from_array(np.array([1], np.int64), "i")
    sparse = onnx.helper.make_sparse_tensor(values, indices, [2])
    constant = proto.graph.node[0]
    constant.attribute[0].CopyFrom(onnx.helper.make_attribute("sparse_value", sparse))
    report, result, _ = hoisted(proto)
    assert report.changed == ()
    assert dict(report.skipped) == {
        "Constant(k)": "it holds no dense tensor",
        "Constant(t)": "it holds no dense tensor",
    }
    assert result == proto


@pytest.mark.parametrize("readers", ["subgraph only", "both"])
def test_a_constant_that_a_subgraph_captures(readers: str) -> None:
    text = """g (float[N, 4] x, bool c) => (float[N, 4] y) {
        k = Constant<value = float[4] {1.0, 2.0, 3.0, 4.0}>()
        t = OP
        y = If(c) <
            then_branch = yes () => (float[N, 4] a) { a = Add(t, k) },
            else_branch = no () => (float[N, 4] b) { b = Sub(t, k) }
        >
    }""".replace("OP", "Mul(x, k)" if readers == "both" else "Relu(x)")
    proto = build(text)
    report, result, _ = hoisted(proto)
    assert report.changed == ("Constant(k)",)
    assert list(initializers(result)) == ["k"]
    assert_same_function(proto, result)


def test_constants_inside_subgraphs_stay() -> None:
    proto = build("""g (float[N, 2] x, bool c) => (float[N, 2] y) {
        y = If(c) <
            then_branch = yes () => (float[N, 2] a) {
                k = Constant<value = float[2] {1.0, 2.0}>()
                a = Add(x, k)
            },
            else_branch = no () => (float[N, 2] b) { b = Neg(x) }
        >
    }""")
    report, result, _ = hoisted(proto)
    assert not report.modified
    assert result == proto


def test_labels_name_the_constant() -> None:
    proto = build("""g (float[2] x) => (float[2] y)
        { k = Constant<value = float[2] {1.0, 2.0}>() l = Constant<value_float = 2.0>()
          m = Add(k, l) y = Add(x, m) }""")
    proto.graph.node[0].name = "/const"
    report, _, _ = hoisted(proto)
    assert report.changed == ("/const", "Constant(l)")


def test_before_ir_4_the_ir_version_is_raised() -> None:
    proto = build(
        """g (float[2] x) => (float[2] y)
        { k = Constant<value = float[2] {1.0, 2.0}>() y = Add(x, k) }""",
        opset=8,
        ir=3,
    )
    _, result, _ = hoisted(proto)
    assert result.ir_version == 4
    assert [value.name for value in result.graph.input] == ["x"]
    assert_same_function(proto, result)


def test_values_keep_their_bytes() -> None:
    proto = build(
        """g (float[2] x) => (float[2] y)
        { k = Constant<value = float[2] {1.0, 2.0}>() y = Add(x, k) }"""
    )
    tensor = proto.graph.node[0].attribute[0].t
    tensor.ClearField("float_data")
    tensor.raw_data = np.array([1, np.nan], np.float32).tobytes()
    tensor.doc_string = "about k"
    _, result, _ = hoisted(proto)
    kept = result.graph.initializer[0]
    assert (kept.raw_data, kept.doc_string, kept.name) == (tensor.raw_data, "about k", "k")


def test_a_constant_nobody_reads_goes() -> None:
    proto = build("""g (float[2] x) => (float[2] y)
        { k = Constant<value = float[2] {1.0, 2.0}>() y = Relu(x) }""")
    report, result, _ = hoisted(proto)
    assert report.modified
    assert ops(result) == ["Relu"]
    assert_same_function(proto, result)
