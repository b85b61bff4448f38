import numpy as np
import onnx
import pytest

from onnxq.graph.io import from_proto, sync
from onnxq.passes import PassReport
from onnxq.passes.inline_ifs import inline_ifs
from onnxq.passes.prepare import prepare
from tests.graphs import Weights, assert_same_function, build, copy, initializers, ops, run

YES, NO = np.array(True), np.array([False])


def graph(
    body: str, weights: Weights | None = None, *, inputs: str = "", outputs: str = ""
) -> onnx.ModelProto:
    extra = f", {inputs}" if inputs else ""
    more = f", {outputs}" if outputs else ""
    text = f"g (float[N, 4] x{extra}) => (float[N, 4] y{more}) {{ {body} }}"
    return build(text, {"yes": YES, "no": NO, **(weights or {})})


def inlined(proto: onnx.ModelProto) -> tuple[PassReport, onnx.ModelProto]:
    """Apply the pass; whatever it does, the result is valid and computes the same."""
    model = from_proto(copy(proto))
    report = inline_ifs(model)
    result = copy(sync(model))
    onnx.checker.check_model(result, full_check=True)
    assert_same_function(proto, result)
    for a, b in zip(run(proto), run(result), strict=True):
        np.testing.assert_array_equal(a, b)
    again = inline_ifs(model)
    assert (again.changed, again.skipped) == ((), report.skipped)
    assert sync(model) == result
    return report, result


BOTH = """a = Relu(x)
    y = If(CONDITION) <
        then_branch = t () => (float[N, 4] p) { q = Mul(a, x) p = Add(q, w) },
        else_branch = e () => (float[N, 4] p) { q = Sub(x, v) p = Neg(q) }
    >"""


@pytest.mark.parametrize(
    ("condition", "operators", "weight"),
    [("yes", ["Relu", "Mul", "Add"], "w"), ("no", ["Sub", "Neg"], "v")],
)
def test_the_branch_taken_stays_and_what_the_other_read_goes(
    condition: str, operators: list[str], weight: str
) -> None:
    proto = graph(BOTH.replace("CONDITION", condition), {"w": (4,), "v": (4,)})
    report, result = inlined(proto)
    assert report.changed[0] == "If(y)"
    assert report.changed[1:] == (() if condition == "yes" else ("Relu(a)",))
    assert ops(result) == operators
    assert set(initializers(result)) - {"yes", "no"} == {weight}
    assert condition not in initializers(result)
    assert [name for node in result.graph.node for name in node.output][-2:] == ["q", "y"]


def test_a_condition_computed_at_run_time_is_refused() -> None:
    proto = graph(BOTH.replace("CONDITION", "c"), {"w": (4,), "v": (4,)}, inputs="bool c")
    report, result = inlined(proto)
    assert report == PassReport(
        name="inline_ifs", skipped=(("If(y)", "its condition is not constant"),)
    )
    assert result == proto


def test_a_condition_the_user_may_give_is_refused() -> None:
    proto = graph(BOTH.replace("CONDITION", "no"), {"w": (4,), "v": (4,)}, inputs="bool[1] no")
    report, result = inlined(proto)
    assert report.skipped == (("If(y)", "its condition is an input too"),)
    assert result == proto


def test_before_ir_4_every_constant_is_an_input_and_none_may_be_given() -> None:
    text = f"g (float[N, 4] x) => (float[N, 4] y) {{ {BOTH.replace('CONDITION', 'no')} }}"
    proto = build(text, {"no": NO, "w": (4,), "v": (4,)}, opset=8, ir=3)
    report, result = inlined(proto)
    assert report.modified
    assert [value.name for value in result.graph.input] == ["x", "v"]


@pytest.mark.parametrize("values", [np.ones(2, bool), np.ones(0, bool)])
def test_a_condition_of_several_elements_or_none_is_refused(values: np.ndarray) -> None:
    model = from_proto(graph(BOTH.replace("CONDITION", "m"), {"m": values, "w": (4,), "v": (4,)}))
    assert inline_ifs(model).skipped == (("If(y)", "its condition is not one element"),)


