import numpy as np
import onnx

from onnxq.graph.edit import Names, set_inputs
from onnxq.graph.io import constant, from_proto, sync
from tests.graphs import build, run

TEXT = """g (float[N, 4] x, bool c, float[4] spare) => (float[N, 4] y) {
    t = Relu(x)
    y = If(c) <
        then_branch = yes () => (float[N, 4] a) { inner = Neg(t) a = Add(inner, w) },
        else_branch = no () => (float[N, 4] b) { b = Sub(t, w) }
    >
}"""


def test_names_number_what_is_taken() -> None:
    names = Names(from_proto(build(TEXT, {"w": (4,)})))
    assert names.new("fresh") == "fresh"
    assert names.new("fresh") == "fresh_2"
    assert names.new("fresh") == "fresh_3"
    assert names.new("t") == "t_2"


def test_names_know_every_tensor() -> None:
    proto = build(TEXT, {"w": (4,), "unused": (4,)})
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("stale", 1, [4]))
    names = Names(from_proto(proto))
    for taken in ("x", "y", "t", "w", "inner", "a", "b", "unused", "spare", "stale"):
        assert names.new(taken) != taken


def test_names_know_initializers_an_edit_left_unused() -> None:
    model = from_proto(build("g (float[N] x) => (float[N] y) { y = Add(x, w) }", {"w": (1,)}))
    add = model.graph.nodes[0]
    set_inputs(add, [add.inputs[0], add.inputs[0]])
    replacement = constant(Names(model).new("w"), np.array([5], np.float32))
    set_inputs(add, [add.inputs[0], replacement])
    assert run(sync(model), {"x": np.zeros(1, np.float32)})[0].tolist() == [5]


def test_set_inputs_keeps_the_links_right() -> None:
    model = from_proto(build("g (float[4] x, float[4] u) => (float[4] y) { y = Add(x, u) }"))
    add = model.graph.nodes[0]
    x, u = add.inputs
    set_inputs(add, (tensor for tensor in reversed(list(add.inputs))))
    assert [tensor.name for tensor in add.inputs] == ["u", "x"]
    set_inputs(add, [x, x])
    assert [node.op for node in x.outputs] == ["Add", "Add"]
    assert list(u.outputs) == []
