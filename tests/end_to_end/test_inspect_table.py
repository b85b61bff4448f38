"""`onnxq inspect` on a calibration table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from onnxq.cli.app import app
from onnxq.ranges import RANGES

SAMPLE = Path(__file__).parents[2] / "sample_models" / "fashion_resnet"
MODEL = SAMPLE / "model.onnx"
LONG = "/block2/relu/Relu_output_0"


def onnxq(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "named.onnx"  # told by content, not by name
    run = ("calibrate", MODEL, "-d", SAMPLE / "calib.npz", "--samples", 32, "-o", path)
    onnxq(*run, "--activation-granularity", "channel")
    return path


def test_every_tensor_gets_a_row(table: Path) -> None:
    shown = onnxq("inspect", table).stdout
    found = json.loads(onnxq("inspect", table, "--json", "-").stdout)
    assert found["samples"] == 32
    assert len(found["tensors"]) == 12
    rows = [line.split()[-1] for line in shown.splitlines() if line]
    names = [tensor["name"] for tensor in found["tensors"]]
    assert [row for row in rows if row in names] == names
    tendencies = [
        max(end["tendency"] for end in tensor["outlier_var"].values())
        for tensor in found["tensors"]
    ]
    assert tendencies == sorted(tendencies, reverse=True)


def test_one_tensor_agrees_with_what_quantize_writes(table: Path, tmp_path: Path) -> None:
    shown = onnxq("inspect", table, "--tensor", "block2/relu").stdout
    assert shown.startswith(f"{LONG}: ")
    assert "█" in shown
    assert "128 channels, counted from 0" in shown
    found = json.loads(onnxq("inspect", table, "--tensor", LONG, "--json", "-").stdout)
    assert found["spec"] == {"dtype": "uint8", "symmetric": False, "range": "mse"}
    assert sum(found["histogram"]["counts"]) == found["count"] == 32 * 128 * 49
    scales = {entry["name"]: entry["scale"] for entry in found["ranges"]}
    assert set(scales) == {each.name for each in RANGES}
    out = tmp_path / "q.onnx"
    onnxq("quantize", MODEL, "--calib", table, "-o", out)
    import onnx  # noqa: PLC0415

    written = {
        float(onnx.numpy_helper.to_array(tensor))
        for tensor in onnx.load(out).graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and not tensor.dims
    }
    assert scales["mse"] in written
    assert scales["minmax"] not in written


def test_flags_change_type_and_options(table: Path, tmp_path: Path) -> None:
    flags = ("--activations", "int8", "--symmetric", "--alpha", 0, "--json", tmp_path / "j")
    onnxq("inspect", table, "--tensor", "logits", *flags)
    found = json.loads((tmp_path / "j").read_text(encoding="utf-8"))
    assert found["spec"] == {"dtype": "int8", "symmetric": True, "range": "mse"}
    ranges = {entry["name"]: entry for entry in found["ranges"]}
    assert {entry["zero_point"] for entry in ranges.values()} == {0}
    assert ranges["outlier-var"]["options"]["alpha"] == 0
    assert ranges["outlier-var"]["hi"] == found["hi"]
    target = ("--target", "tensorrt", "--outlier-var", "--json", tmp_path / "j")
    onnxq("inspect", table, "--tensor", "logits", *target)
    found = json.loads((tmp_path / "j").read_text(encoding="utf-8"))
    assert found["spec"] == {"dtype": "int8", "symmetric": True, "range": "outlier-var"}


def test_a_terminal_without_unicode_gets_ascii(table: Path) -> None:
    run = [sys.executable, "-m", "onnxq", "inspect", str(table), "--tensor", "logits"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(run, capture_output=True, check=True, env=environment)
    assert done.stdout.isascii()
    assert b"#" in done.stdout


def test_an_overview_loads_nothing_heavy(table: Path) -> None:
    code = (
        f"import sys; from typer.testing import CliRunner; from onnxq.cli.app import app;"
        f"r = CliRunner().invoke(app, ['inspect', {str(table)!r}]); assert r.exit_code == 0;"
        f"print([m for m in ('onnxruntime', 'numba', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("--plan",), 2, "--plan and --sensitivity are for models"),
        (("--alpha", 2), 2, "--tensor NAME only"),
        (("--tensor", "logits", "--weights", "int8"), 2, "activations only"),
        (("--tensor", "logits", "--per-tensor"), 2, "activations only"),
        (("--tensor", "logist"), 5, "did you mean 'logits'"),
        (("--tensor", "Relu"), 5, "write more"),
        (("--tensor", "logits", "--range", "minmx"), 5, "unknown range"),
        (("--tensor", "logits", "--k1", 1.5), 5, "k1 is a whole number"),
        (("--tensor", "logits", "--target", "cpuu"), 5, "unknown target"),
        (("--tensor", "logits", "--activations", "int"), 5, "no integer type"),
    ],
)
def test_bad_flags_are_one_line(
    flags: tuple[object, ...], code: int, said: str, table: Path
) -> None:
    result = onnxq("inspect", table, *flags, code=code)
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert said in result.stderr


def test_tensor_is_refused_for_models() -> None:
    assert "--tensor is for" in onnxq("inspect", MODEL, "--tensor", "logits", code=2).stderr


def test_a_damaged_table_is_one_line(table: Path, tmp_path: Path) -> None:
    (tmp_path / "half.calib").write_bytes(table.read_bytes()[:5000])
    result = onnxq("inspect", tmp_path / "half.calib", code=4)
    assert "not a calibration table, or a damaged one" in result.stderr