def test_an_output_left_out_is_refused() -> None:
    proto = graph("""y = If(yes) <
        then_branch = t () => (float[N, 4] p) { p = Neg(x) },
        else_branch = e () => (float[N, 4] p) { p = Exp(x) }
    >""")
    proto.graph.node[0].output.insert(0, "")
    for attribute in proto.graph.node[0].attribute:
        attribute.g.output.append(attribute.g.output[0])
    assert inline_ifs(from_proto(proto)).skipped == (("If()", "it leaves an output out"),)


NESTED = """y = If(yes) <
    then_branch = t () => (float[N, 4] p) {
        a = Relu(x)
        n = If(no) <
            then_branch = tt () => (float[N, 4] q) { q = Neg(a) },
            else_branch = te () => (float[N, 4] q) { a2 = Exp(a) q = Mul(a2, x) }
        >
        r = If(c) <
            then_branch = rt () => (float[N, 4] s) { b = Add(a, n) s = Neg(b) },
            else_branch = re () => (float[N, 4] s) { b = Sub(a, k) s = Neg(b) }
        >
        p = Add(r, n)
    },
    else_branch = e () => (float[N, 4] z) { z = Neg(x) }
> b = Relu(y)"""


@pytest.mark.parametrize("given", [True, False])
def test_nested_ifs(given: bool) -> None:
    proto = graph(NESTED, {"k": (4,), "c": np.array(given)}, outputs="float[N, 4] b")
    report, result = inlined(proto)
    assert report.changed[:3] == ("If(y)", "If(n)", "If(r)")
    assert ops(result) == ["Relu", "Exp", "Mul", "Add" if given else "Sub", "Neg", "Add", "Relu"]
    assert ("k" in initializers(result)) == (not given)


def test_an_if_at_run_time_inside_stays_and_still_captures() -> None:
    proto = graph(NESTED, {"k": (4,)}, inputs="bool c", outputs="float[N, 4] b")
    report, result = inlined(proto)
    assert report.skipped == (("If(r)", "its condition is not constant"),)
    assert ops(result) == ["Relu", "Exp", "Mul", "If", "Add", "Relu"]


def test_names_that_exist_elsewhere_get_a_number() -> None:
    body = """y = If(yes) <
        then_branch = t () => (float[N, 4] p) <float[4] k = {1.0, 2.0, 3.0, 4.0}> {
            q = Mul(x, k)
            q_2 = Relu(q)
            n = If(c) <
                then_branch = tt () => (float[N, 4] u) { u = Sub(q, q_2) },
                else_branch = te () => (float[N, 4] u) <float[4] k = {0.0, 0.0, 1.0, 0.0}>
                    { u = Sub(k, q_2) }
            >
            p = Add(n, k)
        },
        else_branch = e () => (float[N, 4] q) { q = Neg(x) }
    >
    z = If(no) <
        then_branch = t () => (float[N, 4] p) { p = Neg(x) },
        else_branch = e () => (float[N, 4] p) { q = Mul(x, k) p = Relu(q) }
    >
    q = Add(z, y)"""
    more = "float[N, 4] z, float[N, 4] q"
    proto = graph(body, {"k": (4,)}, inputs="bool c", outputs=more)
    for attribute in (*proto.graph.node[0].attribute, *proto.graph.node[1].attribute):
        attribute.g.node[0].name = "same"
    report, result = inlined(proto)
    assert report.changed == ("If(y)", "If(z)")
    made = [name for node in result.graph.node for name in node.output]
    assert made == ["q_3", "q_2", "n", "y", "q_4", "z", "q"]
    assert [node.name for node in result.graph.node] == ["same", "", "", "", "same_2", "", ""]
    assert set(initializers(result)) >= {"k", "k_2"}


def test_the_name_of_the_output_may_exist_in_the_branch() -> None:
    body = """y = If(yes) <
        then_branch = t () => (float[N, 4] NAME) { y = Neg(x) z = Relu(y) },
        else_branch = e () => (float[N, 4] p) { p = Neg(x) }
    > z = Exp(y)"""
    for name in ("y", "z"):
        _, result = inlined(graph(body.replace("NAME", name), outputs="float[N, 4] z"))
        assert ops(result) == ["Neg", "Exp"] if name == "y" else ["Neg", "Relu", "Exp"]


