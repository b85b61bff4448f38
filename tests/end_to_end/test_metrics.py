"""``compare --metric`` on the sample models, a tiny reader of text, and bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser
from PIL import Image
from typer.testing import CliRunner, Result

from onnxq import Cut, Source, compare
from onnxq.cli.app import app
from onnxq.metrics import metric

SAMPLES = Path(__file__).parents[2] / "sample_models"
HERE = ("--samples", 64)

READER = """
<ir_version: 8, opset_import: ["" : 13]>
reader (float[N, 6, 4] x) => (float[N, 6, 4] y) { y = Identity(x) }
"""


def onnxq(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def compared(model: Path, other: Path, data: Path, *flags: object) -> dict[str, Any]:
    result = onnxq("compare", model, other, "--data", data, *flags, "--json", "-")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)["metric"]
    return found


def refused(code: int, *arguments: object) -> str:
    result = onnxq(*arguments)
    lines = result.stderr.splitlines()
    assert (result.exit_code, len(lines)) == (code, 1), result.output
    return lines[0]


def sample(name: str) -> tuple[Path, Path]:
    return SAMPLES / name / "model.onnx", SAMPLES / name / "eval.npz"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model that reads the text its input spells, and four lines; the last is misread."""
    folder = tmp_path_factory.mktemp("reader")
    model = parser.parse_model(READER)
    model.metadata_props.add(key="character", value="a\nb\nc")
    onnx.save(model, folder / "model.onnx")
    steps = [[1, 1, 0, 1, 2, 0], [0, 3, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [1, 2, 3, 0, 0, 0]]
    label = np.array(["aab", "c", "", "abb"])
    np.savez(folder / "eval.npz", x=np.eye(4, dtype=np.float32)[steps], label=label)
    return folder / "model.onnx", folder / "eval.npz"


@pytest.mark.parametrize(
    ("name", "how", "least"),
    [
        ("fashion_resnet", "classification", 0.9),
        ("fashion_mobilenet", "classification", 0.9),
        ("fashion_segment", "segmentation", 0.7),
        ("fashion_detect", "detection", 0.7),
        ("fashion_detect", "cosine", 0.99),
        ("fashion_resnet", "relative-entropy", -0.01),
    ],
)
def test_sample_models(name: str, how: str, least: float, tmp_path: Path) -> None:
    model, data = sample(name)
    out = tmp_path / "q.onnx"
    flags = ("--data", model.parent / "calib.npz", *HERE)
    assert onnxq("quantize", model, *flags, "-o", out).exit_code == 0
    found = compared(model, out, data, "--metric", how, *HERE)
    assert found["name"] == how
    assert found["quantized"] >= least
    assert found["samples"] == 64
    assert abs(found["difference"]) < 0.05
    assert found["interval95"] < 0.1


def test_the_detection_sample_is_as_good_as_its_readme_says() -> None:
    model, data = sample("fashion_detect")
    option = ("--metric-option", "iou=0.5")
    found = compared(model, model, data, "--metric", "detection", *option, "--samples", 256)
    assert found["float"] == found["quantized"] == pytest.approx(0.94, abs=0.03)
    assert found["interval95"] == 0


def test_batches_do_not_matter() -> None:
    model, data = sample("fashion_segment")
    scores = {
        compared(model, model, data, "--metric", "segmentation", "--batch-size", size, *HERE)[
            "float"
        ]
        for size in (1, 5, 64)
    }
    assert len(scores) == 1


def test_recognition(reader: tuple[Path, Path]) -> None:
    model, data = reader
    found = compared(model, model, data, "--metric", "recognition")
    assert found["float"] == pytest.approx((3 + 0.5 * (1 - 1 / 3)) / 4)
    table = model.with_name("characters.txt")
    table.write_text("x\ny\nz\n")
    options = ("--metric-option", f"characters={table}", "--metric-option", "weight=1")
    assert compared(model, model, data, "--metric", "recognition", *options)["float"] == 0.25


def test_a_metric_of_ones_own(tmp_path: Path) -> None:
    model, data = sample("fashion_resnet")
    (tmp_path / "own_metric.py").write_text(
        "def hits(outputs, labels, power=1):\n"
        "    return (outputs['logits'].argmax(1) == labels['label']) ** power\n"
        "def bad(outputs, labels):\n"
        "    raise ValueError('no\\nway')\n"
        "def nan(outputs, labels):\n"
        "    return float('nan')\n"
    )
    path = ("--import-path", tmp_path, *HERE)
    own = compared(model, model, data, "--metric", "own_metric:hits", *path)
    ours = compared(
        model, model, data, "--metric", "classification", "--metric-option", "weight=1", *HERE
    )
    assert own["float"] == ours["float"]
    run = ("compare", model, model, "--data", data, *path, "--metric")
    assert "own_metric:bad failed: ValueError: no way" in refused(4, *run, "own_metric:bad")
    assert "is nan for the float model" in refused(4, *run, "own_metric:nan")
    assert "no function 'hit'" in refused(2, *run, "own_metric:hit")
    assert "no module" in refused(2, *run, "another_metric:hits")
    options = ("own_metric:hits", "--metric-option", "powr=2")
    assert "unexpected keyword argument 'powr'" in refused(4, *run, *options)


@pytest.mark.parametrize(
    ("code", "name", "flags", "message"),
    [
        (5, "fashion_resnet", ("clasification",), "did you mean 'classification'"),
        (5, "fashion_resnet", ("segmentation",), "wants scores of shape"),
        (5, "fashion_segment", ("classification",), "wants an output of shape"),
        (5, "fashion_resnet", ("detection",), "unknown output"),
        (5, "fashion_resnet", ("cosine", "--metric-option", "weight=1"), "unknown option"),
        (5, "fashion_resnet", ("classification", "--metric-option", "k=0"), "at least 1"),
        (2, "fashion_resnet", ("cosine", "--metric-option", "output"), "KEY=VALUE"),
        (
            4,
            "fashion_resnet",
            ("cosine", "--labels", "folders"),
            "--labels is for images; reader 'npz' takes the arrays of the data",
        ),
        (4, "fashion_resnet", ("cosine", "-D", "preset=x"), "reader 'npz' has no option 'preset'"),
    ],
)
def test_bad_input(code: int, name: str, flags: tuple[str, ...], message: str) -> None:
    model, data = sample(name)
    line = refused(code, "compare", model, model, "--data", data, *HERE, "--metric", *flags)
    assert message in line


def test_labels_missing_or_mismatched(tmp_path: Path) -> None:
    model, data = sample("fashion_resnet")
    arrays = np.load(data)
    run = ("compare", model, model, "--metric", "classification", "--data")
    np.savez(tmp_path / "a.npz", image=arrays["image"][:8])
    assert "the data has no labels" in refused(4, *run, tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", image=arrays["image"][:8], label=arrays["label"][:7])
    refused(4, *run, tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", image=arrays["image"][:8], label=arrays["label"][:8] + 10)
    assert "the classes 0 to 9" in refused(4, *run, tmp_path / "c.npz")
    flags = ("--metric-option", "weight=1")
    assert "name one" in refused(2, "compare", model, model, "--data", data, *flags)


def test_images_with_labels_score_as_the_array_does(tmp_path: Path) -> None:
    model, data = sample("fashion_resnet")
    arrays = np.load(data)
    labels = {}
    for n, (image, label) in enumerate(zip(arrays["image"][:40], arrays["label"], strict=False)):
        path = tmp_path / "pictures" / str(label) / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image[0] * 255).round().astype(np.uint8)).save(path)
        labels[path.name] = int(label)
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    (tmp_path / "labels.csv").write_text("".join(f"{k},{v}\n" for k, v in labels.items()))
    how = ("--metric", "classification")
    wanted = compared(model, model, data, *how, "--samples", 40)["float"]
    images = (tmp_path / "pictures", *how, "-D", "resize=none", "--labels")
    for given in ("folders", tmp_path / "labels.json", tmp_path / "labels.csv"):
        assert compared(model, model, *images, given)["float"] == pytest.approx(wanted)


def test_the_library_takes_a_metric() -> None:
    model, data = sample("fashion_resnet")
    source = Source(data=str(data), cut=Cut(batch_size=8, samples=64))
    found = compare(model, model, source, metric=metric("classification", weight=1)).comparison
    assert found.metric is not None
    assert found.top1 is not None
    assert found.metric.paired == found.top1


def test_metrics_are_listed() -> None:
    found = json.loads(onnxq("list", "metrics", "--json", "-").stdout)["metrics"]
    assert set(found) == {
        "classification",
        "segmentation",
        "detection",
        "recognition",
        "cosine",
        "noise",
        "relative-entropy",
        "fitness",
    }
    assert all(found.values())
