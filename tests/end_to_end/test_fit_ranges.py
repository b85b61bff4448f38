"""Ranges fitted to the layers, and biases corrected by what is measured, on a real model."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from onnxq import Collection, Cut, Recipe, Source, calibrate, compare, quantize
from onnxq.cli.app import app
from onnxq.errors import CalibrationError, RecipeError, UnknownNameError
from onnxq.graph.session import Runtime
from onnxq.table import CalibrationTable
from onnxq.table_file import save

SAMPLE = Path(__file__).parents[2] / "sample_models" / "fashion_mobilenet"
MODEL = SAMPLE / "model.onnx"
ONE = Runtime(threads=1)
MINMAX = {"activations": {"range": "minmax"}, "correct_bias": False}
INT4 = {"target": "generic", "weights": {"dtype": "int4"}}


@pytest.fixture(scope="module")
def table() -> CalibrationTable:
    return calibrate(
        MODEL, Source(data=str(SAMPLE / "calib.npz"), cut=Cut(samples=64)), runtime=ONE
    )


def sqnr(table: CalibrationTable, recipe: dict[str, object], folder: Path) -> float:
    """Return how near the result is on other data."""
    out = folder / "q.onnx"
    quantize(MODEL, table, Recipe.from_dict(recipe), out, explain=False, runtime=ONE)
    data = Source(data=str(SAMPLE / "eval.npz"), cut=Cut(samples=64))
    return compare(MODEL, out, data, runtime=ONE).comparison.outputs[0].similarity.sqnr


def test_fitting_brings_plain_extremes_nearer(table: CalibrationTable, tmp_path: Path) -> None:
    before = sqnr(table, MINMAX, tmp_path)
    assert sqnr(table, {**MINMAX, "fit_ranges": True}, tmp_path) > before + 0.5


def test_measured_means_beat_computed_ones_where_errors_add_up(
    table: CalibrationTable, tmp_path: Path
) -> None:
    computed = sqnr(table, {**INT4, "bias_correction": "analytic"}, tmp_path)
    measured = sqnr(table, {**INT4, "bias_correction": "empirical"}, tmp_path)
    assert measured > computed + 0.5
    assert computed > sqnr(table, INT4, tmp_path)


def test_to_name_a_way_asks_for_it_unless_refused(table: CalibrationTable, tmp_path: Path) -> None:
    for asked, count in (({}, 0), ({"correct_bias": False}, 0), ({"correct_bias": True}, 18)):
        way = {} if not asked else {"bias_correction": "empirical"}
        recipe = Recipe.from_dict({"target": "generic", **way, **asked})
        result = quantize(MODEL, table, recipe, tmp_path / "q.onnx", explain=False, runtime=ONE)
        assert result.repairs.corrected == count
    named = Recipe(target="generic", bias_correction="empirical")
    assert (
        quantize(
            MODEL, table, named, tmp_path / "q.onnx", explain=False, runtime=ONE
        ).repairs.corrected
        == 18
    )


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_report_tells(table: CalibrationTable, tmp_path: Path) -> None:
    calib, out, found = (tmp_path / name for name in ("m.calib", "q.onnx", "r.json"))
    save(table, calib)
    flags = ("--range", "minmax", "--fit-ranges", "--bias-correction", "empirical")
    given = tmp_path / "r.yaml"
    rule = "{range: given, range_options: {lo: 0, hi: 2.55}}"
    given.write_text(f"tensors: {{image: {rule}}}\n")
    result = run("quantize", MODEL, "--calib", calib, "-o", out, *flags, "--json", found,
                 "--recipe", given, "--threads", 1)  # fmt: skip
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert "activation ranges fitted to the layers that read them: their noise -" in words
    assert "mean error of their layer, measured in the quantized model" in words
    fits = json.loads(found.read_text())["fitted_ranges"]
    assert "image" not in fits
    assert any(fit["moved"] for fit in fits.values())
    for fit in fits.values():
        assert fit["noise"]["after"] <= fit["noise"]["before"]
        assert fit["moved"] == (fit["noise"]["after"] < fit["noise"]["before"])


@pytest.mark.parametrize("key", [{"fit_ranges": True}, {"bias_correction": "empirical"}])
def test_without_samples_there_is_nothing_to_fit_on(key: dict[str, object], tmp_path: Path) -> None:
    source = Source(data=str(SAMPLE / "calib.npz"), cut=Cut(samples=8))
    bare = calibrate(MODEL, source, collection=Collection(keep_samples=0))
    with pytest.raises(CalibrationError, match=f"{next(iter(key))}.*keeps none"):
        quantize(MODEL, bare, Recipe.from_dict(key), tmp_path / "q.onnx")


def test_words_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="bias_correction"):
        Recipe(bias_correction="magic")
    with pytest.raises(RecipeError, match="fit_ranges must be true or false"):
        Recipe.from_dict({"fit_ranges": "often"})
    out = tmp_path / "q.onnx"
    flags = ("--bias-correction", "magic", "--data", SAMPLE / "calib.npz")
    result = run("quantize", MODEL, "-o", out, *flags)
    assert result.exit_code == 5
    assert not out.exists()
