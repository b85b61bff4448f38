"""Ranges by the output of the layers that read a tensor, checked in plain numpy."""

import numpy as np
import pytest

from onnxq.feeds import Batch
from onnxq.graph.io import from_proto
from onnxq.graph.session import Runtime
from onnxq.numerics.affine import fake_quantize, params_of
from onnxq.numerics.range_fit import Fit
from onnxq.plan import Plan, resolve
from onnxq.range_fit import fitted_ranges, readers_of, with_fits
from onnxq.recipe import Recipe, TensorRule
from onnxq.types import Array, QuantParams, Range
from tests.graphs import build, copy, eager, initializers
from tests.graphs import run as outputs

RUNTIME = Runtime(threads=1)
RNG = np.random.default_rng(0)
HEAVY = RNG.standard_t(2.5, size=(6, 1, 4, 9)).astype(np.float32)

DENSE = ("net (float[1, 4, 9] x) => (float[1, 4, 5] y) { y = MatMul(x, w) }", {"w": (9, 5)})
CONV = ("net (float[1, 4, 9] x) => (float[1, 6, 7] y) { y = Conv(x, w, b) }",
        {"w": (6, 4, 3), "b": (6,)})  # fmt: skip
MOVED = (
    (
        "net (float[1, 4, 9] x) => (float[1, 4, 5] z, float[1, 9, 5] y) "
        "{ z = MatMul(x, w) t = Transpose<perm = [0, 2, 1]>(x) y = MatMul(t, v) }"
    ),
    {"w": (9, 5), "v": (4, 5)},
)
PAIR = (
    (
        "net (float[1, 4, 9] x) => (float[1, 4, 4] y) "
        "{ t = Transpose<perm = [0, 2, 1]>(x) y = MatMul(x, t) }"
    ),
    {},
)
JOIN = (
    "net (float[1, 4, 9] x) => (float[1, 3, 9] y) { a = Conv(x, w) s = Add(a, x) y = Conv(s, v) }",
    {"w": (4, 4, 1), "v": (3, 4, 1)},
)
MODELS = {"dense": DENSE, "conv": CONV, "moved": MOVED, "pair": PAIR, "join": JOIN}


def prepared(
    name: str, samples: Array, recipe: Recipe | None = None
) -> tuple[Plan, dict[str, QuantParams], dict[str, Fit]]:
    """Quantize the inputs of a model by their extremes, then fit."""
    text, weights = MODELS[name]
    proto = build(text, weights)
    model = from_proto(copy(proto))
    plan = resolve(model, eager(), recipe or Recipe())
    exposed = [n for n in plan.activations if n != "x"]
    seen = {"x": samples}
    for each in samples:
        for key, value in zip(
            exposed, outputs(proto, {"x": each}, names=exposed) if exposed else [], strict=True
        ):
            seen[key] = np.append(seen.get(key, np.zeros(0)), value)
    chosen: dict[str, QuantParams] = {}
    for key, planned in plan.activations.items():
        values = seen[planned.shares]
        whole = Range.containing_zero(values.min(), values.max())
        chosen[key] = params_of(whole.within(*planned.spec.bounds), planned.spec)
    fits = fitted_ranges(model, plan, chosen, batches(samples), RUNTIME)
    return plan, chosen, fits


def batches(samples: Array) -> list[Batch]:
    return [Batch(inputs={"x": x}, labels={}, samples=1, splittable=False) for x in samples]


def noise(name: str, samples: Array, params: QuantParams) -> float:
    """Return the squared error of the output when x alone is quantized, float weights."""
    proto = build(*MODELS[name])
    total = 0.0
    for x in samples:
        (y,), (near,) = (outputs(proto, {"x": each}) for each in (x, fake_quantize(x, params)))
        total += float(((near.astype(np.float64) - y) ** 2).sum())
    return total


@pytest.mark.parametrize("name", ["dense", "conv"])
def test_the_error_of_the_layer_falls_as_reported(name: str) -> None:
    _, chosen, fits = prepared(name, HEAVY)
    before, after = noise(name, HEAVY, chosen["x"]), noise(name, HEAVY, fits["x"].params)
    assert after <= before
    assert after / before == pytest.approx(fits["x"].after / fits["x"].before, rel=1e-3)


def test_what_the_layer_ignores_may_be_clipped() -> None:
    samples = RNG.normal(size=(6, 1, 4, 9)).astype(np.float32)
    samples[:, :, 2] *= 100  # a channel the weights do not look at
    weights = {"w": RNG.normal(size=(6, 4, 3)).astype(np.float32), "b": np.zeros(6, np.float32)}
    weights["w"][:, 2] = 0
    MODELS["ignoring"] = CONV[0], weights
    _, chosen, fits = prepared("ignoring", samples)
    assert fits["x"].params.scale < 0.5 * chosen["x"].scale
    assert fits["x"].after < 0.3 * fits["x"].before


def test_what_the_layer_needs_is_not_clipped() -> None:
    samples = np.full((6, 1, 4, 9), 0.1, np.float32)
    samples += RNG.normal(0, 0.05, samples.shape).astype(np.float32)
    samples[..., 0] = 3 + 0.01 * np.arange(6)[:, None, None]  # clipping it would cost the most
    _, chosen, fits = prepared("dense", samples)
    assert fits["x"].params.scale > 0.95 * chosen["x"].scale


def test_readers_are_found_through_what_moves_values() -> None:
    for name, expected in {
        "dense": [("x", "MatMul")],
        "moved": [("x", "MatMul"), ("t", "MatMul")],
        "pair": [("x", "MatMul"), ("t", "MatMul")],
    }.items():
        model = from_proto(build(*MODELS[name]))
        plan = resolve(model, eager(), Recipe())
        found = readers_of(model, plan, "x")
        assert [(r.tensor, r.node.op if r.node else None) for r in found] == expected


def test_other_readers_count_by_the_tensor_itself() -> None:
    model = from_proto(build(*JOIN))
    plan = resolve(model, eager(), Recipe())
    found = readers_of(model, plan, "x")
    assert [r.node.op if r.node else None for r in found] == ["Conv", None]
    _, chosen, fits = prepared("join", HEAVY)
    weight = initializers(build(*JOIN))["w"][:, :, 0]
    both = 0.0
    for of in (lambda x: weight @ x, lambda x: x):
        error = sum(float((of(fake_quantize(x, chosen["x"]) - x) ** 2).sum()) for x in HEAVY)
        both += error / sum(float((of(x) ** 2).sum()) for x in HEAVY)
    assert fits["x"].before == pytest.approx(both, rel=1e-3)


def test_sharers_take_what_was_fitted() -> None:
    plan, chosen, fits = prepared("moved", HEAVY)
    after = with_fits(plan, chosen, fits)
    assert after["t"] is after["x"] is fits["x"].params
    assert set(after) == set(chosen)


def test_what_is_given_or_read_by_no_layer_stays() -> None:
    rule = TensorRule(range="given", range_options={"lo": -1, "hi": 1})
    recipe = Recipe(tensors={"x": rule})
    assert not prepared("dense", HEAVY, recipe)[2]
    plan, _, fits = prepared("join", HEAVY)
    assert {"a", "s"} <= set(plan.activations)
    assert "s" in fits
    assert "a" not in fits  # an Add alone reads it


def test_without_samples_nothing_is_fitted() -> None:
    model = from_proto(build(*DENSE))
    plan = resolve(model, eager(), Recipe())
    spec = plan.activations["x"].spec
    chosen = {"x": params_of(Range(np.float64(-1), np.float64(1)), spec)}
    assert fitted_ranges(model, plan, chosen, [], RUNTIME) == {}
