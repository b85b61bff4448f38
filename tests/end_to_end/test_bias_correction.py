"""Biases take up the mean error of their layer: on cpu by default, elsewhere when asked for."""

from pathlib import Path

import pytest

from onnxq import Collection, Cut, Recipe, Source, calibrate, compare, quantize
from onnxq.recipe import TensorRule

FLOAT = TensorRule(dtype="float")
SAMPLE = Path(__file__).parents[2] / "sample_models" / "fashion_segment"


@pytest.mark.parametrize(
    ("recipe", "corrects"),
    [
        (Recipe(), True),
        (Recipe(correct_bias=False), False),
        (Recipe(target="tensorrt"), False),
        (Recipe(target="tensorrt", correct_bias=True), True),
        (Recipe(target="crossbar", crossbar="64x64", correct_bias=True, activations=FLOAT), True),
    ],
)
def test_the_target_or_the_recipe_decides(
    recipe: Recipe, tmp_path: Path, *, corrects: bool
) -> None:
    source = Source(data=str(SAMPLE / "calib.npz"), cut=Cut(samples=16, batch_size=8))
    table = calibrate(SAMPLE / "model.onnx", source)
    result = quantize(SAMPLE / "model.onnx", table, recipe, tmp_path / "q.onnx")
    assert bool(result.repairs.corrected) == corrects


def test_it_brings_the_model_nearer_on_other_data(tmp_path: Path) -> None:
    source = Source(data=str(SAMPLE / "calib.npz"), cut=Cut(samples=64, batch_size=8))
    table = calibrate(SAMPLE / "model.onnx", source)
    found = []
    for correct in (False, True):
        out = tmp_path / f"{correct}.onnx"
        quantize(SAMPLE / "model.onnx", table, Recipe(correct_bias=correct), out)
        data = Source(data=str(SAMPLE / "eval.npz"), cut=Cut(samples=64, batch_size=8))
        near = compare(SAMPLE / "model.onnx", out, data).comparison.outputs[0].similarity
        found.append(near.sqnr)
    assert found[1] > found[0] + 0.5


def test_without_samples_nothing_is_corrected(tmp_path: Path) -> None:
    source = Source(data=str(SAMPLE / "calib.npz"), cut=Cut(samples=16, batch_size=8))
    table = calibrate(SAMPLE / "model.onnx", source, collection=Collection(keep_samples=0))
    assert (
        quantize(SAMPLE / "model.onnx", table, Recipe(), tmp_path / "q.onnx").repairs.corrected == 0
    )
