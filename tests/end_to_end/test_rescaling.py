"""quantize --equalize and --smooth as a user runs them: what they bring, ask for and say."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner, Result

import onnxq as library
from onnxq.cli.app import app
from onnxq.drafting import draft
from onnxq.errors import CalibrationError
from onnxq.graph import io
from onnxq.graph.io import array_of
from onnxq.observing import completed
from onnxq.passes.prepare import prepare
from tests.graphs import build, run

SAMPLES = Path(__file__).parents[2] / "sample_models"


def onnxq(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def told(*arguments: object) -> dict:
    result = onnxq(*arguments, "--json", "-", "-q")
    assert result.exit_code == 0, result.output
    found: dict = json.loads(result.stdout)
    return found


def pass_of(found: Mapping, name: str) -> dict:
    ((report),) = [each for each in found["passes"] if each["name"] == name]
    return report


def uneven(path: Path) -> None:
    """Write fashion_resnet with the channels inside of its blocks scaled to very different size."""
    model = io.load(SAMPLES / "fashion_resnet" / "model.onnx")
    prepare(model)
    rng = np.random.default_rng(0)
    values = {}
    for relu in [node for node in model.graph.nodes if node.op == "Relu"]:
        before, after = relu.inputs[0].inputs[0], relu.outputs[0].outputs
        if before.op == "Conv" and len(after) == 1 and after[0].op == "Conv":
            weight, bias, reads = (*before.inputs[1:3], after[0].inputs[1])
            factors = np.exp(2 * rng.normal(size=weight.shape[0])).astype(np.float32)
            values[weight.name] = array_of(weight) * factors.reshape(-1, 1, 1, 1)
            values[bias.name] = array_of(bias) * factors
            values[reads.name] = array_of(reads) / factors.reshape(1, -1, 1, 1)
    assert len(values) >= 6
    proto = io.sync(model)
    for held in proto.graph.initializer:
        if held.name in values:
            held.CopyFrom(onnx.numpy_helper.from_array(values[held.name], held.name))
    onnx.save(proto, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uneven model, its data and its calibration table."""
    found = tmp_path_factory.mktemp("uneven")
    uneven(found / "model.onnx")
    data = SAMPLES / "fashion_resnet" / "calib.npz"
    done = onnxq("calibrate", found / "model.onnx", "--data", data, "--samples", 48,
                 "-o", found / "c.calib")  # fmt: skip
    assert done.exit_code == 0, done.output
    return found


DATA = ("--data", SAMPLES / "fashion_resnet" / "calib.npz", "--samples", 48)


def test_one_scale_a_weight_is_enough_after_equalization(folder: Path) -> None:
    found = {}
    for name, flags in {"plain": (), "equalized": ("--equalize", *DATA)}.items():
        command = ("quantize", folder / "model.onnx", "--calib", folder / "c.calib",
                   "--per-tensor", "-o", folder / f"{name}.onnx")  # fmt: skip
        found[name] = told(*command, *flags)
    cosines = {name: each["check"]["outputs"]["logits"]["cosine"] for name, each in found.items()}
    assert cosines["plain"] < 0.99
    assert cosines["equalized"] > 0.999
    changed = pass_of(found["equalized"], "equalize")
    assert len(changed["changed"]) >= 6
    assert changed["note"] == "by the largest values of 8 samples"
    names = {each["name"] for each in found["equalized"]["activations"]}
    assert any(re.search("_equalized_[0-9a-f]{8}$", name) for name in names)


def test_without_data_what_was_rescaled_is_missing(folder: Path) -> None:
    out = folder / "none.onnx"
    command = ("quantize", folder / "model.onnx", "--calib", folder / "c.calib", "-o", out)
    result = onnxq(*command, "--equalize")
    assert result.exit_code == 4
    assert "--data" in result.output
    assert not out.exists()


def test_a_table_of_another_model_is_still_refused(folder: Path) -> None:
    model = SAMPLES / "fashion_resnet" / "model.onnx"
    command = ("quantize", model, "--calib", folder / "c.calib", *DATA, "--equalize")
    result = onnxq(*command, "-o", folder / "q.onnx")
    assert result.exit_code == 4
    assert "belongs to another model" in " ".join(result.output.split())


def test_calibrating_now_needs_nothing_else(folder: Path) -> None:
    command = ("quantize", folder / "model.onnx", *DATA, "-o", folder / "now.onnx")
    now = told(*command, "--per-tensor", "--equalize")
    then = told(*command[:2], "--calib", folder / "c.calib", *command[2:], "--per-tensor",
                "--equalize")  # fmt: skip
    assert now["check"] == then["check"]
    assert now["activations"] == then["activations"]


def test_data_beside_a_table_is_for_these_passes_only(folder: Path) -> None:
    command = ("quantize", folder / "model.onnx", "--calib", folder / "c.calib", *DATA)
    assert onnxq(*command, "-o", folder / "q.onnx").exit_code == 2


def test_the_passes_are_told_in_words(tmp_path: Path) -> None:
    folder = SAMPLES / "fashion_mobilenet"
    command = ("quantize", folder / "model.onnx", "--data", folder / "calib.npz", "--samples", 16)
    result = onnxq(*command, "-o", tmp_path / "q.onnx", "--equalize")
    said = " ".join(result.output.split())
    assert "equalize: 14 nodes rescaled (by the largest values of 8 samples)" in said
    assert "equalize: 7 × not: every channel may reach the end of a Clip" in said


