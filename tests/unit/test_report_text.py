from dataclasses import replace
from pathlib import Path

import pytest

from onnxq import Cut, Recipe, Source, calibrate, quantize
from onnxq.comparison import Latency
from onnxq.report.text import quantized_lines
from onnxq.results import Quantized

SAMPLE = Path(__file__).parents[2] / "sample_models" / "fashion_resnet"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    source = Source(data=str(SAMPLE / "calib.npz"), cut=Cut(samples=8, batch_size=8))
    table = calibrate(SAMPLE / "model.onnx", source)
    out = tmp_path_factory.mktemp("report") / "q.onnx"
    return quantize(SAMPLE / "model.onnx", table, Recipe(), out)


def test_both_models_are_timed(result: Quantized) -> None:
    assert result.latency is not None
    assert result.latency.runs >= 5
    assert result.latency.batch_size == 1


@pytest.mark.parametrize(("factor", "warned"), [(0.5, False), (1.05, False), (1.3, True)])
def test_a_slower_result_is_said_to_be_slower(
    result: Quantized, factor: float, *, warned: bool
) -> None:
    timed = Latency(float_ms=1.0, quantized_ms=factor, batch_size=1, threads=1, runs=9)
    lines = list(quantized_lines(replace(result, latency=timed)))
    assert any("slower than the float model" in line for line in lines) == warned


def test_a_model_that_was_not_timed_is_not_called_slow(result: Quantized) -> None:
    assert not any("slower" in line for line in quantized_lines(replace(result, latency=None)))
