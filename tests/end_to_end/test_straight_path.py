"""calibrate → quantize → compare on the sample models, as a user runs them."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from typer.testing import CliRunner, Result

from onnxq.cli.app import app

SAMPLES = Path(__file__).parents[2] / "sample_models"
CLASSIFIERS = ("fashion_resnet", "fashion_mobilenet")


def onnxq(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def sample(name: str, file: str) -> Path:
    return SAMPLES / name / file


@pytest.fixture(scope="module", params=CLASSIFIERS)
def quantized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One classifier, calibrated and quantized with defaults."""
    folder = tmp_path_factory.mktemp(request.param)
    model = sample(request.param, "model.onnx")
    onnxq("calibrate", model, "--data", sample(request.param, "calib.npz"), "-o", folder / "c")
    onnxq("quantize", model, "--calib", folder / "c", "-o", folder / f"{request.param}.onnx")
    return folder / f"{request.param}.onnx"


def float_ops_after_optimization(model: Path, folder: Path) -> set[str]:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return {node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node}


def test_defaults_keep_the_accuracy_of_both_classifiers(quantized: Path) -> None:
    name = quantized.stem
    onnx.checker.check_model(str(quantized))
    shown = onnxq(
        "compare", sample(name, "model.onnx"), quantized,
        "--data", sample(name, "eval.npz"), "--json", "-",
    )  # fmt: skip
    found = json.loads(shown.stdout)
    assert found["samples"] >= 1000
    assert found["outputs"]["logits"]["cosine"] >= 0.9995
    assert found["top1"]["difference"] >= -0.005
    assert found["bytes"]["quantized"] < 0.4 * found["bytes"]["float"]


def test_no_float_conv_or_gemm_is_left(quantized: Path, tmp_path: Path) -> None:
    ops = float_ops_after_optimization(quantized, tmp_path)
    assert not ops & {"Conv", "FusedConv", "Gemm", "MatMul", "FusedGemm"}
    assert {"QLinearConv", "QGemm"} <= ops


def test_the_result_says_how_it_was_made(quantized: Path) -> None:
    metadata = {p.key: p.value for p in onnx.load(quantized).metadata_props}
    assert json.loads(metadata["onnxq.recipe"])["target"] == "cpu"
    assert int(metadata["onnxq.calibration_samples"]) > 0
    assert "onnxruntime" in json.loads(metadata["onnxq.versions"])


@pytest.mark.parametrize("name", ["fashion_segment", "fashion_detect"])
def test_dense_outputs_survive(name: str, tmp_path: Path) -> None:
    model, out = sample(name, "model.onnx"), tmp_path / "q.onnx"
    onnxq("quantize", model, "--data", sample(name, "calib.npz"), "--samples", 64, "-o", out)
    shown = onnxq(
        "compare", model, out,
        "--data", sample(name, "eval.npz"), "--samples", 64, "--json", "-",
    )  # fmt: skip
    outputs = json.loads(shown.stdout)["outputs"].values()
    assert min(output["cosine"] for output in outputs) >= 0.99


def test_entropy_gives_a_working_model(tmp_path: Path) -> None:
    """Apart from the other ranges: as published it clips hard (see docs/algorithms.md)."""
    model, out = sample("fashion_resnet", "model.onnx"), tmp_path / "q.onnx"
    data = sample("fashion_resnet", "calib.npz")
    onnxq("quantize", model, "--data", data, "--samples", 64, "--range", "entropy", "-o", out)
    onnxq(
        "compare", model, out, "--data", sample("fashion_resnet", "eval.npz"),
        "--samples", 200, "--min-cosine", "0.97",
    )  # fmt: skip