def test_inspect_plans_with_them() -> None:
    model = SAMPLES / "fashion_mobilenet" / "model.onnx"
    result = onnxq("inspect", model, "--plan", "--equalize", "--smooth", 0.5)
    assert result.exit_code == 0, result.output
    assert "may reach the end of a Clip" in " ".join(result.output.split())


def test_mobilenet_stays_what_it_is(tmp_path: Path) -> None:
    """Its channels are even enough; Relu6 is in the way of most, and nothing gets worse."""
    folder = SAMPLES / "fashion_mobilenet"
    command = ("quantize", folder / "model.onnx", "--data", folder / "calib.npz", "--samples", 64)
    plain, equalized, cut = (
        told(*command, "-o", tmp_path / "q.onnx", "--per-tensor", *flags)
        for flags in ((), ("--equalize",), ("--equalize", "--equalize-clips"))
    )
    near = [each["check"]["outputs"]["logits"]["sqnr_db"] for each in (plain, equalized, cut)]
    assert min(near[1:]) > near[0] - 4
    assert pass_of(equalized, "equalize")["changed"]


@pytest.fixture(scope="module")
def outliers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A block with a norm whose scale has outliers, its data and nothing else."""
    found = tmp_path_factory.mktemp("outliers")
    scale = np.ones(32, np.float32)
    scale[[3, 17]] = 60, 90
    proto = build(
        "g (float[N, 8, 32] x) => (float[N, 8, 48] y) { n = LayerNormalization(x, s, b)"
        " q = MatMul(n, w) k = MatMul(n, v) y = Concat<axis = -1>(q, k) }",
        {"s": scale, "b": (32,), "w": (32, 16), "v": (32, 32)},
        opset=17,
    )
    for held in proto.graph.initializer:  # where the activation is large, the weights are small
        if held.name in ("w", "v"):
            weight = onnx.numpy_helper.to_array(held) / scale[:, np.newaxis]
            held.CopyFrom(onnx.numpy_helper.from_array(weight, held.name))
    onnx.save(proto, found / "model.onnx")
    rng = np.random.default_rng(0)
    np.savez(found / "data.npz", x=rng.normal(size=(32, 8, 32)).astype(np.float32))
    return found


def test_smoothing_brings_outliers_within_the_codes(outliers: Path) -> None:
    command = ("quantize", outliers / "model.onnx", "--data", outliers / "data.npz")
    plain, smoothed = (
        told(*command, "-o", outliers / "q.onnx", *flags) for flags in ((), ("--smooth", 0.5))
    )
    near = [each["check"]["outputs"]["y"]["sqnr_db"] for each in (plain, smoothed)]
    assert near[1] > near[0] + 10
    assert len(pass_of(smoothed, "smooth")["changed"]) == 3


def test_statistics_for_other_factors_are_not_taken(outliers: Path) -> None:
    model, cut = outliers / "model.onnx", library.Cut(samples=32)
    source, runtime = library.Source(data=str(outliers / "data.npz"), cut=cut), library.Runtime()
    table = library.calibrate(model, source, runtime=runtime)
    mild, strong = (library.Recipe(smooth=alpha) for alpha in (0.3, 0.7))
    once = completed(model, table, mild, source, runtime)
    with pytest.raises(CalibrationError, match="--data"):
        draft(model, once, strong, runtime=runtime)
    both = completed(model, once, strong, source, runtime)
    found = [draft(model, each, strong, runtime=runtime).seen for each in (
        both, completed(model, table, strong, source, runtime))]  # fmt: skip
    assert found[0].keys() == found[1].keys()
    for name, seen in found[0].items():
        assert (seen.lo, seen.hi) == (found[1][name].lo, found[1][name].hi)


def test_sensitivity_is_that_of_the_rescaled_model(outliers: Path) -> None:
    command = ("inspect", outliers / "model.onnx", "--sensitivity", "--confirm", 0)
    data = ("--data", outliers / "data.npz")
    plain, smoothed = (told(*command, *data, *flags) for flags in ((), ("--smooth", 0.5)))
    assert smoothed["quantized"]["sqnr_db"] > plain["quantized"]["sqnr_db"] + 10


def test_smoothing_needs_samples(outliers: Path) -> None:
    done = onnxq("calibrate", outliers / "model.onnx", "--data", outliers / "data.npz",
                 "--keep-samples", 0, "-o", outliers / "c.calib")  # fmt: skip
    assert done.exit_code == 0
    command = ("quantize", outliers / "model.onnx", "--calib", outliers / "c.calib")
    result = onnxq(*command, "-o", outliers / "q.onnx", "--smooth", 0.5)
    assert result.exit_code == 4
    assert "--keep-samples" in " ".join(result.output.split())


@pytest.mark.parametrize("flags", [("--smooth-insert",), ("--equalize-clips",)])
def test_what_is_about_a_pass_needs_it(outliers: Path, flags: tuple[str, ...]) -> None:
    command = ("quantize", outliers / "model.onnx", "--data", outliers / "data.npz")
    assert onnxq(*command, "-o", outliers / "q.onnx", *flags).exit_code == 2


def test_the_uneven_model_computes_what_the_sample_does(folder: Path) -> None:
    feed = {"image": np.load(SAMPLES / "fashion_resnet" / "calib.npz")["image"][:4]}
    pair = [onnx.load(path) for path in (SAMPLES / "fashion_resnet" / "model.onnx",
                                         folder / "model.onnx")]  # fmt: skip
    one, other = (run(proto, feed)[0] for proto in pair)
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
