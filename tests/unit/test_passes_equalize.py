"""What equalization changes, what it calls it, and what it refuses with which reason."""

import numpy as np
import onnx
import pytest

from onnxq.graph.io import from_proto, sync
from onnxq.passes import PassReport
from onnxq.passes.equalize import equalize, seen_tensors
from tests.graphs import assert_same_function, build, copy, initializers, ops

UNEVEN = np.array([1e-2, 1, 5, 0.1], np.float32)


def uneven(shape: tuple[int, ...], axis: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=shape)
    along = [1] * len(shape)
    along[axis] = -1
    return (values * UNEVEN.reshape(along)).astype(np.float32)


WEIGHTS = {
    "w": uneven((4, 3, 3, 3), 0, 1),
    "b": (4,),
    "d": uneven((4, 1, 3, 3), 0, 2),
    "v": (5, 4, 1, 1),
    "u": (4, 4, 1, 1),
    "t": uneven((3, 4, 2, 2), 1, 3),
    "g": (2, 4),
    "k": np.array([0.5, 2, 1, 3], np.float32).reshape(4, 1, 1),
    "slope": np.array([0.5, -2, 1, 3], np.float32).reshape(4, 1, 1),
    "zero": np.array(0, np.float32),
    "six": np.array(0.3, np.float32),
    "wide": np.array(1e6, np.float32),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
}


def equalized(body: str, *, cut: bool = False) -> tuple[PassReport, onnx.ModelProto]:
    proto = build(f"g (float[N, 3, 8, 8] x) => (y) {{ {body} }}", WEIGHTS)
    model = from_proto(copy(proto))
    report = equalize(model, cut=cut)
    result = sync(model)
    onnx.checker.check_model(result, full_check=True)
    assert_same_function(proto, result)
    assert (result != proto) == report.modified
    return report, result


@pytest.mark.parametrize(
    "between",
    [
        "",
        "Relu(c)",
        "LeakyRelu<alpha = 0.2>(c)",
        "PRelu(c, slope)",
        "MaxPool<kernel_shape = [2, 2]>(c)",
        "AveragePool<kernel_shape = [2, 2]>(c)",
        "GlobalAveragePool(c)",
        "Pad(c, pads)",
        "Mul(k, c)",
        "Div(c, k)",
        "Add(c, k)",
        "Identity(c)",
    ],
)
def test_channels_are_scaled_across(between: str) -> None:
    body = f"m = {between} y = Conv(m, v)" if between else "y = Conv(c, v)"
    report, result = equalized(f"c = Conv(x, w, b) {body}")
    assert report.changed == ("Conv(c)", "Conv(y)")
    new = initializers(result)
    shares = [np.abs(new["w_equalized"]).max((1, 2, 3)), np.abs(new["v_equalized"]).max((0, 2, 3))]
    one, other = (each / each.max() for each in shares)
    np.testing.assert_allclose(one, other, rtol=0.02)
    assert one.min() > 3 * UNEVEN.min() / UNEVEN.max()


def test_every_tensor_with_other_values_has_another_name() -> None:
    _, result = equalized("c = Conv(x, w, b) r = Relu(c) y = Conv(r, v)")
    names = [name for node in result.graph.node for name in node.output]
    digest = names[0].removeprefix("c_equalized_")
    assert names == [f"c_equalized_{digest}", f"r_equalized_{digest}", "y"]
    _, other = equalized("c = Conv(x, w, b) r = Relu(c) y = Conv(r, u)")
    assert f"c_equalized_{digest}" not in str(other)  # other factors, other names


