"""Layers of hand-written pairs of models: who adds the error, and who carries it."""

import gc
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx
import pytest

from onnxq.errors import ModelError
from onnxq.feeds import Batch
from onnxq.graph.io import Model, from_proto
from onnxq.graph.segments import Cut
from onnxq.graph.session import Runtime
from onnxq.layers import Layer, rank
from tests.graphs import build

RUNTIME = Runtime(threads=1)
SIZE = 16
RNG = np.random.default_rng(0)
CENTERED = RNG.normal(size=(SIZE, SIZE))
CENTERED -= CENTERED.mean(axis=0)  # the common part of its inputs cancels, their noise does not
WEIGHTS = {
    "w1": np.abs(RNG.normal(size=(SIZE, SIZE))).astype(np.float32),
    "w2": CENTERED.astype(np.float32),
    "w3": RNG.normal(size=(SIZE, SIZE)).astype(np.float32),
}
FLOAT = """
g (float[N, 16] x) => (float[N, 16] y)
{ a = MatMul(x, w1) r = Relu(a) b = MatMul(r, w2) t = Transpose<perm = [1, 0]>(b)
  u = Transpose<perm = [1, 0]>(t) y = MatMul(u, w3) }
"""
QUANTIZED = """
g (float[N, 16] x) => (float[N, 16] y)
{
  xq = QuantizeLinear(x, sx, zx) xd = DequantizeLinear(xq, sx, zx)
  w1d = DequantizeLinear(w1q, s1, zw)
  a = MatMul(xd, w1d) r_float = Relu(a)
  rq = QuantizeLinear(r_float, sr, zr) r = DequantizeLinear(rq, sr, zr)
  w2d = DequantizeLinear(w2q, s2, zw)
  b_float = MatMul(r, w2d)
  bq = QuantizeLinear(b_float, sb, zb) b = DequantizeLinear(bq, sb, zb)
  t_float = Transpose<perm = [1, 0]>(b)
  tq = QuantizeLinear(t_float, sb, zb) t = DequantizeLinear(tq, sb, zb)
  u = Transpose<perm = [1, 0]>(t)
  w3d = DequantizeLinear(w3q, s3, zw)
  y = MatMul(u, w3d)
}
"""
STRANGER = """
g (float[N, 16] i) => (float[N, 16] o) { q = QuantizeLinear(i, sx) o = DequantizeLinear(q, sx) }
"""


def data(rows: int = 32, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (rows, SIZE)).astype(np.float32)


def batch(x: np.ndarray) -> Batch:
    return Batch(inputs={"x": x}, labels={}, samples=len(x), splittable=True)


def models(text: str = QUANTIZED, **scales: float) -> tuple[Model, Model]:
    """A float model and its quantized one; keywords multiply scales."""
    r = np.maximum(data() @ WEIGHTS["w1"], 0)
    b = r @ WEIGHTS["w2"]
    values = {"sx": 1 / 255, "sr": r.max() / 255, "sb": 2.4 * np.abs(b).max() / 255}
    constants = {k: np.array(v * scales.get(k, 1), np.float32) for k, v in values.items()}
    constants |= {"zx": np.uint8(0), "zr": np.uint8(0), "zb": np.uint8(128), "zw": np.int8(0)}
    for key, weight in WEIGHTS.items():
        scale = np.float32(np.abs(weight).max() / 127 * scales.get(key, 1))
        codes = np.clip(np.rint(weight / scale), -127, 127).astype(np.int8)
        constants |= {f"{key}q": codes, f"s{key[1]}": scale}
    constants = {k: np.asarray(v) for k, v in constants.items() if k in text}
    return from_proto(build(FLOAT, WEIGHTS)), from_proto(build(text, constants))


def ranked(text: str = QUANTIZED, **scales: float) -> list[Layer]:
    return rank(*models(text, **scales), [batch(data())], RUNTIME)


def by_output(layers: list[Layer]) -> dict[str, Layer]:
    return {layer.output: layer for layer in layers}


# --- cutting


def test_layers_end_at_the_tensors_both_models_have() -> None:
    segments = Cut(*models()).segments
    assert [s.output for s in segments] == ["r", "b", "t", "y"]
    assert [s.inputs for s in segments] == [("x",), ("r",), ("b",), ("u",)]
    assert [s.op for s in segments] == ["MatMul", "MatMul", "Transpose", "MatMul"]


def test_what_an_activation_absorbs_is_no_layer_of_its_own_and_names_the_node() -> None:
    first = Cut(*models()).segments[0]
    assert first.label == "MatMul(a)"
    assert first.readers == ("MatMul(b)",)


