"""``onnxq tune`` as a user runs it: on a sample model, interrupted, killed, and on bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

import onnxq
from onnxq import table_file
from onnxq.cli.app import app
from onnxq.errors import CalibrationError, Interrupted
from onnxq.metrics import metric
from onnxq.metrics.custom import Custom
from onnxq.search.samples import parts
from onnxq.search.settings import TuneProgress, Tuning
from onnxq.search.tune import Tuned, recipe_path, tune

MODEL = Path("sample_models/fashion_resnet/model.onnx").resolve()
EVAL = MODEL.with_name("eval.npz")
SIX = ("--target", "fixed-point", "--weights", "int6", "--activations", "int6")
RECIPE = onnxq.Recipe(
    target="fixed-point",
    activations=onnxq.TensorRule(dtype="int6"),
    weights=onnxq.TensorRule(dtype="int6"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune")
    with np.load(EVAL) as data:
        names = [name for name in data.files if name != "label"]
        np.savez(
            folder / "labelled.npz",
            label=data["label"][:200],
            **{name: data[name][:200] for name in names},
        )
        np.savez(folder / "other.npz", **{name: data[name][200:260] for name in data.files})
    source = onnxq.Source(data=str(folder / "other.npz"), cut=onnxq.Cut(batch_size=16))
    table_file.save(onnxq.calibrate(MODEL, source), folder / "m.calib")
    return folder


def run(folder: Path, *arguments: str, output: str = "t.onnx") -> Result:
    data = () if "--data" in arguments else ("--data", str(folder / "labelled.npz"))
    command = ["tune", str(MODEL), *data, *arguments, "-o", str(folder / output)]
    return CliRunner().invoke(app, command)


def by_library(folder: Path, output: str, tuning: Tuning, **more: Any) -> Tuned:
    table = table_file.load(folder / "m.calib")
    source = onnxq.Source(data=str(folder / "labelled.npz"), cut=onnxq.Cut(batch_size=16))
    return tune(MODEL, table, RECIPE, parts(source, None), folder / output, tuning=tuning, **more)


def test_a_tuned_model_is_better_and_its_recipe_makes_it_again(folder: Path) -> None:
    calib = str(folder / "m.calib")
    done = run(folder, "--calib", calib, *SIX, "--over", "both", "--json", str(folder / "t.json"))
    assert done.exit_code == 0, done.output
    found = json.loads((folder / "t.json").read_text())
    assert found["improved"]
    assert found["tuned_on"]["gain"]["difference"] > 0
    assert found["tuned_on"]["samples"] == 160
    assert found["not_tuned_on"]["samples"] == 40
    assert found["batches"]["run"] < found["batches"]["without_giving_up"]
    tuned = folder / "t.onnx"
    recipe = yaml.safe_load(recipe_path(tuned).read_text())
    assert recipe["tensors"]
    again = folder / "again" / "t.onnx"
    again.parent.mkdir()
    command = ["quantize", str(MODEL), "--calib", calib, "--recipe", str(recipe_path(tuned))]
    assert CliRunner().invoke(app, [*command, "-o", str(again)]).exit_code == 0
    assert again.read_bytes() == tuned.read_bytes()
    assert not (folder / "t.onnx.checkpoint").exists()


def test_affine_scales_and_other_data(folder: Path) -> None:
    done = run(
        folder,
        *("--eval-data", str(folder / "other.npz"), "--metric", "classification"),
        *("--weights", "int7", "--over", "weights", "--json", "-"),
        output="cpu.onnx",
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["metric"] == "classification"
    assert found["tuned_on"]["samples"] == 200
    assert found["not_tuned_on"]["samples"] == 60


@pytest.fixture(scope="module")
def whole(folder: Path) -> Tuned:
    return by_library(folder, "whole.onnx", Tuning(workers=1, over="both"))


def test_scores_are_those_of_the_file(folder: Path, whole: Tuned) -> None:
    source = onnxq.Source(data=str(folder / "labelled.npz"), cut=onnxq.Cut(batch_size=16))
    held = parts(source, None)[1]
    found = onnxq.compare(MODEL, whole.quantized.path, held, metric=metric("cosine"))
    assert found.comparison.metric is not None
    assert found.comparison.metric.paired.after == pytest.approx(whole.held.after.after, abs=1e-9)
    assert found.comparison.samples == whole.held.samples


def test_giving_up_changes_nothing_here(folder: Path, whole: Tuned) -> None:
    exact = by_library(folder, "exact.onnx", Tuning(workers=2, over="both", drop=False))
    assert exact.recipe == whole.recipe
    assert exact.runs[0] == exact.runs[1]
    assert whole.runs[0] < exact.runs[0]


def test_an_interrupted_run_goes_on_to_the_same_end(folder: Path, whole: Tuned) -> None:
    checkpoint = folder / "stopped.onnx.checkpoint"
    way = {"workers": 1, "over": "both", "checkpoint": checkpoint}

    def stop(progress: TuneProgress) -> None:
        if progress.done == 9:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="--resume"):
        by_library(folder, "stopped.onnx", Tuning(**way), report=stop)
    assert not (folder / "stopped.onnx").exists()
    seen: list[int] = []
    found = by_library(
        folder, "stopped.onnx", Tuning(**way, resume=True), report=lambda p: seen.append(p.done)
    )
    assert seen[0] == 9
    assert found.recipe == whole.recipe
    assert found.moves == whole.moves
    assert found.evaluations == whole.evaluations
    assert found.quantized.path.read_bytes() == whole.quantized.path.read_bytes()
    assert not checkpoint.exists()


def test_a_killed_run_goes_on_to_the_same_end(folder: Path, whole: Tuned) -> None:
    output = folder / "killed.onnx"
    checkpoint = folder / "killed.onnx.checkpoint"
    command = [
        *(sys.executable, "-m", "onnxq", "tune", str(MODEL), "--data"),
        *(str(folder / "labelled.npz"), "--calib", str(folder / "m.calib"), *SIX),
        *("--over", "both", "--workers", "1", "-o", str(output), "--resume"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
    process.wait()
    assert not output.exists()
    assert checkpoint.exists()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "going on after" in done.stderr
    assert output.read_bytes() == whole.quantized.path.read_bytes()


def test_a_checkpoint_of_another_search_is_refused(folder: Path) -> None:
    checkpoint = folder / "other.checkpoint"

    def stop(progress: TuneProgress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        by_library(folder, "o.onnx", Tuning(checkpoint=checkpoint), report=stop)
    with pytest.raises(CalibrationError, match="of another model"):
        by_library(folder, "o.onnx", Tuning(checkpoint=checkpoint, resume=True, seed=1))
    checkpoint.write_text("{}")
    with pytest.raises(CalibrationError, match="no checkpoint of onnxq"):
        by_library(folder, "o.onnx", Tuning(checkpoint=checkpoint, resume=True))


def test_a_function_is_the_same_metric_in_another_process(folder: Path) -> None:
    checkpoint = folder / "own.checkpoint"

    def own() -> Tuning:
        def hits(outputs: Any, labels: Any) -> Any:
            return outputs["logits"].argmax(1) == labels["label"]

        found = Custom(name="own:hits", function=hits, options={})
        return Tuning(metric=found, checkpoint=checkpoint, resume=True)

    def stop(progress: TuneProgress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        by_library(folder, "own.onnx", own(), report=stop)
    seen: list[int] = []
    by_library(folder, "own.onnx", own(), report=lambda p: seen.append(p.done))
    assert seen[0] == 2


def test_it_stops_at_a_score_that_is_good_enough(folder: Path) -> None:
    assert by_library(folder, "g.onnx", Tuning(target=-1.0)).evaluations == 0


def test_what_the_recipe_gives_stays(folder: Path, whole: Tuned) -> None:
    moved = [move for move in whole.moves if move.before != move.after]
    command = ("--recipe", str(whole.recipe_path), "--calib", str(folder / "m.calib"))
    done = run(folder, *command, "--json", "-", output="again.onnx")
    assert done.exit_code == 0, done.output
    looked_at = {tensor["name"] for tensor in json.loads(done.stdout)["tensors"]}
    assert moved
    assert not looked_at & {move.name for move in moved}


NAN = """
def nan(outputs, labels):
    return float("nan")

