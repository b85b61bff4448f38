"""calibrate → quantize → compare with one activation scale a channel, as a user runs them."""

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from typer.testing import CliRunner, Result

from onnxq.cli.app import app

SAMPLE = Path(__file__).parents[2] / "sample_models" / "fashion_mobilenet"
MODEL = SAMPLE / "model.onnx"
CHANNELS = ("--activation-granularity", "channel")


def onnxq(*arguments: object, exits: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == exits, result.output
    return result


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One table with channels, which serves both granularities."""
    path = tmp_path_factory.mktemp("channels") / "t.calib"
    run = ("--data", SAMPLE / "calib.npz", "--samples", 128, *CHANNELS)
    onnxq("calibrate", MODEL, *run, "-o", path)
    return path


def cosine(model: Path) -> float:
    shown = onnxq(
        "compare", MODEL, model, "--data", SAMPLE / "eval.npz", "--samples", 500, "--json", "-"
    )
    return float(json.loads(shown.stdout)["outputs"]["logits"]["cosine"])


@pytest.mark.parametrize("flags", [(), ("--outlier-var",), ("--outlier-var", "--symmetric")])
def test_channels_are_nearer_to_the_float_model(
    flags: tuple[str, ...], table: Path, tmp_path: Path
) -> None:
    found = {}
    for granularity in ("tensor", "channel"):
        out = tmp_path / f"{granularity}.onnx"
        run = ("--calib", table, "--target", "generic", *flags)
        onnxq("quantize", MODEL, *run, "--activation-granularity", granularity, "-o", out)
        found[granularity] = cosine(out)
    assert found["channel"] > found["tensor"]
    assert found["channel"] > 0.9998


def test_both_optimization_levels_agree(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "q.onnx"
    onnxq("quantize", MODEL, "--calib", table, "--target", "generic", *CHANNELS, "-o", out)
    images = np.load(SAMPLE / "eval.npz")["image"][:64]
    found = []
    for level in (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, None):
        options = ort.SessionOptions()
        if level is not None:
            options.graph_optimization_level = level
        session = ort.InferenceSession(out, options, providers=["CPUExecutionProvider"])
        found.append(session.run(["logits"], {"image": images})[0])
    difference = np.abs(found[0] - found[1])
    assert np.median(difference) <= 1e-5 * np.abs(found[0]).max()
    assert np.square(difference).sum() <= 1e-4 * np.square(found[0]).sum()


def test_a_recipe_says_what_the_flag_says_and_calibrates_what_it_needs(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("target: generic\nactivations: {granularity: channel:1}\n")
    data = ("--data", SAMPLE / "calib.npz", "--samples", 16)
    onnxq("quantize", MODEL, *data, "--recipe", recipe, "-o", tmp_path / "a.onnx")
    flags = ("--target", "generic", "--activation-granularity", "channel:1")
    onnxq("quantize", MODEL, *data, *flags, "-o", tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_inspect_tells_who_keeps_one_scale_and_why() -> None:
    shown = onnxq(
        "inspect", MODEL, "--plan", "--target", "generic", *CHANNELS, "--json", "-"
    ).stdout
    tensors = {t["name"]: t for t in json.loads(shown)["tensors"]}
    assert tensors["image"]["granularity"] == "tensor"
    assert tensors["image"]["reason"].endswith("; per tensor: it has one channel")
    assert tensors["/stem/stem.2/Clip_output_0"]["granularity"] == "channel, axis 1"


def test_what_cannot_be_is_refused_in_one_line(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "q.onnx"
    generic = ("quantize", MODEL, "--target", "generic", "-o", out, *CHANNELS)
    plain = tmp_path / "plain.calib"
    onnxq("calibrate", MODEL, "--data", SAMPLE / "calib.npz", "--samples", 8, "-o", plain)
    wrong = {
        6: ("quantize", MODEL, "--calib", table, "-o", out, *CHANNELS),
        5: (*generic, "--calib", table, "--range", "mse"),
        4: (*generic, "--calib", plain),
        2: ("quantize", MODEL, "--calib", table, "--activation-granularity", "row", "-o", out),
    }
    for exits, arguments in wrong.items():
        onnxq(*arguments, exits=exits)
        assert not out.exists()
    many = onnxq(*generic, "--calib", table, "--outlier-var", "--k1", 300, exits=4)
    assert "--keep-channel-extremes 300" in " ".join(many.output.split())


def test_layers_are_measured_on_grids_by_channel(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "q.onnx"
    onnxq("quantize", MODEL, "--calib", table, "--target", "generic", *CHANNELS, "-o", out)
    shown = onnxq(
        "compare", MODEL, out, "--data", SAMPLE / "eval.npz", "--samples", 16,
        "--layers", "--json", "-",
    )  # fmt: skip
    layers = json.loads(shown.stdout)["layers"]
    assert {layer["op"] for layer in layers} == {
        *("Conv", "Add", "GlobalAveragePool", "Flatten", "Gemm")
    }
    added = next(layer for layer in layers if layer["op"] == "Add")
    assert added["added_by"]["output"] > 0.9