def test_grids_are_those_of_the_pairs() -> None:
    first, second, _, last = Cut(*models()).segments
    assert first.grid is not None
    assert first.grid.dtype.name == "uint8"
    assert list(first.input_grids) == ["x"]
    assert second.input_grids == {}
    assert last.grid is None


def test_a_pair_by_itself_is_a_layer() -> None:
    text = FLOAT.replace("y = MatMul(u, w3)", "v = Identity(u) y = MatMul(v, w3)")
    bare = "vq = QuantizeLinear(u, sb, zb) v = DequantizeLinear(vq, sb, zb) y = MatMul(v, w3d)"
    _, other = models(QUANTIZED.replace("y = MatMul(u, w3d)", bare))
    segments = {s.output: s for s in Cut(from_proto(build(text, WEIGHTS)), other).segments}
    assert segments["v"].inputs == ("u",)


def test_a_name_inside_the_kernel_that_others_read_is_a_boundary() -> None:
    text = FLOAT.replace("y = MatMul(u, w3)", "v = Add(u, a) y = MatMul(v, w3)")
    quantized = QUANTIZED.replace("y = MatMul(u, w3d)", "v = Add(u, a) y = MatMul(v, w3d)")
    _, other = models(quantized)
    segments = Cut(from_proto(build(text, WEIGHTS)), other).segments
    assert [s.output for s in segments] == ["a", "r", "b", "t", "y"]


def test_a_network_of_one_layer_has_one() -> None:
    text = "g (float[N, 16] x) => (float[N, 16] y) { y = MatMul(x, w1) }"
    quantized = """
    g (float[N, 16] x) => (float[N, 16] y)
    { xq = QuantizeLinear(x, sx, zx) xd = DequantizeLinear(xq, sx, zx) y = MatMul(xd, w1) }
    """
    constants = {"sx": np.array(1 / 255, np.float32), "zx": np.array(0, np.uint8)}
    other = from_proto(build(quantized, {**constants, "w1": WEIGHTS["w1"]}))
    reference = from_proto(build(text, {"w1": WEIGHTS["w1"]}))
    assert [s.output for s in Cut(reference, other).segments] == ["y"]


@pytest.mark.parametrize(
    ("quantized", "words"),
    [
        (FLOAT, "no QuantizeLinear"),
        (STRANGER, "was the one made from the other"),
    ],
)
def test_models_without_common_layers_are_refused(quantized: str, words: str) -> None:
    constants = WEIGHTS if quantized is FLOAT else {"sx": np.array(1, np.float32)}
    other = from_proto(build(quantized, constants))
    with pytest.raises(ModelError, match=words):
        Cut(models()[0], other)


# --- measuring


def test_the_first_layer_carries_nothing_and_adds_all() -> None:
    first = by_output(ranked())["r"]
    assert first.noise.carried == 0
    assert first.noise.added == first.noise.total > 0
    assert 30 < first.sqnr < 60


def test_numbers_are_those_of_the_definition() -> None:
    """The second layer, computed by hand from the codes."""
    reference, quantized = models()
    value = {t.name: onnx.numpy_helper.to_array(t) for t in quantized.proto.graph.initializer}
    x, w2 = data(), WEIGHTS["w2"]

    def grid(real: np.ndarray, name: str) -> np.ndarray:
        scale, zero = value[f"s{name}"], value[f"z{name}"].astype(np.float64)
        return (np.clip(np.rint(real / scale) + zero, 0, 255) - zero) * scale

    y = np.maximum(x @ WEIGHTS["w1"], 0) @ w2
    read = grid(np.maximum(grid(x, "x") @ (value["w1q"] * value["s1"]), 0), "r")
    wrote = grid(read @ (value["w2q"] * value["s2"]), "b")
    noise = by_output(rank(reference, quantized, [batch(x)], RUNTIME))["b"].noise
    assert noise.signal == pytest.approx(np.square(y).sum(), rel=1e-4)
    assert noise.carried == pytest.approx(np.square(read @ w2 - y).sum(), rel=0.02)
    assert noise.added == pytest.approx(np.square(wrote - read @ w2).sum(), rel=0.02)
    assert noise.total == pytest.approx(np.square(wrote - y).sum(), rel=0.02)


@pytest.mark.parametrize("broken", ["r", "b"])
def test_a_broken_grid_is_ranked_first_although_later_layers_carry_more(broken: str) -> None:
    layers = ranked(**{f"s{broken}": 50})
    assert layers[0].output == broken
    assert layers[0].shares["output"] > 0.9
    if broken == "r":
        later = by_output(layers)["b"]
        assert later.sqnr < layers[0].sqnr  # the error is larger there
        assert later.added < layers[0].added / 10


