"""Every target on the sample models, from one calibration table made by default."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from typer.testing import CliRunner

from onnxq.cli.app import app
from onnxq.feeds import Cut
from onnxq.graph.io import load
from onnxq.passes.prepare import prepare
from onnxq.pipeline import Source, calibrate, quantize
from onnxq.plan import observable
from onnxq.recipe import Recipe
from onnxq.table import CalibrationTable
from onnxq.targets import names, target
from tests.graphs import sized

SAMPLES = Path(__file__).parents[2] / "sample_models"
MODELS = ("fashion_detect", "fashion_mobilenet", "fashion_resnet", "fashion_segment")


@pytest.fixture(scope="module", params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def table(name: str) -> CalibrationTable:
    source = Source(data=str(SAMPLES / name / "calib.npz"), cut=Cut(samples=32, batch_size=16))
    return calibrate(SAMPLES / name / "model.onnx", source)


def outputs(model: Path, name: str, *, optimize: bool) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    with np.load(SAMPLES / name / "eval.npz") as data:
        feed = {each.name: data[each.name][:16] for each in session.get_inputs()}
    found: list[np.ndarray] = session.run(None, feed)
    return found


@pytest.fixture(scope="module")
def expected(name: str) -> list[np.ndarray]:
    return outputs(SAMPLES / name / "model.onnx", name, optimize=True)


@pytest.mark.parametrize("on", names())
def test_every_target_is_near_the_float_model(
    name: str, on: str, table: CalibrationTable, expected: list[np.ndarray], tmp_path: Path
) -> None:
    reference = SAMPLES / name / "model.onnx"
    result = quantize(reference, table, sized(Recipe(target=on), on, "64x64"), tmp_path / "q.onnx")
    assert result.sizes[1] < 0.4 * result.sizes[0]
    for optimize in (True, False):
        found = outputs(result.path, name, optimize=optimize)
        for a, b in zip(expected, found, strict=True):
            assert (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b) > 0.997


def test_all_targets_together_observe_little_more_than_cpu(name: str) -> None:
    model = load(SAMPLES / name / "model.onnx")
    prepare(model)
    cpu = observable(model, target("cpu"))
    every = {tensor for on in names() for tensor in observable(model, target(on))}
    assert len(every) <= 1.15 * len(cpu)


def test_list_shows_every_target() -> None:
    shown = CliRunner().invoke(app, ["list", "targets"])
    assert shown.exit_code == 0
    assert all(on in shown.output for on in names())
