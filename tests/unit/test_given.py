"""What a recipe asks of single tensors, and the range it gives them."""

from pathlib import Path

import numpy as np
import pytest

from onnxq.errors import RecipeError
from onnxq.graph.io import from_proto
from onnxq.numerics.affine import params_of
from onnxq.numerics.extremes import extremes
from onnxq.numerics.fixed_point import positions
from onnxq.passes.prepare import prepare
from onnxq.plan import Plan, resolve
from onnxq.ranges import range_algorithm
from onnxq.ranges.given import Given
from onnxq.recipe import Recipe
from onnxq.types import IntType, QuantSpec
from tests.graphs import build, eager

CONV = """agraph (float[N, 4, 8, 8] x) => (float[N, 4, 8, 8] y) {
    c = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(x, w)
    r = Relu(c)
    m = MaxPool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(r)
    y = Conv<kernel_shape=[1, 1]>(m, v)
}"""
SEEN = extremes(np.linspace(-1, 3, 100, dtype=np.float32), ())
INT8 = IntType(8, signed=True)


def plan_of(tensors: object, target: str = "cpu") -> Plan:
    model = from_proto(build(CONV, {"w": (4, 4, 3, 3), "v": (4, 4, 1, 1)}), Path("m.onnx"))
    prepare(model)
    return resolve(model, eager(target), Recipe.from_dict({"tensors": tensors}))


def test_ends() -> None:
    chosen = Given(lo=-4, hi=2.5)(
        SEEN, QuantSpec(dtype=INT8, symmetric=False, range=Given(lo=0, hi=0))
    )
    assert (float(chosen.lo), float(chosen.hi)) == (-4, 2.5)


@pytest.mark.parametrize("position", [-3, 0, 5, 20])
def test_position_comes_back(position: int) -> None:
    spec = QuantSpec(dtype=INT8, symmetric=True, range=Given(position=position), power_of_two=True)
    assert positions(params_of(spec.range(SEEN, spec), spec)) == position


def test_one_a_channel() -> None:
    values = np.ones((3, 2), np.float32)
    spec = QuantSpec(
        dtype=INT8, symmetric=True, range=Given(position=[1, 2, 3]), power_of_two=True, tile=(1, 0)
    )
    found = params_of(spec.range(extremes(values, spec.tile), spec), spec)
    assert positions(found).ravel().tolist() == [1, 2, 3]
    with pytest.raises(RecipeError, match="2 entries for a tensor of 3 scales"):
        Given(position=[1, 2])(extremes(values, spec.tile), spec)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lo": -1},
        {"lo": -1, "hi": 1, "position": 3},
        {"position": 3, "hi": 1},
        {"lo": 1, "hi": 2},
        {"lo": -1, "hi": float("inf")},
        {"position": 2.5},
        {"position": 127},
        {"lo": "x", "hi": 1},
    ],
)
def test_options_that_mean_nothing(options: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="given"):
        range_algorithm("given", **options)


def test_a_tensor_asked_for_by_name() -> None:
    asked = {"range": "given", "range_options": {"lo": 0, "hi": 7}}
    plan = plan_of({"r": asked, "w": {"range": "mse"}})
    assert plan.activations["r"].spec.range == Given(lo=0, hi=7)
    assert plan.activations["m"].spec.range == Given(lo=0, hi=7)
    assert plan.activations["x"].spec.range.name == "minmax"
    assert plan.nodes["c"].weights[0].spec.range.name == "mse"


def test_names_win_over_rules() -> None:
    recipe = {
        "rules": [{"op": "Conv", "activations": {"range": "mse"}, "weights": {"range": "mse"}}],
        "tensors": {"x": {"range": "percentile"}},
    }
    model = from_proto(build(CONV, {"w": (4, 4, 3, 3), "v": (4, 4, 1, 1)}), Path("m.onnx"))
    plan = resolve(model, eager(), Recipe.from_dict(recipe))
    assert plan.activations["x"].spec.range.name == "percentile"
    assert plan.activations["r"].spec.range.name == "mse"


def test_the_operator_says_where_the_channels_of_a_weight_are() -> None:
    with pytest.raises(RecipeError, match="tensor, channel or block:N"):
        plan_of({"w": {"granularity": "channel:1"}})


@pytest.mark.parametrize(("name", "match"), [("c", "not quantized"), ("m", "shares .* 'r'")])
def test_names_that_cannot_be_asked_for(name: str, match: str) -> None:
    with pytest.raises(RecipeError, match=match):
        plan_of({name: {"range": "mse"}})
