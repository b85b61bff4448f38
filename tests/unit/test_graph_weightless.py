import numpy as np
import onnx
import pytest

from onnxq.graph.weightless import SMALL, weightless
from tests.graphs import build, copy

NET = "g (float[N, 64] x) => (float[N, 64] y) { h = MatMul(x, w) y = Add(h, b) }"
WEIGHTS = {"w": (64, 64), "b": (64,)}


def test_large_initializers_become_typed_inputs() -> None:
    light = weightless(build(NET, WEIGHTS))
    assert [value.name for value in light.graph.input] == ["x", "w"]
    kind = light.graph.input[1].type.tensor_type
    assert kind.elem_type == onnx.TensorProto.FLOAT
    assert [d.dim_value for d in kind.shape.dim] == [64, 64]


def test_small_initializers_stay_as_they_are() -> None:
    proto = build(NET, WEIGHTS)
    light = weightless(proto)
    assert list(light.graph.initializer) == [proto.graph.initializer[1]]


@pytest.mark.parametrize(("size", "stays"), [(SMALL, True), (SMALL + 1, False)])
def test_the_limit_between_small_and_large(size: int, *, stays: bool) -> None:
    proto = build("g (float[N] x) => (float[N] y) { y = Relu(x) }", {"w": (size,)})
    assert bool(weightless(proto).graph.initializer) == stays


def test_the_model_is_left_alone() -> None:
    proto = build(NET, WEIGHTS)
    before = copy(proto)
    light = weightless(proto)
    light.graph.node[0].name = "changed"
    light.graph.input[0].name = "changed"
    assert proto == before


def test_everything_else_is_copied() -> None:
    proto = build(NET, {"b": (64,), "w": np.ones((64, 2), np.float32)})  # both small
    proto.metadata_props.add(key="k", value="v")
    proto.graph.metadata_props.add(key="k", value="v")
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("h", 1, ["N", 2]))
    proto.producer_name, proto.doc_string, proto.graph.doc_string = "p", "d", "g"
    proto.model_version = 3
    assert weightless(proto) == proto


def test_an_initializer_that_is_an_input_already_is_not_listed_twice() -> None:
    light = weightless(build(NET, WEIGHTS, opset=8, ir=3))
    assert [value.name for value in light.graph.input] == ["x", "w", "b"]


def test_types_of_every_element_type_survive() -> None:
    import ml_dtypes  # noqa: PLC0415

    proto = build(
        "g (float[N] x) => (float[N] y) { y = Relu(x) }",
        {"i4": np.zeros(2000, ml_dtypes.int4), "f16": np.zeros((2, 1000), np.float16)},
        opset=21,
        ir=10,
    )
    kinds = {v.name: v.type.tensor_type.elem_type for v in weightless(proto).graph.input}
    assert kinds["i4"] == onnx.TensorProto.INT4
    assert kinds["f16"] == onnx.TensorProto.FLOAT16