@pytest.mark.parametrize(
    "flags",
    [
        ("--per-tensor",),
        ("--per-channel", "--range", "mse"),
        ("--range", "percentile", "--range-option", "percentile=99.999"),
        ("--outlier-var",),
        ("--weight-range", "outlier-var", "--k1", "0.01", "--weight-range-option", "k2=0.01"),
        ("--symmetric",),
        ("--reduce-range",),
        ("--weights", "uint8", "--weight-range", "mse"),
        ("--exclude", "/block1/", "--exclude-op", "Gemm"),
    ],
)
def test_flags_give_a_working_model(flags: tuple[str, ...], tmp_path: Path) -> None:
    model, out = sample("fashion_resnet", "model.onnx"), tmp_path / "q.onnx"
    data = sample("fashion_resnet", "calib.npz")
    onnxq("quantize", model, "--data", data, "--samples", 64, *flags, "-o", out)
    onnxq(
        "compare", model, out, "--data", sample("fashion_resnet", "eval.npz"),
        "--samples", 200, "--min-cosine", "0.99",
    )  # fmt: skip


def test_a_recipe_says_what_flags_say(tmp_path: Path) -> None:
    model, data = sample("fashion_resnet", "model.onnx"), sample("fashion_resnet", "calib.npz")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("weights: {granularity: tensor}\nrules: [{op: Gemm, quantize: false}]\n")
    flags = ("--data", data, "--samples", 32)
    onnxq("quantize", model, *flags, "--recipe", recipe, "-o", tmp_path / "a.onnx")
    onnxq(
        "quantize", model, *flags, "--per-tensor", "--exclude-op", "Gemm", "-o", tmp_path / "b.onnx"
    )
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_same_inputs_same_bytes_and_shards_merge_to_the_whole(tmp_path: Path) -> None:
    model, data = (
        sample("fashion_mobilenet", "model.onnx"),
        sample("fashion_mobilenet", "calib.npz"),
    )
    run = ("calibrate", model, "--data", data, "--samples", 64)
    onnxq(*run, "-o", tmp_path / "whole.calib")
    onnxq(*run, "-o", tmp_path / "again.calib")
    for shard in range(3):
        onnxq(*run, "--shard", f"{shard}/3", "-o", tmp_path / f"part{shard}.calib")
    parts = [tmp_path / f"part{shard}.calib" for shard in (2, 0, 1)]
    onnxq("merge", *parts, "-o", tmp_path / "merged.calib")
    whole = (tmp_path / "whole.calib").read_bytes()
    assert (tmp_path / "again.calib").read_bytes() == whole
    assert (tmp_path / "merged.calib").read_bytes() == whole
    for name in ("whole", "merged"):
        onnxq("quantize", model, "--calib", tmp_path / f"{name}.calib", "-o", tmp_path / name)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "merged").read_bytes()


def test_shuffled_batches_give_the_same_table(tmp_path: Path) -> None:
    model = sample("fashion_resnet", "model.onnx")
    images = np.load(sample("fashion_resnet", "calib.npz"))["image"][:64]
    batches = images.reshape(8, 8, *images.shape[1:])
    order = np.random.default_rng(0).permutation(8)
    np.savez(tmp_path / "a.npz", image=images)
    np.savez(tmp_path / "b.npz", image=batches[order].reshape(images.shape))
    for name in ("a", "b"):
        onnxq("calibrate", model, "--data", tmp_path / f"{name}.npz", "-o", tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_compare_writes_json_beside_the_table(tmp_path: Path) -> None:
    model = sample("fashion_resnet", "model.onnx")
    shown = onnxq(
        "compare", model, model, "--data", sample("fashion_resnet", "eval.npz"),
        "--samples", 16, "--latency", "--json", tmp_path / "r.json",
    )  # fmt: skip
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["outputs"]["logits"]["sqnr_db"] == "inf"
    assert found["latency"]["runs"] >= 5
    assert "agreement" in shown.stdout


def test_list_names_what_there_is() -> None:
    found = json.loads(onnxq("list", "--json", "-").stdout)
    assert {"minmax", "percentile", "mse"} <= set(found["ranges"])
    assert "cpu" in found["targets"]
    assert {"npz", "npy", "feeds", "images", "random"} <= set(found["readers"])