def test_the_name_of_the_output_may_exist_in_a_body_of_the_branch() -> None:
    body = """y, z = If(yes) <
        then_branch = t () => (float[N, 4] p, float[N, 4] n) {
            p = Neg(x)
            n = If(c) <
                then_branch = tt () => (float[N, 4] u) { y = Exp(p) u = Neg(y) },
                else_branch = te () => (float[N, 4] u) { u = Relu(p) }
            >
        },
        else_branch = e () => (float[N, 4] p, float[N, 4] n) { p = Neg(x) n = Neg(p) }
    >"""
    _, result = inlined(graph(body, inputs="bool c", outputs="float[N, 4] z"))
    assert ops(result) == ["Neg", "If"]
    branch = result.graph.node[1].attribute[0].g
    assert [node.output[0] for node in branch.node] == ["y_2", "u_2"]


def test_an_output_that_is_a_constant_or_returned_twice_is_copied() -> None:
    body = """y, k, z = If(yes) <
        then_branch = t () => (float[N, 4] p, float[2] own, float[N, 4] p)
            <float[2] own = {1.0, 2.0}> { p = Neg(x) },
        else_branch = e () => (float[N, 4] p, float[2] o, float[N, 4] r)
            <float[2] o = {1.0, 3.0}> { p = Neg(x) r = Exp(x) }
    >"""
    proto = graph(body, outputs="float[2] k, float[N, 4] z")
    model = from_proto(copy(proto))
    inline_ifs(model)
    result = sync(model)
    onnx.checker.check_model(result, full_check=True)
    assert ops(result) == ["Neg", "Identity", "Identity"]
    x = np.ones((2, 4), np.float32)
    y, k, z = run(result, {"x": x})  # of the original, onnxruntime returns no z
    for found, expected in ((y, -x), (k, [1, 2]), (z, -x)):
        np.testing.assert_array_equal(found, expected)


def test_what_describes_the_branch_comes_along() -> None:
    proto = graph(
        """y = If(yes) <
        then_branch = t () => (float[N, 4] p) <float[4] s = {0.0, 0.0, 1.0, 0.0}>
            { q = Mul(x, s) p = Relu(q) },
        else_branch = e () => (float[N, 4] q) { s = Neg(x) q = Relu(s) }
    > s = Exp(x)""",
        outputs="float[N, 4] s",
    )
    branch = next(a.g for a in proto.graph.node[0].attribute if a.name == "then_branch")
    values = onnx.numpy_helper.from_array(np.array([4], np.float32), "v")
    indices = onnx.numpy_helper.from_array(np.array([1], np.int64), "i")
    branch.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [4]))
    kind = onnx.helper.make_tensor_value_info("q", onnx.TensorProto.FLOAT, ["N", 4])
    branch.value_info.append(kind)
    annotation = branch.quantization_annotation.add(tensor_name="q")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    branch.node[0].name, branch.node[0].doc_string = "mul", "about it"
    branch.node[0].metadata_props.add(key="k", value="kept")
    report, result = inlined(proto)
    assert report.changed == ("If(y)",)
    mul = next(node for node in result.graph.node if node.op_type == "Mul")
    assert (mul.name, mul.doc_string, mul.metadata_props[0].value) == ("mul", "about it", "kept")
    assert list(mul.input) == ["x", "s_2"]
    assert [tensor.values.name for tensor in result.graph.sparse_initializer] == ["v"]
    assert list(result.graph.value_info) == [kind]
    (found,) = result.graph.quantization_annotation
    assert found.tensor_name == "q"
    assert found.quant_parameter_tensor_names[0].value == "s_2"


def test_constants_of_a_branch_reach_the_other_passes() -> None:
    """The condition inside is a Constant node: hoisting and folding must come round again."""
    proto = graph("""y = If(yes) <
        then_branch = t () => (float[N, 4] p) {
            one = Constant<value = float {1.0}>()
            two = Add(one, one)
            c = Less(one, two)
            p = If(c) <
                then_branch = tt () => (float[N, 4] q) { q = Mul(x, two) },
                else_branch = te () => (float[N, 4] r) { r = Neg(x) }
            >
        },
        else_branch = e () => (float[N, 4] z) { z = Neg(x) }
    >""")
    model = from_proto(copy(proto))
    reports = prepare(model)
    changed = [label for report in reports for label in report.changed if "If" in label]
    assert changed == ["If(y)", "If(y)"]
    assert ops(sync(model)) == ["Mul"]
    assert_same_function(proto, sync(model))
    assert not any(report.modified for report in prepare(model))
