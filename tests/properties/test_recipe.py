"""Recipes survive being written, and laying over is associative."""

import json

from hypothesis import given
from hypothesis import strategies as st

from onnxq import recipe
from onnxq.recipe import NodeRule, Recipe, TensorRule

WORDS = st.none() | st.sampled_from(["minmax", "percentile", "mse", "int8", "é", "x y"])
NUMBERS = st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
OPTIONS = st.none() | st.dictionaries(st.text(min_size=1, max_size=3), NUMBERS, min_size=1)
FIELDS = {
    "dtype": WORDS,
    "symmetric": st.none() | st.booleans(),
    "range": WORDS,
    "range_options": OPTIONS,
}
GRANULARITIES = st.sampled_from([None, "tensor", "channel"])
TENSOR_RULES = st.builds(
    TensorRule, granularity=GRANULARITIES | st.sampled_from(["block:1", "block:32"]), **FIELDS
)
ACTIVATIONS = st.builds(
    TensorRule, granularity=GRANULARITIES | st.sampled_from(["channel:1", "channel:-1"]), **FIELDS
)
NODE_RULES = st.builds(
    NodeRule,
    name=st.sampled_from(["", "^/head/", "a|b"]),
    op=st.sampled_from([None, "Conv", "MatMul"]),
    quantize=st.booleans(),
    activations=ACTIVATIONS,
    weights=TENSOR_RULES,
)
RECIPES = st.builds(
    Recipe,
    target=st.none() | st.just("cpu"),
    activations=ACTIVATIONS,
    weights=TENSOR_RULES,
    rules=st.lists(NODE_RULES, max_size=3).map(tuple),
    tensors=st.dictionaries(
        st.sampled_from(["x", "/head/Add_output_0"]),
        TENSOR_RULES.filter(lambda rule: rule != TensorRule()),
    ),
)


@given(RECIPES)
def test_recipes_round_trip(asked: Recipe) -> None:
    assert Recipe.from_dict(asked.to_dict()) == asked
    assert Recipe.from_dict(json.loads(recipe.dumps(asked))) == asked


@given(RECIPES, RECIPES, RECIPES)
def test_laying_over_is_associative(a: Recipe, b: Recipe, c: Recipe) -> None:
    assert a.over(b).over(c) == a.over(b.over(c))


@given(RECIPES)
def test_nothing_is_neutral(asked: Recipe) -> None:
    assert asked.over(Recipe()) == asked
    assert Recipe().over(asked) == asked


@given(TENSOR_RULES, TENSOR_RULES)
def test_what_is_given_wins(upper: TensorRule, lower: TensorRule) -> None:
    both = upper.over(lower)
    for name in ("dtype", "symmetric", "granularity", "range"):
        ours, theirs = getattr(upper, name), getattr(lower, name)
        assert getattr(both, name) == (theirs if ours is None else ours)