def broken(outputs, labels):
    raise RuntimeError("no")
"""


@pytest.mark.parametrize(
    ("arguments", "code", "match"),
    [
        (("--metric", "classification", "--data", "unlabelled.npz"), 4, "needs the labels"),
        (("--metric", "segmentation"), 5, "segmentation"),
        (("--metric", "clasification"), 5, "did you mean 'classification'"),
        (("--metric", "mine:nan", "--import-path", "."), 4, "nan"),
        (("--metric", "mine:broken", "--import-path", "."), 4, "no"),
        (("--no-qdq", "--target", "fixed-point"), 5, "--no-qdq"),
        (("--over", "biases"), 2, "activations, weights or both"),
        (("--json", "t0.onnx"), 8, "would replace"),
        (("--eval-data", "missing.npz"), 2, "missing.npz"),
        (("--metric", "classification", "--eval-data", "unlabelled.npz"), 4, "needs the labels"),
        (("--samples", "3"), 4, "--eval-data"),
    ],
)
def test_bad_input(
    folder: Path,
    arguments: tuple[str, ...],
    code: int,
    match: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (folder / "mine.py").write_text(NAN)
    with np.load(folder / "labelled.npz") as data:
        unlabelled = {name: data[name] for name in data.files if name != "label"}
        np.savez(folder / "unlabelled.npz", **unlabelled)
    monkeypatch.chdir(folder)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    calib = ("--calib", "m.calib")
    done = run(folder, *calib, *arguments, output="t0.onnx")
    assert done.exit_code == code, done.output
    assert match in done.output
    assert "Traceback" not in done.output
    assert not (folder / "t0.onnx").exists()
    assert not list(folder.glob(".t0*"))
