"""Names to classes, and options to fields."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from onnxq.errors import RecipeError, UnknownNameError
from onnxq.ranges import range_algorithm
from onnxq.ranges.mse import Mse
from onnxq.ranges.percentile import Percentile
from onnxq.registry import build, find, known


@dataclass(frozen=True, kw_only=True)
class Coffee:
    name: ClassVar[str] = "coffee"
    sugar: int = 0
    label: str = ""


def test_builtin_is_found() -> None:
    assert find("drinks", "coffee", (Coffee,)) is Coffee
    assert known("drinks", (Coffee,)) == {"coffee": Coffee}


def test_entry_points_are_found() -> None:
    assert "npz" in known("readers")
    assert find("readers", "npz").name == "npz"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("coffe", "unknown drink 'coffe': did you mean 'coffee'? known: coffee"),
        ("water", "unknown drink 'water': known: coffee"),
    ],
)
def test_unknown_name(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        find("drinks", name, (Coffee,))
    assert str(caught.value) == message
    assert caught.value.exit_code == 5


def test_nothing_known() -> None:
    with pytest.raises(UnknownNameError, match="known: none"):
        find("nothings", "x")


def test_options_as_text_become_numbers() -> None:
    options = {"sugar": "2", "label": "black"}
    assert build(Coffee, options, "drink") == Coffee(sugar=2, label="black")
    assert range_algorithm("percentile", percentile="99.9") == Percentile(percentile=99.9)
    assert range_algorithm("mse", candidates="7", smallest=0.5) == Mse(candidates=7, smallest=0.5)


def test_unknown_option() -> None:
    with pytest.raises(UnknownNameError) as caught:
        range_algorithm("percentile", percentil=99)
    assert str(caught.value).startswith(
        "unknown option of range 'percentile' 'percentil': did you mean 'percentile'?"
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("percentile", {"percentile": 50}),
        ("percentile", {"percentile": 100.1}),
        ("percentile", {"percentile": "nan"}),
        ("percentile", {"percentile": "most"}),
        ("percentile", {"percentile": None}),
        ("mse", {"candidates": 0}),
        ("mse", {"candidates": 12.5}),
        ("mse", {"candidates": "1e2"}),
        ("mse", {"smallest": 0}),
        ("mse", {"smallest": 1.5}),
    ],
)
def test_bad_values_name_the_algorithm(name: str, options: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=f"^range '{name}': [^\n]+$"):
        range_algorithm(name, **options)
