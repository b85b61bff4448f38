from pathlib import Path

import pytest

from onnxq.cli.common import recipe_of
from onnxq.cli.recipe_flags import RecipeFlags
from onnxq.cli.spelling import spelled
from onnxq.errors import RecipeError, UnknownNameError, UsageError
from onnxq.ranges import range_algorithm
from onnxq.ranges.outlier_var import OutlierVar
from onnxq.recipe import Recipe, TensorRule, load

OUTLIERS = TensorRule(range="outlier-var", range_options={"alpha": 2.0, "k1": 100.0})


def test_no_flags_ask_for_nothing() -> None:
    assert recipe_of(RecipeFlags()) == Recipe()


def test_outlier_var_is_for_activations_and_weights() -> None:
    found = recipe_of(RecipeFlags(outlier_var=True, alpha=2, k1=100))
    assert (found.activations, found.weights) == (OUTLIERS, OUTLIERS)
    assert range_algorithm("outlier-var", **OUTLIERS.range_options or {}) == OutlierVar(
        alpha=2, k1=100
    )


@pytest.mark.parametrize("granularity", ["tensor", "channel", "block:32"])
def test_granularity_of_weights(granularity: str) -> None:
    found = recipe_of(RecipeFlags(weight_granularity=granularity))
    assert found.weights == TensorRule(granularity=granularity)
    short = {"channel": True, "tensor": False}.get(granularity)
    assert granularity == "block:32" or recipe_of(RecipeFlags(per_channel=short)) == found


def test_options_go_to_whatever_uses_outlier_var() -> None:
    found = recipe_of(RecipeFlags(range_name="mse", weight_range="outlier-var", alpha=2, k1=100))
    assert (found.activations, found.weights) == (TensorRule(range="mse"), OUTLIERS)
    found = recipe_of(RecipeFlags(range_name="outlier-var", range_option=["k1=100"], alpha=2))
    assert dict(found.activations.range_options or {}) == {"alpha": 2, "k1": "100"}


def test_flags_win_over_the_file_option_by_option(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "activations: {range: outlier-var, range_options: {k1: 0.001, alpha: 2}}\n"
        "weights: {range: mse}\n"
    )
    found = recipe_of(RecipeFlags(recipe=path, alpha=3))
    assert found.activations.range_options == {"k1": 0.001, "alpha": 3}
    assert found.weights == TensorRule(range="mse")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("{k1: 0.001, alpha: 2}", OutlierVar(k1=0.001, alpha=2)),
        ("{k2: 64, beta: .inf}", OutlierVar(k2=64, beta=float("inf"))),
        ("{variance: raw}", OutlierVar(variance="raw")),
        ("{k1: 1e-3, extremes: all}", OutlierVar(k1=0.001, extremes="all")),  # YAML: 1e-3 is text
    ],
)
def test_recipes_set_the_options(options: str, expected: OutlierVar, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"activations: {{range: outlier-var, range_options: {options}}}\n")
    rule = load(path).activations
    assert range_algorithm(rule.range or "", **rule.range_options or {}) == expected


def test_typos_in_options_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="alpha"):
        range_algorithm("outlier-var", alhpa=2)
    for wrong in ({"k1": 1.5}, {"k1": "many"}, {"alpha": "big"}, {"extremes": "both"}):
        with pytest.raises(RecipeError, match="outlier-var"):
            range_algorithm("outlier-var", **wrong)
    with pytest.raises(UnknownNameError, match="option of range 'entropy'"):
        range_algorithm("entropy", bins=4096)


@pytest.mark.parametrize(
    "flags",
    [
        RecipeFlags(outlier_var=True, range_name="outlier-var"),
        RecipeFlags(outlier_var=True, weight_range="mse"),
        RecipeFlags(beta=1),
        RecipeFlags(range_name="mse", variance="raw"),
        RecipeFlags(weight_granularity="block:32", per_channel=True),
        RecipeFlags(weight_granularity="block:0"),
        RecipeFlags(weight_granularity="channel:1"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(flags: RecipeFlags) -> None:
    with pytest.raises(UsageError):
        recipe_of(flags)


def test_a_spelled_command_takes_each_flag() -> None:
    taken = []

    @spelled
    def command(first: int, *, asked: RecipeFlags, last: int = 2) -> None:
        taken.append((first, asked, last))

    rest = {name: None for name in command.__annotations__ if name not in ("first", "last")}
    command(first=1, **{**rest, "alpha": 3.0}, last=5)
    ((first, asked, last),) = taken
    assert (first, asked.alpha, asked.beta, last) == (1, 3.0, None, 5)
