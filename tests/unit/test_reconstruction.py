"""Weights rounded for what their layer writes, on small models, checked in the emitted file."""

from typing import Any

import numpy as np
import pytest

from onnxq.emit import emit
from onnxq.feeds import Batch
from onnxq.graph.io import array_of, copied, from_proto, sync
from onnxq.graph.session import Runtime
from onnxq.numerics.affine import params_of
from onnxq.parameters import weight_params
from onnxq.plan import resolve
from onnxq.recipe import Recipe, TensorRule
from onnxq.reconstruction import Rounded, Used, rounded_weights, with_rounded
from onnxq.targets import target
from onnxq.types import Array, Range
from tests.graphs import build, copy, run

RUNTIME = Runtime(threads=1)
FOUR = TensorRule(dtype="int4")
FLOATS = TensorRule(dtype="float")
MAPS = "net (float[1, 8, 9, 9] x) => (float[1, 6, 9, 9] y)"
SAME = "net (float[1, 8, 9, 9] x) => (float[1, 8, 9, 9] y)"
FLAT = "net (float[4, 12] x) => (float[4, 6] y)"
PADS = "pads = [1, 1, 1, 1]"
ROWS = "net (float[1, 5, 12] x) => (float[1, 5, 6] y)"
MODELS: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "chain": (
        f"{MAPS} {{ h = Conv<pads = [1, 1, 1, 1]>(x, w, b) r = Relu(h) y = Conv(r, v) }}",
        {"w": (16, 8, 3, 3), "b": (16,), "v": (6, 16, 1, 1)},
    ),
    "depthwise": (
        f"{MAPS} {{ h = Conv<pads = [1, 1, 1, 1], group = 8>(x, w) y = Conv(h, v) }}",
        {"w": (16, 1, 3, 3), "v": (6, 16, 1, 1)},
    ),
    "transposed": (
        f"{MAPS} {{ y = ConvTranspose<pads = [1, 1, 1, 1], group = 2>(x, w) }}",
        {"w": (8, 3, 3, 3)},
    ),
    "matmul": (f"{ROWS} {{ h = MatMul(x, w) y = MatMul(h, v) }}", {"w": (12, 16), "v": (16, 6)}),
    "left": (
        "net (float[1, 5, 12] x) => (float[1, 7, 12] y) { y = MatMul(w, x) }",
        {"w": (7, 5)},
    ),
    "shared": (
        f"{SAME} {{ h = Conv<{PADS}>(x, w) r = Relu(h) y = Conv<{PADS}>(r, w) }}",
        {"w": (8, 8, 3, 3)},
    ),
    "gemm": (
        f"{FLAT} {{ h = Gemm<transB = 1>(x, w, b) r = Relu(h) y = Gemm(r, v) }}",
        {"w": (16, 12), "b": (16,), "v": (16, 6)},
    ),
}
STACK = ("net (float[2, 5, 12] x) => (float[2, 5, 6] y) { y = MatMul(x, w) }", {"w": (2, 12, 6)})
TARGETS: dict[str, Recipe] = {
    "generic": Recipe(target="generic", weights=FOUR),
    "tensor": Recipe(target="generic", weights=TensorRule(dtype="int4", granularity="tensor")),
    "blocks": Recipe(
        target="generic",
        activations=FLOATS,
        weights=TensorRule(dtype="uint4", symmetric=False, granularity="block:8"),
    ),
    "fixed-point": Recipe(target="fixed-point", weights=FOUR),
    "crossbar": Recipe(target="crossbar", crossbar="16x8", weights=FOUR, activations=FLOATS),
}


class Case:
    """A model, quantized, with the weights of its layers rounded."""

    def __init__(self, name: str, recipe: Recipe) -> None:
        proto = build(*{**MODELS, "stack": STACK}[name], opset=21, ir=10)
        shape = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
        rng = np.random.default_rng(0)
        base = rng.normal(size=(12, *shape))
        mixed = base + 2 * base.mean(axis=2, keepdims=True)  # correlated, as real inputs are
        self.feeds = [{"x": x.astype(np.float32)} for x in mixed]
        self.proto = proto
        self.model = from_proto(copy(proto))
        self.plan = resolve(self.model, target(recipe.target or "cpu"), recipe)
        self.used = Used(
            activations={name: self._params(name) for name in self.plan.activations},
            weights=weight_params(self.plan, self.model),
        )
        samples = [Batch(inputs=f, labels={}, samples=1, splittable=False) for f in self.feeds]
        self.rounded = rounded_weights(self.model, self.plan, self.used, samples, RUNTIME)

    def _params(self, name: str) -> Any:
        planned = self.plan.activations[name]
        shared = planned.shares
        seen = [f["x"] if shared == "x" else run(self.proto, f, names=[shared])[0]
                for f in self.feeds]  # fmt: skip
        whole = Range.containing_zero(min(x.min() for x in seen), max(x.max() for x in seen))
        return params_of(whole.within(*planned.spec.bounds), planned.spec)

    def error(self, rounded: dict[Any, Rounded]) -> float:
        """Return the squared error of the emitted model's output."""
        model = copied(self.model)
        with_rounded(model, rounded)
        emit(model, self.plan, self.used.activations, self.used.weights)
        proto = sync(model)
        pairs = ((run(self.proto, f)[0], run(proto, f)[0]) for f in self.feeds)
        return float(sum(((y - z) ** 2).sum() for y, z in pairs))


@pytest.mark.parametrize("target_name", TARGETS)
@pytest.mark.parametrize("name", MODELS)
def test_every_layer_is_rounded_and_no_worse(name: str, target_name: str) -> None:
    case = Case(name, TARGETS[target_name])
    weights = sum(len(node.weights) for node in case.plan.nodes.values())
    assert len(case.rounded) == weights > 0
    for key, each in case.rounded.items():
        assert each.after <= each.before * (1 + 1e-9)
        assert 0 <= each.after < 1
        again = Used(activations={}, weights=case.used.weights).weight(key, each.values)
        assert np.array_equal(again, each.values)  # on the grid: emitting changes nothing


@pytest.mark.parametrize("target_name", ["generic", "blocks", "crossbar"])
@pytest.mark.parametrize("name", ["chain", "depthwise", "matmul", "gemm", "shared"])
def test_the_model_gains(name: str, target_name: str) -> None:
    case = Case(name, TARGETS[target_name])
    assert case.error(case.rounded) < case.error({})


def test_a_shared_weight_is_rounded_for_each_of_its_layers() -> None:
    case = Case("shared", TARGETS["generic"])
    first, second = (each.values for each in case.rounded.values())
    assert (first != second).any()
    with_rounded(case.model, case.rounded)
    found: list[Array] = [array_of(n.inputs[1]) for n in case.model.graph.nodes if n.op == "Conv"]
    assert np.array_equal(found[0], first)
    assert np.array_equal(found[1], second)


def test_a_stack_of_matrices_keeps_the_nearest_codes() -> None:
    assert Case("stack", TARGETS["generic"]).rounded == {}
