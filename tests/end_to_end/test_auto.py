"""``quantize --auto`` as a user runs it."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import onnxq as library
from onnxq import recipe as onnxq_recipe
from onnxq.cli.app import app
from onnxq.errors import UsageError
from onnxq.feeds import Batch
from onnxq.recipe import Recipe, TensorRule
from onnxq.search.auto import FIRST, LAST, Move, _is_open
from onnxq.search.exam import unfitted
from onnxq.table import CalibrationTable, KeptSamples
from onnxq.types import Array

SAMPLE = Path(__file__).parents[2] / "sample_models" / "fashion_resnet"
MODEL = SAMPLE / "model.onnx"


def run(output: Path, *arguments: str, samples: str = "120") -> Result:
    command = ["quantize", str(MODEL), "--data", str(SAMPLE / "calib.npz"), "--samples", samples]
    return CliRunner().invoke(app, [*command, "--auto", *arguments, "-o", str(output)])


def told(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_bound_that_holds_needs_nothing(tmp_path: Path) -> None:
    done = run(tmp_path / "q.onnx", "--json", str(tmp_path / "q.json"))
    assert done.exit_code == 0, done.output
    found = told(tmp_path / "q.json")
    assert found["tried"] == []
    assert found["layers"] == []
    assert found["bounds"]["min_cosine"] == 0.99
    assert "no repair was needed" in done.output


def test_repairs_hold_a_bound_that_is_missed(tmp_path: Path) -> None:
    json_path = tmp_path / "q.json"
    done = run(
        tmp_path / "q.onnx", "--weights", "int3", "--min-cosine", "0.985", "--json", str(json_path)
    )
    assert done.exit_code == 0, done.output
    found = told(json_path)
    assert found["reached"]
    assert found["after"]["cosine"] >= 0.985
    kept = [each for each in found["tried"] if each["kept"]]
    assert "--reconstruct" in [each["flags"] for each in kept]
    for each in found["tried"]:
        gain = each["cosine"]["after"] - each["cosine"]["before"]
        assert each["kept"] == (gain > each["cosine"]["half_width"])
    assert found["judged_on"] == 96 - 24  # a fifth is held out; of 32 kept 8 are for checking
    recipe = tmp_path / "q.onnx.recipe.yaml"
    assert "reconstruct: true" in recipe.read_text()


def test_what_the_user_asks_stays_and_layers_are_lifted_for_the_rest(tmp_path: Path) -> None:
    json_path = tmp_path / "q.json"
    asked = ("--weights", "int3", "--weight-range", "minmax", "--no-reconstruct")
    done = run(tmp_path / "q.onnx", *asked, "--budget", "1s", "--json", str(json_path))
    assert done.exit_code == 0, done.output
    found = told(json_path)
    flags = {each["flags"] for each in found["tried"]}
    assert not flags & {"--reconstruct", "--weight-range mse"}
    assert found["layers"]
    assert found["after"]["cosine"] >= 0.99
    assert f"--recipe={tmp_path}/q.onnx.recipe.yaml" in found["command"]


def test_ranges_that_do_harm_are_found_tensor_by_tensor(tmp_path: Path) -> None:
    json_path, output = tmp_path / "q.json", tmp_path / "q.onnx"
    asked = ("--range", "percentile", "--range-option", "percentile=97", "--min-cosine", "0.97")
    done = run(output, *asked, "--no-correct-bias", "--json", str(json_path))
    assert done.exit_code == 0, done.output
    kept = [each["flags"] for each in told(json_path)["tried"] if each["kept"]]
    tensors = [each.rpartition(" ")[2] for each in kept if each.startswith("range ")]
    assert tensors
    recipe = onnxq_recipe.load(tmp_path / "q.onnx.recipe.yaml")
    assert set(tensors) == set(recipe.tensors)
    command = shlex.split(told(json_path)["command"])
    assert command[0] == "onnxq"
    command[-1] = str(tmp_path / "again.onnx")
    again = CliRunner().invoke(app, command[1:])
    assert again.exit_code == 0, again.output
    data = library.Source(data=str(SAMPLE / "eval.npz"), cut=library.Cut(samples=200))
    files = (output, Path(command[-1]))
    near = [library.compare(MODEL, each, data).comparison.cosine for each in files]
    assert near[1] == pytest.approx(near[0], abs=0.01)  # all samples are calibrated on, not 4 of 5


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--budget", "5"), 2, "write a time"),
        (("--budget", "0s"), 2, "write a time"),
        (("--metric", "cosine"), 2, "--max-drop"),
    ],
)
def test_bad_input(tmp_path: Path, arguments: tuple[str, ...], code: int, says: str) -> None:
    done = run(tmp_path / "q.onnx", *arguments)
    assert done.exit_code == code
    assert says in done.output
    assert not (tmp_path / "q.onnx").exists()


def test_a_budget_without_auto_and_auto_without_data_are_refused(tmp_path: Path) -> None:
    command = ["quantize", str(MODEL), "--data", "x.npz", "--budget", "5m", "-o", "q.onnx"]
    assert CliRunner().invoke(app, command).exit_code == UsageError.exit_code
    table = tmp_path / "m.calib"
    command = ["calibrate", str(MODEL), "--data", str(SAMPLE / "calib.npz"), "--samples", "16"]
    assert CliRunner().invoke(app, [*command, "-o", str(table)]).exit_code == 0
    command = ["quantize", str(MODEL), "--calib", str(table), "--auto", "-o", str(tmp_path / "q")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == UsageError.exit_code
    assert "--data" in done.output


def kept(rows: Array) -> CalibrationTable:
    feeds = ({"x": rows[i : i + 1]} for i in range(len(rows)))
    samples = KeptSamples(limit=len(rows)).add(feeds)
    return CalibrationTable(model_sha256="", groups=(), batch_size=1, kept=samples)


def test_samples_that_were_fitted_on_do_not_judge() -> None:
    rows = np.arange(80, dtype=np.float32).reshape(40, 2)
    labels = np.arange(40)
    batches = [
        Batch(
            inputs={"x": rows[i : i + 5]},
            labels={"label": labels[i : i + 5]},
            samples=5,
            splittable=True,
        )
        for i in range(0, 40, 5)
    ]
    table = kept(rows[:20])
    left = unfitted(batches, table)
    fitted = {feed["x"].tobytes() for feed in table.kept.fit}
    seen = np.concatenate([batch.inputs["x"] for batch in left])
    assert len(fitted) >= 10
    assert {row.tobytes() for row in seen[:, np.newaxis]} == {
        row.tobytes() for row in rows[:, np.newaxis]
    } - fitted
    found = np.concatenate([batch.labels["label"] for batch in left])
    assert (seen[:, 0] == 2 * found).all()
    assert sum(batch.samples for batch in unfitted(batches[:1], kept(rows))) == 5


def test_moves_leave_what_a_recipe_says() -> None:
    def open_to(recipe: Recipe) -> set[str]:
        return {move.flags for move in (*FIRST, *LAST) if _is_open(move, recipe)}

    everything = {move.flags for move in (*FIRST, *LAST)}
    assert open_to(Recipe()) == everything
    assert open_to(Recipe(weights=TensorRule(dtype="int4"))) == everything
    weights = Recipe(weights=TensorRule(range="minmax"))
    assert open_to(weights) == everything - {"--weight-range mse"}
    smooth = Move(flags="s", recipe=Recipe(smooth=0.5, smooth_insert=True), fits=lambda _: True)
    assert not _is_open(smooth, Recipe(smooth=0.1))
    assert not _is_open(smooth, Recipe(smooth_insert=False))