@pytest.mark.parametrize(
    "body",
    [
        "c = Conv(x, w) r = Relu(c) d1 = Conv<group = 4>(r, d) e = Relu(d1) y = Conv(e, v)",
        "c = ConvTranspose(x, t) r = Relu(c) y = Conv(r, v)",
        "c = Conv(x, w) h = GlobalAveragePool(c) f = Flatten(h) y = Gemm<transB = 1>(f, g)",
        "c = Conv(x, w) r = Relu(c) q = Conv(r, u) a = Add(q, r) y = Conv(a, v)",
        "c = Conv(x, w) p = Relu(c) q = Conv(p, v) r = Conv(p, v) y = Add(q, r)",
    ],
)
def test_chains_residual_sums_and_shared_weights(body: str) -> None:
    assert len(equalized(body)[0].changed) >= 2


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("c = Conv(x, w) s = Sigmoid(c) e = Mul(c, s) y = Conv(e, v)", "Sigmoid"),
        ("c = Conv(x, w) r = Relu(c) q = Conv(r, v) s = Softmax(r) z = Conv(s, v) y = Add(q, z)",
         "Softmax"),
        ("c = Conv(x, w) k2 = Clip(c, zero, six) y = Conv(k2, v)", "the end of a Clip"),
        ("c = Conv(x, w) k2 = Clip(c, six) y = Conv(k2, v)", "around 0"),
        ("c = Conv(x, w) p = Pad(c, pads, wide) y = Conv(p, v)", "other values than 0"),
        ("c = Conv(x, w) h = ReduceMean<axes = [1]>(c) a = Add(c, h) y = Conv(a, v)", "ReduceMean"),
    ],
)  # fmt: skip
def test_what_does_not_hand_a_factor_on_is_refused(body: str, reason: str) -> None:
    report, result = equalized(body)
    assert not report.modified
    assert reason in dict(report.skipped)["Conv(c)"]
    assert "c_equalized" not in str(result)


def test_an_output_of_the_model_keeps_its_values() -> None:
    proto = build(
        "g (float[N, 3, 8, 8] x) => (r, y) { c = Conv(x, w) r = Relu(c) y = Conv(r, v) }", WEIGHTS
    )
    report = equalize(from_proto(copy(proto)))
    assert not report.modified
    assert report.skipped[0] == ("Conv(c)", "it is an output of the model")


def test_a_clip_that_is_never_reached_is_no_obstacle() -> None:
    body = "a = Sigmoid(x) c = Conv(a, w) k2 = Clip(c, zero, wide) y = Conv(k2, v)"
    report, result = equalized(body)
    assert report.modified
    assert "Clip" in ops(result)


def test_channels_that_may_reach_a_clip_keep_their_factor() -> None:
    """The first channel is small enough to be scaled, the largest is not."""
    weights = {**WEIGHTS, "six": np.array(2.0, np.float32)}
    proto = build(
        "g (float[N, 3, 8, 8] x) => (y) { a = Sigmoid(x) c = Conv(a, w)"
        " k2 = Clip(c, zero, six) y = Conv(k2, v) }",
        weights,
    )
    model = from_proto(copy(proto))
    assert equalize(model).modified
    result = sync(model)
    assert_same_function(proto, result)
    ratio = initializers(result)["w_equalized"] / initializers(proto)["w"]
    assert ratio[0].min() > 2
    np.testing.assert_array_equal(ratio[2], 1)


def test_with_a_min_they_are_scaled_too() -> None:
    body = "c = Conv(x, w) k2 = Clip(c, zero, six) y = Conv(k2, v)"
    report, result = equalized(body, cut=True)
    assert report.modified
    assert ops(result) == ["Conv", "Relu", "Min", "Conv"]


def test_both_ends_of_a_clip_are_cut() -> None:
    weights = {**WEIGHTS, "low": np.array(-0.2, np.float32)}
    text = (
        "g (float[N, 3, 8, 8] x) => (y) { c = Conv(x, w) k2 = Clip(c, low, six) y = Conv(k2, v) }"
    )
    proto = build(text, weights)
    model = from_proto(copy(proto))
    assert equalize(model, cut=True).modified
    assert_same_function(proto, sync(model))
    assert ops(sync(model)) == ["Conv", "Max", "Min", "Conv"]


def test_data_says_how_far_a_channel_may_grow() -> None:
    proto = build(
        "g (float[N, 3, 8, 8] x) => (y) { c = Conv(x, w) r = Relu(c) y = Conv(r, v) }", WEIGHTS
    )
    model = from_proto(copy(proto))
    assert seen_tensors(model) == {"r": 1}
    equalize(model, {"r": np.array([1.0, 1.0, 1.0, 1.0])})
    ratio = initializers(sync(model))["w_equalized"] / initializers(proto)["w"]
    assert ratio.max() <= 1 + 1e-6  # all are as large as the largest already
    assert ratio.min() < 0.9


def test_a_second_run_finds_nothing_to_do() -> None:
    proto = build(
        "g (float[N, 3, 8, 8] x) => (y) { c = Conv(x, w) r = Relu(c) y = Conv(r, v) }", WEIGHTS
    )
    model = from_proto(proto)
    assert equalize(model).modified
    again = equalize(model)
    assert not again.modified
    ((name, reason),) = again.skipped[:1]
    assert name.startswith("Conv(c_equalized_")
    assert reason == "its weights are alike as they are"
