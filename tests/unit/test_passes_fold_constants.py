import numpy as np
import onnx
import pytest

from onnxq.graph.io import from_proto, sync
from onnxq.passes.fold_constants import fold_constants
from tests.graphs import assert_same_function, build, copy, initializers, ops


@pytest.mark.parametrize("name", ["", "exp"])
def test_a_constant_that_only_a_body_captures(name: str) -> None:
    proto = build(
        """g (float[N, 4] x, bool c) => (float[N, 4] y) {
            t = Neg(k)
            m = Exp(t)
            y = If(c) <
                then_branch = yes () => (float[N, 4] a) { a = Add(x, m) },
                else_branch = no () => (float[N, 4] b) { b = Sub(x, m) }
            >
        }""",
        {"k": (4,)},
    )
    proto.graph.node[1].name = name
    model = from_proto(copy(proto))
    report = fold_constants(model)
    result = sync(model)
    onnx.checker.check_model(result, full_check=True)
    assert report.changed == ("Neg(t)", name or "Exp(m)")
    assert ops(result) == ["If"]
    np.testing.assert_allclose(initializers(result)["m"], np.exp(-initializers(proto)["k"]), 1e-6)
    assert_same_function(proto, result)