def test_broken_weights_are_ranked_first_and_named() -> None:
    first = ranked(w2=50)[0]
    assert first.output == "b"
    assert first.shares["weights"] > 0.9


def test_a_broken_input_grid_counts_for_the_layer_that_reads_with_it() -> None:
    first = ranked(sx=50)[0]
    assert first.output == "r"
    assert first.shares["inputs"] > 0.9


def test_moving_values_on_their_grid_adds_nothing() -> None:
    moved = by_output(ranked(sb=50))["t"]
    assert moved.noise.added == 0
    assert moved.added == moved.effect == 0
    assert moved.noise.carried == moved.noise.total > 0


def test_a_layer_kept_float_adds_nothing() -> None:
    float_b = QUANTIZED.replace("b_float = MatMul(r, w2d)", "b = MatMul(r, w2)").replace(
        "bq = QuantizeLinear(b_float, sb, zb) b = DequantizeLinear(bq, sb, zb)", ""
    )
    float_b = float_b.replace("w2d = DequantizeLinear(w2q, s2, zw)", "")
    reference, _ = models()
    _, quantized = models(float_b.replace("w2)", "w2q)"))  # for its constants only
    proto = quantized.proto
    for tensor in proto.graph.initializer:
        if tensor.name == "w2q":
            tensor.CopyFrom(onnx.numpy_helper.from_array(WEIGHTS["w2"], "w2q"))
    layers = rank(reference, from_proto(proto), [batch(data())], RUNTIME)
    assert "b" not in by_output(layers)
    assert {"r", "t", "y"} == set(by_output(layers))


def test_the_effect_of_the_last_layer_is_what_it_adds() -> None:
    last = by_output(ranked())["y"]
    assert last.effect == pytest.approx(last.added, rel=1e-3)


def test_the_effect_leaves_the_errors_of_all_others_out() -> None:
    layers = by_output(ranked(sr=50))
    assert layers["y"].sqnr < 25  # all errors together
    assert layers["y"].effect_sqnr > 30  # its own
    assert layers["r"].effect_sqnr < 25


def test_batches_add_up() -> None:
    x = data()
    whole = by_output(rank(*models(), [batch(x)], RUNTIME))
    parts = by_output(rank(*models(), [batch(x[:8]), batch(x[8:])], RUNTIME))
    for output, layer in whole.items():
        assert parts[output].noise.added == pytest.approx(layer.noise.added, rel=1e-3)
        assert parts[output].noise.signal == pytest.approx(layer.noise.signal, rel=1e-3)


def test_elements_that_are_not_finite_are_left_out() -> None:
    masked = "zero = Sub(u, u) masked = Div(u, zero) v = Max(masked, u) y = MatMul(v, "
    reference = from_proto(build(FLOAT.replace("y = MatMul(u, ", masked), WEIGHTS))
    _, quantized = models(QUANTIZED.replace("y = MatMul(u, ", masked))
    last = by_output(rank(reference, quantized, [batch(data())], RUNTIME))["y"]
    assert np.isfinite(last.noise.signal + last.noise.total + last.noise.added)
    assert np.isfinite(last.effect)


def test_other_shapes_under_the_same_name_are_refused() -> None:
    text = QUANTIZED.replace("tq = QuantizeLinear(t_float", "tq = QuantizeLinear(b").replace(
        "u = Transpose<perm = [1, 0]>(t)", "u = Identity(t)"
    )
    with pytest.raises(ModelError, match="was it made from it"):
        rank(*models(text), [batch(data(rows=8))], RUNTIME)


def test_memory_does_not_grow_with_the_number_of_batches() -> None:
    def peak(count: int) -> int:
        def batches() -> Iterator[Batch]:
            for seed in range(count):
                yield batch(data(rows=4096, seed=seed))

        pair = models()
        gc.collect()
        tracemalloc.start()
        rank(*pair, batches(), RUNTIME)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1)
    assert peak(12) < 1.2 * peak(3)


def test_no_signal_and_noise_is_infinitely_bad_and_no_noise_is_nothing() -> None:
    layer = Layer(name="n", op="Conv", output="y")
    assert layer.added == 0
    assert layer.shares == {"inputs": 0.0, "weights": 0.0, "output": 0.0}
    assert replace(layer, noise=replace(layer.noise, added=1.0)).added == np.inf
