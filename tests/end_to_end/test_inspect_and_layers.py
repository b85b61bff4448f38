"""`onnxq inspect`, `onnxq compare --layers`, and what quantize advises on a bad result."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner, Result

from onnxq.cli.app import app

SAMPLE = Path(__file__).parents[2] / "sample_models" / "fashion_resnet"
MODEL, CALIB = SAMPLE / "model.onnx", SAMPLE / "calib.npz"


def onnxq(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("layers") / "q.onnx"
    onnxq("quantize", MODEL, "--data", CALIB, "--samples", 32, "-o", path)
    return path


def test_layers_are_ranked(quantized: Path) -> None:
    run = ("compare", MODEL, quantized, "-d", CALIB, "--samples", 16, "--layers")
    layers = json.loads(onnxq(*run, "--json", "-").stdout)["layers"]
    assert len(layers) >= 10
    effects = [float(layer["effect_db"]) for layer in layers]
    assert effects == sorted(effects)
    assert all(float(layer["sqnr_db"]) > 10 for layer in layers)
    shares = [sum(layer["added_by"].values()) for layer in layers]
    assert set(np.round(shares, 6)) <= {0.0, 1.0}
    shown = onnxq(*run, "--top", 2).stdout
    assert layers[0]["name"] in shown
    assert layers[1]["name"] in shown
    assert f"2 of {len(layers)}" in shown


def test_a_broken_scale_in_a_file_is_found(quantized: Path, tmp_path: Path) -> None:
    proto = onnx.load(quantized)
    pairs = [n for n in proto.graph.node if n.op_type == "QuantizeLinear"]
    broken = pairs[len(pairs) // 2]
    after = next(
        n.output[0]
        for n in proto.graph.node
        if n.op_type == "DequantizeLinear" and n.input[0] == broken.output[0]
    )
    for tensor in proto.graph.initializer:
        if tensor.name == broken.input[1]:
            scale = onnx.numpy_helper.to_array(tensor) * np.float32(50)
            tensor.CopyFrom(onnx.numpy_helper.from_array(scale.astype(np.float32), tensor.name))
    onnx.save(proto, tmp_path / "broken.onnx")
    shown = onnxq(
        "compare", MODEL, tmp_path / "broken.onnx", "-d", CALIB, "--samples", 16, "--layers",
        "--json", "-",
    )  # fmt: skip
    first = json.loads(shown.stdout)["layers"][0]
    assert first["output"] == after
    assert first["added_by"]["output"] > 0.9


def test_models_without_common_layers_are_one_line_and_exit_3(
    quantized: Path, tmp_path: Path
) -> None:
    renamed = onnx.load(quantized)
    keep = {value.name for value in (*renamed.graph.input, *renamed.graph.output)}
    keep |= {tensor.name for tensor in renamed.graph.initializer}
    for node in renamed.graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                names[position] = name if name in keep or not name else f"other_{name}"
    del renamed.graph.value_info[:]
    onnx.save(renamed, tmp_path / "renamed.onnx")
    for other in (MODEL, tmp_path / "renamed.onnx"):
        result = onnxq("compare", MODEL, other, "-d", CALIB, "--samples", 8, "--layers", code=3)
        lines = result.stderr.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("error: no layers to compare: ")


def test_a_bad_result_names_layers_and_flags(tmp_path: Path) -> None:
    """A percentile of 60 cuts off most of every activation."""
    run = ("quantize", MODEL, "-d", CALIB, "--samples", 32, "-o", tmp_path / "q.onnx")
    flags = ("--range", "percentile", "--range-option", "percentile=60", "--json", tmp_path / "j")
    shown = onnxq(*run, *flags).stdout
    layers = json.loads((tmp_path / "j").read_text())["layers"]
    assert "far from the float model" in shown
    assert "--exclude" in shown
    assert "--range mse" in shown
    for layer in layers[:3]:
        assert layer["name"] in shown


def test_the_regex_advised_matches_what_it_names(tmp_path: Path) -> None:
    run = ("quantize", MODEL, "-d", CALIB, "--samples", 32, "-o", tmp_path / "q.onnx")
    flags = ("--range", "percentile", "--range-option", "percentile=60")
    shown = onnxq(*run, *flags).stdout
    regex = shown.split("--exclude '")[1].split("'")[0]
    onnxq(*run, "--exclude", regex, "--json", tmp_path / "j")
    nodes = json.loads((tmp_path / "j").read_text())["nodes"]
    kept = [node["name"] for node in nodes if node["reason"] == "kept float by a rule"]
    assert len(kept) == 3


def test_a_good_result_runs_no_ranking(tmp_path: Path) -> None:
    run = ("quantize", MODEL, "-d", CALIB, "--samples", 32, "-o", tmp_path / "q.onnx")
    assert json.loads(onnxq(*run, "--json", "-").stdout)["layers"] == []


# --- inspect


def test_inspect_shows_a_summary() -> None:
    shown = onnxq("inspect", MODEL).stdout
    assert "Conv" in shown
    assert "multiply-adds" in shown
    found = json.loads(onnxq("inspect", MODEL, "--json", "-").stdout)
    assert found["inputs"]["image"]["shape"][1:] == [1, 28, 28]
    assert found["weight_bytes"] > 10000


def test_inspect_tells_how_a_quantized_file_was_made(quantized: Path) -> None:
    assert "metadata onnxq.recipe: {" in onnxq("inspect", quantized).stdout


def test_inspect_plan_gives_reasons() -> None:
    run = ("inspect", MODEL, "--plan")
    found = json.loads(onnxq(*run, "--exclude-op", "Gemm", "--json", "-").stdout)
    reasons = {node["op"]: node["reason"] for node in found["nodes"] if not node["quantized"]}
    assert reasons["Gemm"] == "kept float by a rule"
    shown = onnxq(*run).stdout
    assert " nodes quantized on cpu: " in shown.splitlines()[0]
    for node in found["nodes"]:
        assert node["name"] in shown


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (("--exclude-op", "Gemm"), 2),
        (("--target", "cpu"), 2),
        (("--outlier-var",), 2),
        (("--plan", "--k2", "10"), 2),
        (("--plan", "--outlier-var", "--range-option", "k3=1"), 5),
        (("--plan", "--exclude", "no-node-has-this"), 5),
        (("--plan", "--range", "minmx"), 5),
        (("--plan", "--target", "cpuu"), 5),
        (("--plan", "--weights", "uint4"), 6),
        (("--plan", "--exclude", ""), 3),
        (("--plan", "--range-option", "nonsense"), 2),
    ],
)
def test_bad_flags_of_inspect_are_one_line(flags: tuple[str, ...], code: int) -> None:
    result = onnxq("inspect", MODEL, *flags, code=code)
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


def test_inspect_refuses_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("this is no model")
    assert "not an ONNX model" in onnxq("inspect", tmp_path / "text.onnx", code=3).stderr


def test_a_summary_needs_no_onnxruntime() -> None:
    code = (
        f"import sys; from typer.testing import CliRunner; from onnxq.cli.app import app;"
        f"r = CliRunner().invoke(app, ['inspect', {str(MODEL)!r}]); assert r.exit_code == 0;"
        f"print([m for m in ('onnxruntime', 'numba') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
