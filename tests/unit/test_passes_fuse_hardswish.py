import numpy as np
import onnx
import pytest

from onnxq.graph.io import from_proto, sync
from onnxq.passes import PassReport
from onnxq.passes.fuse_hardswish import fuse_hardswish
from tests.graphs import assert_same_function, build, copy, ops

CONSTANTS = {
    name: np.array(value, np.float32)
    for name, value in (("three", 3), ("zero", 0), ("six", 6), ("sixth", 1 / 6), ("four", 4))
}
SWISH = "a = Add(x, three) c = Clip(a, zero, six)"


def fused(body: str, outputs: str = "float[N, C] y") -> tuple[PassReport, onnx.ModelProto]:
    proto = build(f"g (float[N, C] x) => ({outputs}) {{ {body} }}", CONSTANTS)
    model = from_proto(copy(proto))
    report = fuse_hardswish(model)
    result = sync(model)
    onnx.checker.check_model(result)
    assert_same_function(proto, result)
    return report, result


@pytest.mark.parametrize(
    "body",
    [
        f"{SWISH} m = Mul(x, c) y = Div(m, six)",
        f"{SWISH} m = Mul(c, x) y = Mul(m, sixth)",
        f"{SWISH} d = Div(c, six) y = Mul(x, d)",
        f"{SWISH} d = Mul(sixth, c) y = Mul(d, x)",
        "a = Add(three, x) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)",
    ],
)
def test_every_form_becomes_two_operators(body: str) -> None:
    report, result = fused(body)
    assert report.modified
    assert ops(result) == ["HardSigmoid", "Mul"]
    assert result.graph.node[1].output == ["y"]


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("a = Add(x, four) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)", None),
        ("a = Add(x, three) c = Clip(a, zero, four) m = Mul(x, c) y = Div(m, six)", None),
        (f"{SWISH} m = Mul(x, c) y = Div(m, four)", None),
        (f"{SWISH} m = Mul(x, c) y = Div(six, m)", None),
        (f"{SWISH} m = Mul(a, c) y = Div(m, six)", None),
        (f"{SWISH} y = Mul(x, c)", None),
        (f"{SWISH} d = Div(c, six) e = Div(d, six) y = Mul(x, e)", None),
        (f"{SWISH} m = Mul(x, c) y = Div(m, six)", "float[N, C] y, float[N, C] c"),
        (f"{SWISH} m = Mul(x, c) y = Div(m, six)", "float[N, C] y, float[N, C] a"),
        (f"{SWISH} m = Mul(x, c) d = Div(m, six) y = Add(d, m)", None),
    ],
)
def test_anything_else_stays(body: str, outputs: str | None) -> None:
    report, result = fused(body, outputs or "float[N, C] y")
    assert not report.modified
    assert "HardSigmoid" not in ops(result)


def test_two_in_a_row() -> None:
    first = f"{SWISH} m = Mul(x, c) s = Div(m, six)"
    second = "b = Add(s, three) d = Clip(b, zero, six) n = Mul(s, d) y = Div(n, six)"
    report, result = fused(f"{first} {second}")
    assert len(report.changed) == 2
    assert ops(result) == ["HardSigmoid", "Mul"] * 2
