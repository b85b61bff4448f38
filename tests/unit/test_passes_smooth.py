"""Where smoothing puts the division, and what it refuses with which reason."""

import re

import numpy as np
import onnx
import pytest

from onnxq.graph.io import from_proto, sync
from onnxq.passes import PassReport
from onnxq.passes.smooth import products, smooth
from tests.graphs import assert_same_function, build, copy, initializers, ops

SEEN = np.array([50.0, 1.0, 0.5, 2.0, 1.0, 0.0])
WEIGHTS = {
    "s": (6,),
    "b": (6,),
    "w": (6, 4),
    "v": (6, 3),
    "e": (5, 6),
    "f": (6, 5),
    "c": np.array(0.5, np.float32),
    "slope": np.array(0.5, np.float32),
}


def smoothed(
    body: str, seen: dict[str, np.ndarray] | None = None, *, insert: bool = False, opset: int = 17
) -> tuple[PassReport, onnx.ModelProto]:
    proto = build(
        f"g (float[N, 2, 6] x, float[N, 2, 5] z) => (y) {{ {body} }}", WEIGHTS, opset=opset
    )
    model = from_proto(copy(proto))
    report = smooth(model, {"n": SEEN} if seen is None else seen, 0.5, insert=insert)
    result = sync(model)
    onnx.checker.check_model(result, full_check=True)
    assert_same_function(proto, result)
    assert (result != proto) == report.modified
    return report, result


NORM = "n = LayerNormalization(x, s, b)"


@pytest.mark.parametrize(
    ("writer", "changed"),
    [
        (NORM, ["LayerNormalization(n)"]),
        ("n = LayerNormalization(x, s)", ["LayerNormalization(n)"]),
        ("n = Mul(x, c)", ["Mul(n)"]),
        ("n = Div(x, c)", ["Div(n)"]),
        ("n = Div(c, x)", ["Div(n)"]),
        ("m = Mul(x, s) n = Add(m, b)", ["Add(n)", "Mul(m)"]),
        ("m = MatMul(z, e) n = Add(b, m)", ["Add(n)", "MatMul(m)"]),
        ("m = MatMul(z, e) n = Relu(m)", ["MatMul(m)"]),
        ("g = Sigmoid(x) m = Mul(x, c) n = Mul(g, m)", ["Mul(m)"]),
    ],
)
def test_what_writes_the_activation_takes_the_division(writer: str, changed: list[str]) -> None:
    report, result = smoothed(f"{writer} y = MatMul(n, w)")
    assert set(report.changed) == {"MatMul(y)", *changed}
    assert len(result.graph.node) == writer.count("=") + 1
    outputs = [name for node in result.graph.node for name in node.output]
    assert any(re.fullmatch("n_smoothed_[0-9a-f]{8}", name) for name in outputs)


def test_scale_and_bias_of_a_norm_are_divided_by_what_the_weights_are_multiplied_by() -> None:
    _, result = smoothed(f"{NORM} y = MatMul(n, w)")
    new = initializers(result)
    old = initializers(build(f"g (float[N, 2, 6] x) => (y) {{ {NORM} y = MatMul(n, w) }}",
                             WEIGHTS, opset=17))  # fmt: skip
    factors = (new["w_smoothed"] / old["w"])[:, 0]
    largest = np.abs(old["w"]).max(axis=1)
    np.testing.assert_allclose(new["s_smoothed"] * factors, old["s"], rtol=1e-5)
    there = SEEN > 0
    expected = np.sqrt(SEEN / largest)[there]
    np.testing.assert_allclose(factors[there] / factors[0], expected / expected[0], rtol=1e-4)
    assert factors[~there] == 1


def test_queries_and_keys_share_one_factor() -> None:
    report, result = smoothed(f"{NORM} q = MatMul(n, w) k = MatMul(n, v) t = Relu(k)"
                              " y = Concat<axis = -1>(q, t)")  # fmt: skip
    assert set(report.changed) == {"LayerNormalization(n)", "MatMul(q)", "MatMul(k)"}
    old = initializers(build("g (float[N, 6] x) => (y) { y = MatMul(x, w) }", WEIGHTS))
    ratios = [initializers(result)[f"{name}_smoothed"] / old[name] for name in ("w", "v")]
    np.testing.assert_allclose(ratios[0][:, 0], ratios[1][:, 0], rtol=1e-5)
    assert np.ptp(ratios[0][:, 0]) > 1


def test_weights_that_others_read_too_are_copied() -> None:
    body = f"{NORM} a = MatMul(n, w) d = MatMul(x, w) y = Add(a, d)"
    report, result = smoothed(body)
    assert "MatMul(a)" in report.changed
    assert {"w", "w_smoothed"} <= set(initializers(result))


def test_sizes_do_not_matter() -> None:
    body = (
        f"{NORM} h = Shape(n) m = MatMul(n, w) h2 = Cast<to = 1>(h) y = Concat<axis = 0>(h2, h2) "
    )
    proto = build(f"g (float[N, 2, 6] x) => (m, y) {{ {body} }}", WEIGHTS, opset=17)
    assert smooth(from_proto(proto), {"n": SEEN}, 0.5).modified


REFUSED = [
    (f"{NORM} m = MatMul(n, f) t = MatMul(m, e) y = Add(t, n)", "Add(y) reads 'n' too"),
    ("n = Softmax(x) y = MatMul(n, w)", "cannot take a factor a channel"),
    ("n = Add(x, z2) y = MatMul(n, w)".replace("z2", "x"), "cannot take a factor a channel"),
    ("n = Relu(x) y = MatMul(n, w)", "the model reads 'x'"),
]


@pytest.mark.parametrize(("body", "reason"), REFUSED)
def test_nothing_can_take_the_division(body: str, reason: str) -> None:
    report, _ = smoothed(body)
    assert not report.modified
    assert reason in report.skipped[0][1]


@pytest.mark.parametrize("body", [body for body, _ in REFUSED])
def test_a_mul_is_put_in_where_asked_for(body: str) -> None:
    report, result = smoothed(body, insert=True)
    assert report.modified
    assert ops(result).count("Mul") == 1


def test_an_output_of_the_model_keeps_its_values() -> None:
    proto = build(
        f"g (float[N, 2, 6] x) => (n, y) {{ {NORM} y = MatMul(n, w) }}", WEIGHTS, opset=17
    )
    report = smooth(from_proto(proto), {"n": SEEN}, 0.5)
    assert report.skipped == (("MatMul(y)", "the user reads 'n' too"),)


@pytest.mark.parametrize("seen", [{}, {"n": np.ones(7)}])
def test_without_channels_of_that_number_nothing_happens(seen: dict[str, np.ndarray]) -> None:
    report, _ = smoothed(f"{NORM} y = MatMul(n, w)", seen)
    assert report.skipped == (("MatMul(y)", "its input has no such channels in all samples"),)


def test_products_of_two_activations_are_none() -> None:
    proto = build("g (float[N, 2, 6] x) => (y) { t = Transpose<perm = [0, 2, 1]>(x)"
                  " a = MatMul(x, t) y = Relu(a) }")  # fmt: skip
    assert products(from_proto(proto)) == []
