"""The same questions to every structural pass, on the same models."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from onnxq.graph.io import Model, from_proto, sync
from onnxq.passes import PassReport
from onnxq.passes.prepare import STRUCTURAL, prepare
from tests.graphs import assert_same_function, batchnorm, build, copy

Pass = Callable[[Model], PassReport]

CONSTANTS = """net (float[N, 3, 8, 8] x, bool t) => (float[N, 3, 8, 8] y) {
    k = Constant<value = float[1] {2.0}>()
    l = Constant<value_float = 0.5>()
    a = Mul(x, k)
    y = If(t) <
        then_branch = yes () => (float[N, 3, 8, 8] p) { p = Add(a, l) },
        else_branch = no () => (float[N, 3, 8, 8] q) { q = Sub(a, k) }
    >
}"""
NORMS = """net (float[N, 3, 8, 8] x) => (float[N, 5] y, float[N, 4, 6, 6] d) {
    c = Conv(x, w)
    d = BatchNormalization(c, g, b, m, v)
    r = Relu(d)
    e = Conv<group = 2>(r, k, b)
    f = BatchNormalization(e, g, b, m, v)
    h = GlobalAveragePool(f)
    i = Flatten(h)
    j = Gemm(i, u)
    y = BatchNormalization(j, gg, gb, gm, gv)
}"""
NORMS_FIRST = """net (float[N, 4, 8, 8] x) => (float[N, 5] y, float[N, 4, 8, 8] n) {
    n = BatchNormalization(x, g, b, m, v)
    a = Sigmoid(n)
    z = BatchNormalization(a, g, b, m, v)
    o = BatchNormalization(z, g, b, m, v)
    c = Conv<group = 2>(o, k, b)
    r = Relu(c)
    p = BatchNormalization(r, g, b, m, v)
    t = ConvTranspose(p, s)
    f = Tanh(t)
    q = BatchNormalization(f, g, b, m, v)
    e = Conv<pads = [1, 1, 1, 1]>(q, w)
    h = GlobalAveragePool(e)
    i = Flatten(h)
    l = Relu(i)
    j = BatchNormalization(l, g, b, m, v)
    y = Gemm(j, u)
}"""
SHARED = """net (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y, float[N, 4, 6, 6] z) {
    c = Conv(x, w)
    y = BatchNormalization(c, g, b, m, v)
    d = Conv(x, w)
    z = BatchNormalization(d, b, g, m, v)
}"""
REFUSALS = """net (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y, float[2] k) {
    k = Constant<value = float[2] {1.0, 2.0}>()
    c = Conv(x, w)
    d = Relu(c)
    e = BatchNormalization(c, g, b, m, v)
    n = BatchNormalization(d, g, b, m, v)
    y = Add(n, e)
}"""
COMPUTED = """net (float[N, 3, 8, 8] x, bool t) => (float[N, 3, 8, 8] y, float[1] z) {
    k = Constant<value = float[1] {2.0}>()
    l = Exp(k)
    m = Add(l, k)
    z = Neg(m)
    a = Mul(x, l)
    y = If(t) <
        then_branch = yes () => (float[N, 3, 8, 8] p) { p = Add(a, m) },
        else_branch = no () => (float[N, 3, 8, 8] q) { q = Sub(a, m) }
    >
}"""
PADDED = """net (float[N, 3, 8, 8] x, bool t) => (float[N, 4, 9, 8] y, float[N, 4, 8, 8] z) {
    pads = Constant<value = int64[8] {0, 0, 1, 0, 0, 0, 2, 2}>()
    more = Constant<value = int64[8] {0, 0, 1, 1, 0, 0, 1, 1}>()
    a = Pad(x, pads)
    y = Conv(a, w)
    b = Pad(x, more)
    z = If(t) <
        then_branch = yes () => (float[N, 4, 8, 8] p) { p = Conv(b, w) },
        else_branch = no () => (float[N, 4, 8, 8] q) { q = Conv<auto_pad = "SAME_UPPER">(x, w) }
    >
}"""
FUNCTIONS = """net (float[N, 3] x) => (float[N, 4] y, float[N, 4] z) {
    y = com.test.dense(x, w)
    a = Relu(x)
    z = com.test.dense(a, w)
}
<domain: "com.test", opset_import: ["" : 13]>
dense (a, b) => (c) { m = MatMul(a, b) c = Relu(m) }"""
SHAPES = """net (float[N, 3, 8, 8] x, bool t) => (float[M, 3, 8, 8] y, int64[4] u) {
    r = Relu(x)
    s = Shape(r)
    d = Gather(s, one)
    c = Equal(d, one)
    u = If(t) <
        then_branch = yes () => (int64[4] p) { p = Mul(s, d) },
        else_branch = no () => (int64[4] q) { q = Sub(s, d) }
    >
    y = If(c) <
        then_branch = yes () => (float[N, 3, 8, 8] p) { p = Neg(r) },
        else_branch = no () => (float[N, 3, 8, 8] q) { q = Exp(r) }
    >
}"""
BRANCHES = """net (float[N, 3, 8, 8] x, bool t) => (float[N, 4, 6, 6] y, float[N, 4, 6, 6] e) {
    a = Relu(x)
    b = Sigmoid(x)
    y = If(true) <
        then_branch = yes () => (float[N, 4, 6, 6] p) <float[1] k = {2.0}> {
            q = Mul(a, k)
            c = Constant<value = bool {0}>()
            i = If(true) <
                then_branch = a () => (float[N, 3, 8, 8] z) { z = Neg(q) },
                else_branch = b () => (float[N, 3, 8, 8] z) { z = Exp(q) }
            >
            j = If(t) <
                then_branch = a () => (float[N, 3, 8, 8] z) { z = Add(i, k) },
                else_branch = b () => (float[N, 3, 8, 8] z) { z = Add(i, q) }
            >
            p = If(c) <
                then_branch = a () => (float[N, 4, 6, 6] z) { z = Conv(i, w) },
                else_branch = b () => (float[N, 4, 6, 6] z) { v = Conv(j, w) z = Relu(v) }
            >
        },
        else_branch = no () => (float[N, 4, 6, 6] q) { q = Conv(b, w) }
    >
    e = Neg(y)
}"""
PLAIN = "net (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) { r = Relu(x) y = Neg(r) }"
CONV = {"w": (4, 3, 3, 3), **batchnorm(4)}
SWISH = """net (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y)
<float one = {1.5}, float three = {3.0}, float zero = {0.0}, float six = {6.0}> {
    c = Conv(x, w) m = Mul(one, c) t = Add(m, three)
    a = Add(t, three) k = Clip(a, zero, six) s = Mul(t, k) y = Div(s, six)
}"""

MODELS = {
    "scaled swish": build(SWISH, {"w": (4, 3, 3, 3)}),
    "constants": build(CONSTANTS),
    "normalizations": build(
        NORMS, CONV | {"k": (4, 2, 3, 3), "u": (4, 5)} | batchnorm(5, seed=1, prefix="g")
    ),
    "normalizations first": build(
        NORMS_FIRST,
        {"k": (4, 2, 3, 3), "s": (4, 4, 1, 1), "w": (4, 4, 3, 3), "u": (4, 5), **batchnorm(4)},
    ),
    "shared weights": build(SHARED, CONV),
    "refusals": build(REFUSALS, CONV),
    "computed constants": build(COMPUTED),
    "padding": build(PADDED, {"w": (4, 3, 3, 3)}),
    "shapes": build(SHAPES, {"one": np.array(1)}),
    "branches": build(BRANCHES, {"w": (4, 3, 3, 3), "true": np.array(True)}),
    "functions": build(FUNCTIONS, {"w": (3, 4)}),
    "plain": build(PLAIN),
    "IR 3": build(
        "net (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) "
        "{ k = Constant<value = float[1] {2.0}>() a = Mul(x, k) c = Conv(a, w)"
        "  y = BatchNormalization(c, g, b, m, v) }",
        CONV,
        opset=8,
        ir=3,
    ),
    "no nodes": build("net (float[N] x) => (float[N] x) { }"),
}


@pytest.fixture(params=STRUCTURAL, ids=lambda apply: apply.__name__)
def apply(request: pytest.FixtureRequest) -> Pass:
    chosen: Pass = request.param
    return chosen


@pytest.fixture(params=MODELS)
def original(request: pytest.FixtureRequest) -> onnx.ModelProto:
    return copy(MODELS[request.param])


def test_modified_tells_the_truth(apply: Pass, original: onnx.ModelProto) -> None:
    model = from_proto(copy(original))
    report = apply(model)
    assert (sync(model) != original) == report.modified


def test_the_report_carries_the_name_of_the_pass(apply: Pass, original: onnx.ModelProto) -> None:
    assert apply(from_proto(original)).name == apply.__name__


def test_a_second_run_changes_nothing(apply: Pass, original: onnx.ModelProto) -> None:
    model = from_proto(original)
    first = apply(model)
    between = copy(sync(model))
    second = apply(model)
    assert not second.modified
    assert second.skipped == first.skipped
    assert sync(model) == between


def test_the_checker_accepts_the_result(apply: Pass, original: onnx.ModelProto) -> None:
    model = from_proto(original)
    apply(model)
    onnx.checker.check_model(sync(model), full_check=True)


def test_the_function_stays(apply: Pass, original: onnx.ModelProto) -> None:
    model = from_proto(copy(original))
    apply(model)
    assert_same_function(original, sync(model))


def test_graph_and_message_agree(apply: Pass, original: onnx.ModelProto) -> None:
    """Linking the message again gives the same nodes: nothing lives in the graph only."""
    model = from_proto(original)
    apply(model)
    again = from_proto(copy(sync(model)))
    names = [[tensor.name for tensor in node.inputs] for node in again.graph.nodes]
    ordered = {node.outputs[0].name: node for node in model.graph.nodes}
    assert len(again.graph.nodes) == len(model.graph.nodes)
    for node, inputs in zip(again.graph.nodes, names, strict=True):
        assert [t.name for t in ordered[node.outputs[0].name].inputs] == inputs


def test_every_skip_has_a_label_and_a_reason(apply: Pass, original: onnx.ModelProto) -> None:
    for label, reason in apply(from_proto(original)).skipped:
        assert label
        assert reason


def test_changed_labels_are_nodes_of_the_original(apply: Pass, original: onnx.ModelProto) -> None:
    graphs = [original.graph, *(a.g for node in original.graph.node for a in node.attribute)]
    known = {f"{node.op_type}({node.output[0]})" for graph in graphs for node in graph.node}
    report = apply(from_proto(original))
    assert set(report.changed) <= known


def test_the_interface_stays(apply: Pass, original: onnx.ModelProto) -> None:
    model = from_proto(copy(original))
    apply(model)
    result = sync(model).graph
    held = {tensor.name for tensor in original.graph.initializer}
    assert [v for v in result.input if v.name not in held] == [
        v for v in original.graph.input if v.name not in held
    ]
    assert list(result.output) == list(original.graph.output)


def test_some_model_is_changed_by_every_pass(apply: Pass) -> None:
    def modified(proto: onnx.ModelProto) -> bool:
        model = from_proto(copy(proto))
        before = STRUCTURAL[: STRUCTURAL.index(apply)]
        return [earlier(model).modified for earlier in (*before, apply)][-1]

    assert any(modified(proto) for proto in MODELS.values())


def test_all_passes_together_keep_the_function(original: onnx.ModelProto) -> None:
    model = from_proto(copy(original))
    prepare(model)
    onnx.checker.check_model(sync(model), full_check=True)
    assert_same_function(original, sync(model))
    assert not any(report.modified for report in prepare(model))


def test_prepare_runs_them_all_in_order() -> None:
    proto = build(
        """net (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) {
            w = Constant<value = float[4, 3, 3, 3] {VALUES}>()
            c = Conv(x, w)
            y = BatchNormalization(c, g, b, m, v)
        }""".replace("VALUES", ", ".join(f"{v:.3f}" for v in np.linspace(-1, 1, 108))),
        batchnorm(4),
    )
    model = from_proto(copy(proto))
    reports = prepare(model)
    assert [report.name for report in reports] == [apply.__name__ for apply in STRUCTURAL]
    modified = {report.name for report in reports if report.modified}
    assert modified == {"hoist_constants", "fold_batchnorm"}
    assert [node.op for node in model.graph.nodes] == ["Conv"]
    assert_same_function(proto, sync(model))
