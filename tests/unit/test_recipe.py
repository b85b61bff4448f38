"""Recipes: reading, laying over, writing, and what typos get."""

import json
from pathlib import Path
from typing import Any

import pytest

from onnxq import recipe
from onnxq.errors import RecipeError, UnknownNameError
from onnxq.recipe import NodeRule, Recipe, TensorRule

EXAMPLE = """
target: cpu
weights: {range: mse}
activations: {range: percentile, range_options: {percentile: 99.99}}
rules:
  - {name: "^/head/", quantize: false}
  - {op: MatMul, activations: {symmetric: true}}
"""

READ = Recipe(
    target="cpu",
    weights=TensorRule(range="mse"),
    activations=TensorRule(range="percentile", range_options={"percentile": 99.99}),
    rules=(
        NodeRule(name="^/head/", quantize=False),
        NodeRule(op="MatMul", activations=TensorRule(symmetric=True)),
    ),
)


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_yaml(tmp_path: Path) -> None:
    assert recipe.load(write(tmp_path, EXAMPLE)) == READ


def test_json(tmp_path: Path) -> None:
    assert recipe.load(write(tmp_path, recipe.dumps(READ))) == READ


def test_an_empty_file_asks_nothing(tmp_path: Path) -> None:
    assert recipe.load(write(tmp_path, "")) == Recipe()
    assert Recipe().to_dict() == {}


def test_null_leaves_open() -> None:
    content = {
        "target": None,
        "weights": None,
        "activations": {"dtype": None},
        "rules": [{"op": "Conv", "name": None, "quantize": None, "weights": None}],
    }
    assert Recipe.from_dict(content) == Recipe(rules=(NodeRule(op="Conv"),))


def test_dumps_is_one_line_of_json() -> None:
    text = recipe.dumps(READ)
    assert "\n" not in text
    assert Recipe.from_dict(json.loads(text)) == READ


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"wieghts": {}}, "unknown key in recipe 'wieghts': did you mean 'weights'?"),
        ({"weights": {"rnage": "mse"}}, "unknown key in weights 'rnage': did you mean 'range'?"),
        (
            {"activations": {"symetric": True}},
            "unknown key in activations 'symetric': did you mean 'symmetric'?",
        ),
        (
            {"rules": [{"op": "Conv"}, {"op": "Add", "quantise": False}]},
            "unknown key in rule 2 'quantise': did you mean 'quantize'?",
        ),
        (
            {"rules": [{"op": "Conv", "weights": {"dtpye": "int8"}}]},
            "unknown key in rule 1, weights 'dtpye': did you mean 'dtype'?",
        ),
        ({7: 1}, "unknown key in recipe '7'"),
    ],
)
def test_typos(content: dict[Any, Any], says: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        Recipe.from_dict(content)
    assert str(caught.value).startswith(says)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    "content",
    [
        {"target": 5},
        {"weights": "int8"},
        {"weights": []},
        {"weights": {"dtype": 8}},
        {"weights": {"range": 5}},
        {"weights": {"range": {"name": "mse"}}},
        {"weights": {"range_options": "x"}},
        {"weights": {"granularity": "chanel"}},
        {"weights": {"granularity": "channel:1"}},
        {"activations": {"granularity": "channel:"}},
        {"activations": {"granularity": "channel:one"}},
        {"activations": {"granularity": "tensor:1"}},
        {"rules": [{"op": "Conv", "weights": {"granularity": "channel:0"}}]},
        {"weights": {"symmetric": "yes"}},
        {"weights": {"symmetric": 1}},
        {"rules": {"op": "Conv"}},
        {"rules": ["Conv"]},
        {"rules": [{}]},
        {"rules": [{"quantize": False}]},
        {"rules": [{"name": "("}]},
        {"rules": [{"name": 5}]},
        {"rules": [{"op": ["Conv"]}]},
        {"rules": [{"op": "Conv", "quantize": "no"}]},
    ],
    ids=str,
)
def test_wrong_kinds(content: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"^[^\n]+$"):
        Recipe.from_dict(content)


@pytest.mark.parametrize(
    "text", ["- a", "[]", "0", "just text", "a: [", "a: b: c", "d: 2020-13-45"]
)
def test_broken_files_name_themselves(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        recipe.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        recipe.load(tmp_path / "no.yaml")
    (tmp_path / "bin.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot be read"):
        recipe.load(tmp_path / "bin.yaml")


def test_python_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        recipe.load(write(tmp_path, "target: !!python/object/apply:os.getcwd []"))


def test_over_fills_gaps_only() -> None:
    flags = Recipe(weights=TensorRule(dtype="int4"), rules=(NodeRule(op="Add"),))
    both = flags.over(READ)
    assert both.target == "cpu"
    assert both.weights == TensorRule(dtype="int4", range="mse")
    assert both.activations == READ.activations
    assert both.rules == (NodeRule(op="Add"), *READ.rules)


def test_options_of_another_algorithm_do_not_carry_over() -> None:
    assert TensorRule(range="mse").over(READ.activations) == TensorRule(range="mse")
    assert TensorRule(dtype="int8").over(READ.activations).range_options == {"percentile": 99.99}


def test_false_is_not_a_gap() -> None:
    assert TensorRule(symmetric=False).over(TensorRule(symmetric=True)).symmetric is False


@pytest.mark.parametrize(
    ("rule", "name", "op", "fits"),
    [
        (NodeRule(op="Conv"), "/a", "Conv", True),
        (NodeRule(op="Conv"), "/a", "ConvTranspose", False),
        (NodeRule(name="head"), "/head/conv", "Conv", True),
        (NodeRule(name="^head"), "/head/conv", "Conv", False),
        (NodeRule(name="head", op="Add"), "/head/conv", "Conv", False),
        (NodeRule(name="head", op="Conv"), "/head/conv", "Conv", True),
    ],
)
def test_matches(rule: NodeRule, name: str, op: str, fits: bool) -> None:
    assert rule.matches(name, op) is fits


def test_a_rule_says_what_it_matches() -> None:
    assert str(NodeRule(name="^a", op="Conv")) == "name '^a', op 'Conv'"


@pytest.mark.parametrize("value", [-0.1, 1.5, True, "half"])
def test_smoothing_goes_from_0_to_1(value: object) -> None:
    with pytest.raises(RecipeError, match="smooth"):
        Recipe.from_dict({"smooth": value})
    assert Recipe.from_dict({"smooth": 1}).smooth == 1
