"""Glitches in the calibration data: a few far values that never come again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onnxq import Cut, Recipe, Source, calibrate, compare, quantize
from onnxq.numerics.histogram import merge
from onnxq.recipe import TensorRule
from onnxq.table import CalibrationTable
from onnxq.testing import statistics
from onnxq.types import TensorStats

SAMPLE = Path(__file__).parents[2] / "sample_models" / "fashion_resnet"
SHARE = 1e-5  # of the values are stray


def glitched(stats: TensorStats) -> TensorStats:
    rng = np.random.default_rng(7)
    values, counts = stats.histograms[0].points()
    far = 50 * np.sqrt((counts * values**2).sum() / counts.sum())
    strays = rng.uniform(0.5 * far, 2 * far, max(round(SHARE * stats.count.item()), 1))
    return merge(stats, statistics(strays.astype(np.float32), keep=stats.ends[0].keep))


@pytest.fixture(scope="module")
def table() -> CalibrationTable:
    source = Source(data=str(SAMPLE / "calib.npz"), cut=Cut(samples=64, batch_size=8))
    found = calibrate(SAMPLE / "model.onnx", source)
    (group,) = found.groups
    tensors = {name: glitched(stats) for name, stats in group.tensors.items()}
    return replace(found, groups=(replace(group, tensors=tensors),))


def test_outlier_var_does_without_stray_values(table: CalibrationTable, tmp_path: Path) -> None:
    found = {}
    for name in ("minmax", "mse", "outlier-var"):
        out = tmp_path / f"{name}.onnx"
        quantize(SAMPLE / "model.onnx", table, Recipe(activations=TensorRule(range=name)), out)
        data = Source(data=str(SAMPLE / "eval.npz"), cut=Cut(samples=100, batch_size=10))
        near = compare(SAMPLE / "model.onnx", out, data).comparison.outputs[0].similarity
        found[name] = near.sqnr
    assert found["outlier-var"] > found["minmax"] + 10
    assert found["outlier-var"] > found["mse"] + 5
