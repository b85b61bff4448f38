"""Layers that write what they read are not run to tell their rows."""

import numpy as np
import pytest

from onnxq.graph.io import from_proto
from onnxq.graph.matrices import matrix_view
from onnxq.graph.session import Runtime, Session
from onnxq.graph.unfold import by_row, is_plain, row_reader, unfolding
from tests.graphs import build, feed_for

MAPS = "net (float[2, 4, 6, 6] x) => (float[N, M, H, W] y)"
ROWS = "net (float[3, 5] x) => (float[A, B] y)"
LAYERS = {
    "pointwise": (f"{MAPS} {{ y = Conv(x, w) }}", (7, 4, 1, 1), 1, True),
    "strided": (f"{MAPS} {{ y = Conv<strides = [2, 2]>(x, w) }}", (7, 4, 1, 1), 1, False),
    "padded": (f"{MAPS} {{ y = Conv<pads = [1, 1, 1, 1]>(x, w) }}", (7, 4, 1, 1), 1, False),
    "grouped": (f"{MAPS} {{ y = Conv<group = 2>(x, w) }}", (6, 2, 1, 1), 1, False),
    "wide": (f"{MAPS} {{ y = Conv(x, w) }}", (7, 4, 3, 1), 1, False),
    "gemm": (f"{ROWS} {{ y = Gemm(x, w) }}", (5, 2), 1, True),
    "gemm, turned weights": (f"{ROWS} {{ y = Gemm<transB = 1>(x, w) }}", (2, 5), 1, True),
    "gemm, turned": (f"{ROWS} {{ y = Gemm<transA = 1>(x, w) }}", (3, 2), 1, False),
    "gemm, scaled": (f"{ROWS} {{ y = Gemm<alpha = 0.5>(x, w) }}", (5, 2), 1, False),
    "matmul": (f"{ROWS} {{ y = MatMul(x, w) }}", (5, 2), 1, True),
    "matmul, left": (f"{ROWS} {{ y = MatMul(w, x) }}", (4, 3), 0, True),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_are_those_of_the_layer_run_with_the_identity(name: str) -> None:
    text, shape, index, plain = LAYERS[name]
    proto = build(text, {"w": shape})
    model, runtime = from_proto(proto), Runtime(threads=1)
    (node,) = model.graph.nodes
    view = matrix_view(node, index, shape)
    values = feed_for(proto)["x"]
    written = Session(unfolding(model, node, index, view), runtime).run({"x": values})[0]
    wanted = by_row(node, index, np.asarray(written), view.shape[0])
    found = row_reader(model, node, index, view, runtime)(values)
    assert is_plain(node) == plain
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
