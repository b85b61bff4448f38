"""``quantize --reconstruct`` as a user runs it."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import onnxq
from onnxq.cli.app import app

SAMPLE = Path(__file__).parents[2] / "sample_models" / "fashion_mobilenet"
MODEL = SAMPLE / "model.onnx"
FOUR = ("--weights", "int4", "--weight-range", "mse")


def quantize(output: Path, *arguments: str) -> Result:
    command = ["quantize", str(MODEL), "-o", str(output), "--data", str(SAMPLE / "calib.npz")]
    return CliRunner().invoke(app, [*command, "--samples", "64", *arguments])


def sqnr(output: Path) -> float:
    data = onnxq.Source(data=str(SAMPLE / "eval.npz"), cut=onnxq.Cut(samples=256))
    return onnxq.compare(MODEL, output, data).comparison.outputs[0].similarity.sqnr


def test_four_bits_lose_less_on_other_data(tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    for how in ("--no-reconstruct", "--reconstruct"):
        told = tmp_path / f"{how}.json"
        output = tmp_path / f"{how}.onnx"
        done = quantize(output, *FOUR, how, "--json", str(told))
        assert done.exit_code == 0, done.output
        found[how] = json.loads(told.read_text()), sqnr(output)
    assert found["--no-reconstruct"][0]["reconstructed"] is None
    layers = found["--reconstruct"][0]["reconstructed"]
    assert len(layers) == 18
    noise = [each["noise"] for each in layers.values()]
    assert all(each["reconstructed"] <= each["nearest"] * (1 + 1e-6) for each in noise)
    assert found["--reconstruct"][1] > found["--no-reconstruct"][1] + 1.5


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    outputs = [tmp_path / f"{i}.onnx" for i in range(2)]
    for output in outputs:
        assert quantize(output, *FOUR, "--reconstruct", "--threads", "1").exit_code == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_a_table_without_samples_is_refused(tmp_path: Path) -> None:
    table, output = tmp_path / "m.calib", tmp_path / "q.onnx"
    command = ["calibrate", str(MODEL), "--data", str(SAMPLE / "calib.npz"), "--samples", "16"]
    command += ["--keep-samples", "0", "-o", str(table)]
    assert CliRunner().invoke(app, command).exit_code == 0
    command = ["quantize", str(MODEL), "--calib", str(table), "--reconstruct", "-o", str(output)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 4
    assert "--keep-samples" in done.output
    assert not output.exists()


@pytest.mark.parametrize("over", ["weights", "both"])
def test_weights_that_were_reconstructed_are_not_tuned(tmp_path: Path, over: str) -> None:
    output = tmp_path / "t.onnx"
    command = ["tune", str(MODEL), "--data", str(SAMPLE / "eval.npz"), "--samples", "20"]
    command += ["--reconstruct", "--over", over, "-o", str(output)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 5
    assert "--over activations" in done.output
    assert not output.exists()
