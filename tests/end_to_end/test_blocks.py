"""Weights in blocks from the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner, Result

from onnxq.cli.app import app
from onnxq.search.tune import recipe_path
from tests.graphs import session

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "sample_models" / "fashion_resnet" / "model.onnx"
DATA = MODEL.with_name("calib.npz")
EVAL = MODEL.with_name("eval.npz")
ALONE = ["--weights", "int4", "--activations", "float"]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: object) -> str:
    """Run a command that succeeds; return what it says in one line."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("blocks") / "model.calib"
    done("calibrate", MODEL, "--data", DATA, "--samples", 64, "-o", path)
    return path


def compared(output: Path, *flags: object) -> dict[str, Any]:
    report = output.with_suffix(".json")
    done("compare", MODEL, output, "--data", EVAL, "--samples", 200, "--json", report, *flags)
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def test_smaller_blocks_are_nearer_and_larger(table: Path, tmp_path: Path) -> None:
    cosines, sizes = [], []
    for granularity in ("channel", "block:64", "block:16"):
        output = tmp_path / f"{granularity[-2:]}.onnx"
        told = done("quantize", MODEL, "--calib", table, "-o", output, *ALONE,
                    "--weight-granularity", granularity)  # fmt: skip
        assert "biases take up the mean error" in told
        assert "saturate" not in told
        found = compared(output)
        cosines.append(next(iter(found["outputs"].values()))["cosine"])
        sizes.append(found["bytes"]["quantized"] / found["bytes"]["float"])
    assert cosines == sorted(cosines)
    assert cosines[2] > 0.99
    assert sizes == sorted(sizes)
    assert sizes[2] < 0.25


def test_the_file_computes_the_same_at_every_level(table: Path, tmp_path: Path) -> None:
    output = tmp_path / "q.onnx"
    done("quantize", MODEL, "--calib", table, "-o", output, *ALONE,
         "--weight-granularity", "block:32")  # fmt: skip
    proto = onnx.load(output)
    assert {proto.opset_import[0].version} == {21}
    with np.load(EVAL) as data:
        feed = {name: data[name][:4].astype(np.float32) for name in data.files[:1]}
    got = [session(proto, optimize=level).run(None, feed)[0] for level in (False, True)]
    np.testing.assert_allclose(got[0], got[1], rtol=1e-5, atol=1e-6 * np.abs(got[0]).max())


def test_a_recipe_asks_for_blocks_in_one_layer(table: Path, tmp_path: Path) -> None:
    recipe, output = tmp_path / "recipe.yaml", tmp_path / "q.onnx"
    recipe.write_text(
        "rules:\n"
        "  - {op: Gemm, weights: {dtype: int4, granularity: 'block:16'},"
        " activations: {dtype: float}}\n"
    )
    report = tmp_path / "plan.json"
    done("inspect", MODEL, "--plan", "--recipe", recipe, "--json", report)
    tensors = json.loads(report.read_text())["tensors"]
    (inner,) = (each for each in tensors if each["granularity"] == "block 16")
    assert inner["dtype"] == "int4"
    assert {each["granularity"] for each in tensors} == {"block 16", "tensor", "channel, axis 0"}
    done("quantize", MODEL, "--calib", table, "-o", output, "--recipe", recipe)
    found = compared(output, "--layers")
    assert next(iter(found["outputs"].values()))["cosine"] > 0.99
    assert any(layer["op"] == "Gemm" for layer in found["layers"])


def test_the_plan_says_where_weights_alone_are_integers() -> None:
    told = done("inspect", MODEL, "--plan", *ALONE, "--weight-granularity", "block:32")
    assert "float, integer weights" in told
    assert "block 32" in told


def test_blocks_are_advised_where_weights_alone_spoil_the_result(
    table: Path, tmp_path: Path
) -> None:
    run = ["quantize", MODEL, "--calib", table, "-o", tmp_path / "q.onnx", "--weights", "int2"]
    assert "try: --weight-granularity block:32" in done(*run, "--activations", "float")
    told = done(*run, "--activations", "float", "--weight-granularity", "block:8")
    assert "block:32" not in told


def test_generic_has_blocks_beside_integer_activations(table: Path, tmp_path: Path) -> None:
    output = tmp_path / "q.onnx"
    done("quantize", MODEL, "--calib", table, "-o", output, "--target", "generic", "--weights",
         "int8", "--activations", "uint8", "--weight-granularity", "block:32")  # fmt: skip
    assert next(iter(compared(output)["outputs"].values()))["cosine"] > 0.995


def test_tune_moves_blocks_and_its_recipe_makes_them_again(table: Path, tmp_path: Path) -> None:
    tuned, again, report = tmp_path / "t.onnx", tmp_path / "again.onnx", tmp_path / "t.json"
    done("tune", MODEL, "--calib", table, "--data", EVAL, "--samples", 60, "--over", "weights",
         *ALONE, "--weight-granularity", "block:64", "--min-gain", "1e-5", "-o", tuned,
         "--json", report)  # fmt: skip
    assert json.loads(report.read_text())["tuned_on"]["gain"]["difference"] > 0
    done("quantize", MODEL, "--calib", table, "-o", again, "--recipe", recipe_path(tuned))
    assert again.read_bytes() == tuned.read_bytes()


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--weight-granularity", "block:0"], 2, "tensor, channel or block:N, e.g. block:32, not"),
        (["--weight-granularity", "block:x"], 2, "tensor, channel or block:N, e.g. block:32, not"),
        (["--weight-granularity", "block:8", "--per-channel"], 2, "give only one"),
        (["--activation-granularity", "block:8"], 2, "tensor, channel or channel:AXIS, not"),
        (["--weight-granularity", "block:8"], 6, "only where activations stay float"),
        (["--target", "qnn", "--weight-granularity", "block:8"], 6, "qnn has no blocks"),
        (["--target", "qnn", "--activations", "float"], 6, "does not leave activations float"),
        (
            ["--target", "crossbar", "--crossbar", "8x8", "--weight-granularity", "block:8"],
            6,
            "--crossbar sets its size",
        ),
        (
            ["--weight-granularity", "block:8", "--activations", "float", "--max-opset", "20"],
            6,
            "blocks of weights need opset 21",
        ),
    ],
)
def test_bad_flags_get_one_line(
    flags: list[str], code: int, message: str, table: Path, tmp_path: Path
) -> None:
    told = invoke("quantize", MODEL, "--calib", table, "-o", tmp_path / "q.onnx", *flags)
    assert told.exit_code == code, told.output
    assert message in " ".join(told.output.split())
    assert not list(tmp_path.iterdir())


def test_a_block_larger_than_every_layer_is_one_a_channel(table: Path, tmp_path: Path) -> None:
    found = []
    for number, granularity in enumerate(("channel", "block:99999")):
        output = tmp_path / f"{number}.onnx"
        done("quantize", MODEL, "--calib", table, "-o", output, *ALONE,
             "--weight-granularity", granularity)  # fmt: skip
        found.append(next(iter(compared(output)["outputs"].values()))["cosine"])
    assert found[0] == pytest.approx(found[1], abs=1e-6)
