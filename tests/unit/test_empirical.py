"""Biases by the mean error of the quantized model: what it writes has the float model's means."""

import numpy as np
import pytest

from onnxq.emit import emit
from onnxq.empirical import correct_empirically, layers_of
from onnxq.feeds import Batch
from onnxq.graph.chain import Chain
from onnxq.graph.io import copied, from_proto, sync
from onnxq.graph.session import Runtime
from onnxq.numerics.affine import params_of
from onnxq.parameters import weight_params
from onnxq.plan import Plan, resolve
from onnxq.recipe import Recipe, TensorRule
from onnxq.reconstruction import Used
from onnxq.types import Array, QuantParams, Range
from tests.graphs import Feed, build, copy, eager, run

RUNTIME = Runtime(threads=1)
CHAIN = (
    """net (float[1, 4, 9, 9] x) => (float[1, 5] y) {
        a = Conv<pads = [1, 1, 1, 1]>(x, w0, b0)
        r = Relu(a)
        c = Conv<group = 2>(r, w1, b1)
        s = Sigmoid(c)
        d = Conv(s, w2, b2)
        f = GlobalAveragePool(d)
        g = Flatten(f)
        y = Gemm(g, w3, b3)
    }""",
    {"w0": (6, 4, 3, 3), "w1": (6, 3, 3, 3), "w2": (4, 6, 1, 1), "w3": (4, 5),
     "b0": (6,), "b1": (6,), "b2": (4,), "b3": (5,)},
    ["a", "c", "d", "y"],
)  # fmt: skip
ADDED = (
    """net (float[1, 7, 12] x) => (float[1, 7, 5] y) {
        m = MatMul(x, w0)
        a = Add(b0, m)
        t = Tanh(a)
        n = MatMul(t, w1)
        y = Add(n, b1)
    }""",
    {"w0": (12, 8), "w1": (8, 5), "b0": (8,), "b1": (5,)},
    ["a", "y"],
)
TRANSPOSED = (
    (
        "net (float[1, 4, 5, 5] x) => (float[1, 6, 9, 9] y) "
        "{ y = ConvTranspose<strides = [2, 2], pads = [1, 1, 1, 1], group = 2>(x, w, b) }"
    ),
    {"w": (4, 3, 3, 3), "b": (6,)},
    ["y"],
)
COARSE = Recipe(weights=TensorRule(granularity="tensor"))
TILES = Recipe(crossbar="8x3")


class Case:
    """A model, its plan and parameters by extremes."""

    def __init__(self, case: tuple[str, dict, list[str]], on: str = "cpu", count: int = 1) -> None:
        text, weights, self.layers = case
        self.proto = build(text, weights, opset=21, ir=10)
        self.model = from_proto(copy(self.proto))
        self.plan: Plan = resolve(self.model, eager(on), COARSE if on != "crossbar" else TILES)
        rng = np.random.default_rng(5)
        shape = [d.dim_value for d in self.proto.graph.input[0].type.tensor_type.shape.dim]
        self.feeds: list[Feed] = [
            {"x": (rng.normal(size=shape) + 0.5).astype(np.float32)} for _ in range(count)
        ]
        self.activations = {name: self._params(name) for name in self.plan.activations}
        self.weights = weight_params(self.plan, self.model)

    def _params(self, name: str) -> QuantParams:
        planned = self.plan.activations[name]
        seen = [
            feed["x"] if planned.shares == "x" else run(self.proto, feed, names=[planned.shares])[0]
            for feed in self.feeds
        ]
        low, high = min(x.min() for x in seen), max(x.max() for x in seen)
        chosen = Range.containing_zero(low / 2, high / 2)  # clips, so that means move
        return params_of(chosen.within(*planned.spec.bounds), planned.spec)

    def correct(self) -> int:
        samples = [Batch(inputs=f, labels={}, samples=1, splittable=False) for f in self.feeds]
        used = Used(activations=self.activations, weights=self.weights)
        return correct_empirically(self.model, self.plan, used, samples, RUNTIME)

    def misses(self) -> dict[str, float]:
        """Return the largest mean error of a channel of each layer, in the emitted model."""
        model = copied(self.model)
        nodes = {node.outputs[0].name: node for node in model.graph.nodes}
        emit(model, self.plan, self.activations, self.weights)
        names = [nodes[name].outputs[0].name for name in self.layers]
        found = run(sync(model), self.feeds[0], names=names)
        wanted = run(self.proto, self.feeds[0], names=self.layers)
        pairs = zip(self.layers, wanted, found, strict=True)
        return {n: float(np.abs(means(y) - means(z)).max()) for n, y, z in pairs}


def means(values: Array) -> Array:
    """Return channel means; of maps the channels are the second axis, else the last."""
    moved = np.moveaxis(values, 1 if values.ndim == 4 else -1, 0)
    return moved.reshape(len(moved), -1).mean(axis=1)


@pytest.mark.parametrize(
    ("case", "on"),
    [(CHAIN, "cpu"), (ADDED, "cpu"), (CHAIN, "tensorrt"), (CHAIN, "crossbar"),
     (CHAIN, "fixed-point"), (TRANSPOSED, "generic"), (CHAIN, "qnn")],
)  # fmt: skip
def test_on_one_sample_all_layers_have_the_means_of_the_float_model(
    case: tuple[str, dict, list[str]], on: str
) -> None:
    model = Case(case, on)
    before = model.misses()
    assert model.correct() == len(model.layers)
    after = model.misses()
    for name in model.layers:
        assert after[name] < 0.02 * before[name] + 1e-4, (name, before, after)
    assert max(before.values()) > 0.01


def test_every_piece_runs_once_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    plain = Chain.run

    def counted(self: Chain, values: Feed, start: int, stop: int) -> dict[str, Array]:
        runs.append(start)
        return plain(self, values, start, stop)

    monkeypatch.setattr(Chain, "run", counted)
    model = Case(CHAIN, count=3)
    model.correct()
    assert sorted(runs) == sorted([0, 1, 2, 3] * 3)


def test_layers_without_a_bias_that_adds_as_it_is_are_left_alone() -> None:
    body = (
        "{ m = MatMul(x, w) r = Relu(m) p = MatMul(r, v) n = Add(p, k) q = MatMul(n, v) "
        "o = MatMul(q, v) s = Add(o, o) y = Gemm<beta = 0.5>(s, v, k) }"
    )
    weights = {"w": (4, 4), "v": (4, 4), "k": (4,)}
    proto = build(f"net (float[3, 4] x) => (float[3, 4] y) {body}", weights)
    model = from_proto(proto)
    plan = resolve(model, eager("crossbar"), Recipe(crossbar="4x4"))
    assert [layer.output for layer in layers_of(model, plan)] == ["n"]


def test_without_samples_nothing_is_corrected() -> None:
    model = Case(CHAIN, count=1)
    model.feeds = []
    assert model.correct() == 0
