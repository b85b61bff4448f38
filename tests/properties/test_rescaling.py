"""Rescaled graphs compute what they did; what interval arithmetic promises holds."""

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxq.graph.bounds import channel_bounds
from onnxq.graph.io import from_proto, sync
from onnxq.graph.session import Runtime
from onnxq.passes.equalize import equalize
from onnxq.passes.smooth import smooth
from onnxq.rescaling import maxima
from tests.graphs import assert_same_function, build, copy, feed_for, run

ACTIVATIONS = ("Relu({})", "Clip({}, zero, six)", "PRelu({}, slope)", "Clip({}, low, six)", "")
CHANNELS = 6


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    """A chain of layers: pointwise, depthwise, residual; weights of very different channels."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    spread = draw(st.floats(0, 3))
    weights: dict[str, np.ndarray] = {}
    lines, last = [], "x"
    for number in range(draw(st.integers(2, 5))):
        kind = draw(st.sampled_from(["Conv", "depthwise", "residual"]))
        group = CHANNELS if kind == "depthwise" else 1
        shape = (CHANNELS, CHANNELS // group, 3, 3) if group > 1 else (CHANNELS, CHANNELS, 1, 1)
        even = rng.normal(size=shape) * np.exp(spread * rng.normal(size=(CHANNELS, 1, 1, 1)))
        weights[f"w{number}"] = even.astype(np.float32)
        weights[f"b{number}"] = rng.normal(size=CHANNELS).astype(np.float32)
        pads = "pads = [1, 1, 1, 1], " if group > 1 else ""
        lines.append(f"c{number} = Conv<{pads}group = {group}>({last}, w{number}, b{number})")
        before, last = last, f"c{number}"
        if kind == "residual" and before != "x":
            lines.append(f"s{number} = Add({last}, {before})")
            last = f"s{number}"
        activation = draw(st.sampled_from(ACTIVATIONS))
        if activation:
            lines.append(f"a{number} = {activation.format(last)}")
            last = f"a{number}"
    weights |= {
        "zero": np.array(0, np.float32),
        "six": np.array(6, np.float32),
        "low": np.array(-1.5, np.float32),
        "slope": rng.normal(size=(CHANNELS, 1, 1)).astype(np.float32),
    }
    first = "x = Sigmoid(i)" if draw(st.booleans()) else "x = Identity(i)"
    text = (
        f"g (float[2, {CHANNELS}, 5, 5] i) => (y) {{ {first} {' '.join(lines)} y = Abs({last}) }}"
    )
    return build(text, weights)


@settings(max_examples=40, deadline=None)
@given(networks(), st.booleans(), st.booleans())
def test_equalization_keeps_the_function(
    proto: onnx.ModelProto, cut: bool, with_data: bool
) -> None:
    model = from_proto(copy(proto))
    seen = None
    if with_data:
        axes = {name: 1 for node in proto.graph.node for name in node.output}
        seen = maxima(model, axes, [feed_for(proto)], Runtime(threads=1))
    report = equalize(model, seen, cut=cut)
    result = sync(model)
    onnx.checker.check_model(result, full_check=True)
    assert_same_function(proto, result)
    before = {name for node in proto.graph.node for name in node.output}
    after = {name for node in result.graph.node for name in node.output}
    assert (after != before) == report.modified


@settings(max_examples=30, deadline=None)
@given(networks())
def test_equalization_changes_only_values_of_tensors_it_renames(proto: onnx.ModelProto) -> None:
    model = from_proto(copy(proto))
    equalize(model)
    result, feed = sync(model), feed_for(proto)
    before = {name for node in proto.graph.node for name in node.output}
    same = sorted(before & {name for node in result.graph.node for name in node.output})
    pairs = zip(run(proto, feed, names=same), run(result, feed, names=same), strict=True)
    for one, other in pairs:
        scale = max(float(np.abs(one).max()), 1e-3)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * scale)


@settings(max_examples=30, deadline=None)
@given(networks(), st.integers(0, 2**16))
def test_no_value_is_outside_of_its_bounds(proto: onnx.ModelProto, seed: int) -> None:
    bounds = channel_bounds(from_proto(copy(proto)))
    names = [name for name in bounds if name != "y"]
    feed = {name: 50 * each for name, each in feed_for(proto, seed).items()}
    for name, values in zip(names, run(proto, feed, names=names) if names else [], strict=True):
        low, high = (end.reshape(1, -1, 1, 1) for end in bounds[name])
        assert (values >= low - 1e-6).all()
        assert (values <= high + 1e-6).all()


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["LayerNormalization(x, s, b)", "Mul(x, s)", "MatMul(x, k)", "Relu(x)"]),
    st.floats(0, 1),
    st.integers(0, 2**16),
    st.booleans(),
)
def test_smoothing_keeps_the_function(writer: str, alpha: float, seed: int, residual: bool) -> None:
    sizes = {"s": (7,), "b": (7,), "k": (7, 7), "w": (7, 5), "v": (7, 7)}
    end = "y = Add(q, n)" if residual else "y = Relu(q)"
    text = (
        f"g (float[3, 4, 7] x) => (p, y) {{ n = {writer} p = MatMul(n, w) q = MatMul(n, v) {end} }}"
    )
    proto = build(text, sizes, opset=17, seed=seed)
    seen = {"n": np.exp(3 * np.random.default_rng(seed).normal(size=7))}
    model = from_proto(copy(proto))
    report = smooth(model, seen, alpha, insert=True)
    assert_same_function(proto, sync(model))
    assert report.modified
