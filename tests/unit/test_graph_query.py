import numpy as np
import onnx
import pytest

from onnxq.graph.io import Node, from_proto
from onnxq.graph.query import (
    TensorType,
    activation_bounds,
    gate_bound,
    is_standard,
    label,
    output_channel_axis,
    tensor_types,
)
from tests.graphs import build, copy

INF = float("inf")


def node_of(body: str, weights: dict | None = None, *, opset: int = 13) -> Node:
    """The last node of a graph with input x."""
    text = f"g (float[N, 8] x, float lo) => (y) {{ {body} }}"
    return from_proto(unchecked(text, weights or {}, opset)).graph.nodes[-1]


def unchecked(text: str, weights: dict, opset: int) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}, "com.test" : 1]>\n{text}'
    )
    for name, value in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return proto


# --- names


def test_label_is_the_name_or_operator_and_output() -> None:
    node = node_of("y = Relu(x)")
    assert label(node) == "Relu(y)"
    node.name = "/a/relu"
    assert label(node) == "/a/relu"
    node.name = ""
    node.outputs.clear()
    assert label(node) == "Relu()"


@pytest.mark.parametrize(
    ("domain", "expected"),
    [(None, True), ("", True), ("ai.onnx", True), ("com.test", False), ("ai.onnx.ml", False)],
)
def test_is_standard(domain: str | None, *, expected: bool) -> None:
    assert is_standard(Node("Relu", domain=domain)) == expected


# --- types


TYPED = """
g (float[N, 3, 8, 8] x, int64[2] i, float16[N] h, float u) => (float[N, 40, 8, 8] y, s)
{
    c = Conv<pads = [1, 1, 1, 1]>(x, w)
    y = Relu(c)
    j = Add(i, i)
    q = com.test.Custom(x)
    s = SequenceConstruct(x, c)
}
"""


def test_types_are_inferred_through_large_weights() -> None:
    model = from_proto(unchecked(TYPED, {"w": np.zeros((40, 3, 3, 3), np.float32)}, 13))
    types = tensor_types(model)
    assert types["x"] == TensorType("float", (None, 3, 8, 8))
    assert types["c"] == TensorType("float", (None, 40, 8, 8))
    assert types["w"] == TensorType("float", (40, 3, 3, 3))
    assert types["j"] == TensorType("int64", (2,))
    assert types["h"] == TensorType("float16", (None,))
    assert types["u"] == TensorType("float", ())
    assert "q" not in types
    assert "s" not in types


def test_types_leave_the_model_alone() -> None:
    proto = build("g (float[N, 8] x) => (float[N, 8] y) { y = MatMul(x, w) }", {"w": (8, 8)})
    model = from_proto(copy(proto))
    tensor_types(model)
    assert model.proto == proto


def test_unknown_rank_is_none() -> None:
    proto = unchecked("g (float[N] x) => (y) { y = Relu(x) }", {}, 13)
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    assert tensor_types(from_proto(proto))["x"] == TensorType("float", None)


def test_contradicting_shapes_only_tell_less() -> None:
    text = "g (float[2, 3] x) => (float[7, 7] y) { h = Relu(x) y = MatMul(h, x) }"
    types = tensor_types(from_proto(unchecked(text, {}, 13)))
    assert types["x"] == TensorType("float", (2, 3))


# --- channels


@pytest.mark.parametrize(
    ("body", "index", "rank", "axis"),
    [
        ("y = Conv(x, w)", 1, 4, 0),
        ("y = Conv<group = 4>(x, w)", 1, 4, 0),
        ("y = Conv(x, w)", 0, 4, None),
        ("y = ConvTranspose(x, w)", 1, 4, 1),
        ("y = ConvTranspose<group = 2>(x, w)", 1, 4, None),
        ("y = Gemm(x, w)", 1, 2, 1),
        ("y = Gemm<transB = 0>(x, w)", 1, 2, 1),
        ("y = Gemm<transB = 1>(x, w)", 1, 2, 0),
        ("y = Gemm(x, w, b)", 2, 1, None),
        ("y = MatMul(x, w)", 1, 2, 1),
        ("y = MatMul(w, x)", 0, 2, None),
        ("y = MatMul(x, w)", 1, 3, None),
        ("y = MatMul(x, w)", 1, 1, None),
        ("y = Add(x, w)", 1, 2, None),
    ],
)
def test_output_channel_axis(body: str, index: int, rank: int, axis: int | None) -> None:
    assert output_channel_axis(node_of(body), index, rank) == axis


# --- activations


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


@pytest.mark.parametrize(
    ("body", "weights", "opset", "expected"),
    [
        ("y = Relu(x)", {}, 13, (0, INF)),
        ("y = Sigmoid(x)", {}, 13, (-INF, INF)),
        ("y = Clip<min = 0.0, max = 6.0>(x)", {}, 9, (0, 6)),
        ("y = Clip<max = 6.0>(x)", {}, 9, (-INF, 6)),
        ("y = Clip(x, a, b)", {"a": scalar(-1), "b": scalar(3)}, 13, (-1, 3)),
        ("y = Clip(x, a)", {"a": scalar(0.5)}, 13, (0.5, INF)),
        ("y = Clip(x, , b)", {"b": scalar(3)}, 13, (-INF, 3)),
        (
            "y = Clip(x, a, b)",
            {"a": np.zeros(1, np.float32)[0:1].reshape(()), "b": scalar(6)},
            13,
            (0, 6),
        ),
        ("y = Clip(x)", {}, 13, (-INF, INF)),
        ("y = Clip(x, lo)", {}, 13, (-INF, INF)),
    ],
)
def test_activation_bounds(
    body: str, weights: dict, opset: int, expected: tuple[float, float]
) -> None:
    assert activation_bounds(node_of(body, weights, opset=opset)) == expected


@pytest.mark.parametrize(
    ("body", "bound"),
    [
        ("c = Relu(x) h = HardSigmoid<alpha = 0.25, beta = 0.5>(c) y = Mul(c, h)", -2.0),
        ("c = Relu(x) h = HardSigmoid(c) y = Mul(h, c)", -2.5),
        ("c = Relu(x) h = HardSigmoid(c) m = Mul(h, c) y = Add(m, c)", -np.inf),
        ("c = Relu(x) h = Sigmoid(c) y = Mul(h, c)", -np.inf),
        ("c = Relu(x) y = HardSigmoid(c)", -np.inf),
    ],
)
def test_below_which_value_a_hard_swish_is_zero(body: str, bound: float) -> None:
    model = from_proto(build(f"g (float[N, 4] x) => (float[N, 4] y) {{ {body} }}"))
    assert gate_bound(model.graph.nodes[0].outputs[0]) == pytest.approx(bound, rel=1e-6)
