"""Target files: the shipped ones are sound, broken ones are refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from onnxq.errors import RecipeError, UnknownNameError
from onnxq.ranges import range_algorithm
from onnxq.recipe import TensorRule
from onnxq.targets import OpRule, names, target
from onnxq.types import IntType

GOOD: dict[str, Any] = {
    "name": "toy",
    "summary": "a toy",
    "activations": {"dtype": "uint8", "symmetric": False, "range": "minmax"},
    "weights": {"dtype": "int8", "symmetric": True, "range": "minmax"},
    "dtypes": {"activations": ["uint8"], "weights": ["int8"]},
    "bias": None,
    "ops": {"Conv": {"role": "compute"}},
}


def write(folder: Path, content: Any) -> str:
    path = folder / "toy.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_cpu_is_shipped() -> None:
    assert "cpu" in names()


@pytest.mark.parametrize("name", names())
def test_shipped_targets_are_sound(name: str) -> None:
    found = target(name)
    assert found.name == name
    assert found.summary
    for kind in ("activations", "weights"):
        rule = TensorRule(**getattr(found, kind))
        assert rule.dtype in found.dtypes[kind]
        assert rule.symmetric is not None
        assert range_algorithm(rule.range or "").name == rule.range
        for dtype in found.dtypes[kind]:
            assert IntType.parse(dtype).name == dtype
    assert any(rule.role == "compute" for rule in found.ops.values())
    both = set(found.absorbs) & set(found.ops)
    assert all(found.ops[op].role == "always" for op in both)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    found = target(write(tmp_path, GOOD))
    assert (found.name, found.bias, found.absorbs) == ("toy", None, ())
    assert found.ops == {"Conv": OpRule(role="compute")}


def test_unknown_target() -> None:
    with pytest.raises(UnknownNameError, match="unknown target 'cpuu': did you mean 'cpu'"):
        target("cpuu")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="No such file"):
        target(str(tmp_path / "no.json"))


def test_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "bin.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"bin\.json"):
        target(str(tmp_path / "bin.json"))


def test_unknown_key(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="'absorb': did you mean 'absorbs'"):
        target(write(tmp_path, {**GOOD, "absorb": []}))


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "null",
        "[1]",
        {key: value for key, value in GOOD.items() if key != "ops"},
        {key: value for key, value in GOOD.items() if key != "name"},
        {**GOOD, "ops": ["Conv"]},
        {**GOOD, "ops": {"Conv": "compute"}},
        {**GOOD, "ops": {"Conv": {"roll": "compute"}}},
        {**GOOD, "ops": {"Conv": {"role": "computes"}}},
        {**GOOD, "ops": {"Conv": {"role": "compute", "output": "never"}}},
        {**GOOD, "ops": {"Conv": {"role": "compute", "share": True, "output_range": [0, 1]}}},
        {**GOOD, "ops": {"Conv": {"role": "compute", "output_range": [0, 1, 2]}}},
        {**GOOD, "placement": "outputs"},
        {**GOOD, "symmetric_only": ["biases"]},
    ],
    ids=str,
)
def test_broken_files(tmp_path: Path, content: Any) -> None:
    with pytest.raises(RecipeError, match=r"^target [^\n]*toy\.json: [^\n]+$"):
        target(write(tmp_path, content))
