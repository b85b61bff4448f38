import numpy as np
import onnx
import pytest

from onnxq.graph.io import from_proto, sync
from onnxq.passes import PassReport
from onnxq.passes.fold_scaling import fold_scaling
from tests.graphs import assert_same_function, build, copy, ops

WEIGHTS = {
    "w": (4, 3, 3, 3),
    "b": (4,),
    "scalar": np.array(1.5, np.float32),
    "one": np.array([0.25], np.float32),
    "channels": np.array([0.5, 2, -1, 0], np.float32).reshape(4, 1, 1),
    "batched": np.array([0.5, 2, -1, 3], np.float32).reshape(1, 4, 1, 1),
    "map": np.ones((4, 6, 6), np.float32) * np.arange(6, dtype=np.float32),
    "last": np.arange(6, dtype=np.float32),
}


def folded(body: str, outputs: str = "float[N, 4, 6, 6] y") -> tuple[PassReport, onnx.ModelProto]:
    proto = build(f"g (float[N, 3, 8, 8] x) => ({outputs}) {{ {body} }}", WEIGHTS)
    model = from_proto(copy(proto))
    report = fold_scaling(model)
    result = sync(model)
    onnx.checker.check_model(result)
    assert_same_function(proto, result)
    return report, result


@pytest.mark.parametrize("value", ["scalar", "one", "channels", "batched"])
@pytest.mark.parametrize("op", ["Mul", "Add"])
@pytest.mark.parametrize("conv", ["Conv(x, w)", "Conv(x, w, b)"])
def test_a_constant_a_channel_goes_into_the_conv(conv: str, op: str, value: str) -> None:
    report, result = folded(f"c = {conv} y = {op}(c, {value})")
    assert len(report.changed) == 1
    assert ops(result) == ["Conv"]
    assert result.graph.node[0].output == ["y"]


def test_a_chain_goes_in_one_after_the_other() -> None:
    report, result = folded(
        "c = Conv(x, w) m = Mul(scalar, c) a = Add(m, one) y = Mul(a, channels)"
    )
    assert len(report.changed) == 3
    assert ops(result) == ["Conv"]


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("c = Conv(x, w) y = Mul(c, map)", None),
        ("c = Conv(x, w) y = Add(c, last)", None),
        ("c = Conv(x, w) y = Mul(c, c)", None),
        ("c = Conv(x, w) m = Mul(c, scalar) y = Add(m, c)", None),
        ("c = Conv(x, w) y = Mul(c, scalar)", "float[N, 4, 6, 6] y, float[N, 4, 6, 6] c"),
        ("c = Conv(x, w) r = Relu(c) y = Mul(r, scalar)", None),
        ("v = Mul(w, scalar) c = Conv(x, v) y = Mul(c, scalar)", None),
    ],
)
def test_anything_else_stays(body: str, outputs: str | None) -> None:
    before = ops(build(f"g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) {{ {body} }}", WEIGHTS))
    report, result = folded(body, outputs or "float[N, 4, 6, 6] y")
    assert not report.modified
    assert ops(result) == before
