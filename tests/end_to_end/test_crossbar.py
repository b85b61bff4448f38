"""The target crossbar from the command line, and a chip's compiler that reads what was written."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner, Result

from onnxq import drafting
from onnxq.cli.app import app
from onnxq.planning import plan_model
from tests.graphs import build, session, shuffled

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "sample_models" / "fashion_resnet" / "model.onnx"
DATA = MODEL.with_name("calib.npz")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("crossbar") / "model.calib"
    done = invoke("calibrate", MODEL, "--data", DATA, "--samples", 32, "-o", path)
    assert done.exit_code == 0, done.output
    return path


def reader() -> dict[str, Any]:
    """Run the example of docs/crossbar.md."""
    text = (ROOT / "docs" / "crossbar.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code.splitlines()) < 40
    names: dict[str, Any] = {}
    exec(compile(code, "docs/crossbar.md", "exec"), names)
    return names


def dequantized(path: Path, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what onnxruntime computes for the weight of every layer on arrays, by node name."""
    proto = onnx.load(path)
    notes = {n.name: {e.key: e.value for e in n.metadata_props} for n in proto.graph.node}
    names = {
        node.name: node.input[int(notes[node.name]["onnxq.crossbar.weight"])]
        for node in proto.graph.node
        if notes[node.name]
    }
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names.values())
    found = session(proto, optimize=False).run(list(names.values()), feed)
    return dict(zip(names, found, strict=True))


def check_reader(path: Path, feed: dict[str, np.ndarray]) -> None:
    """Compare every cell the example reads with the graph."""
    weights = dequantized(path, feed)
    table = json.loads(Path(f"{path}.json").read_text())
    ops = {layer["name"]: layer["op"] for layer in table["layers"]}
    seen = {name: np.full(weight.shape, np.nan) for name, weight in weights.items()}
    for name, place, value in reader()["cells"](path):
        kernel = [place[key] for key in sorted(place) if key.startswith("kernel")]
        first, second = ("input", "output") if ops[name] == "ConvTranspose" else ("output", "input")
        across = place.get("group", 0) * (dict_of(table, name)[first])
        seen[name][(across + place[first], place[second], *kernel)] = value
    for name, weight in weights.items():
        np.testing.assert_array_equal(seen[name].astype(np.float32), weight)


def dict_of(table: dict[str, Any], name: str) -> dict[str, int]:
    """Return the sizes of the axes of a layer."""
    (layer,) = (layer for layer in table["layers"] if layer["name"] == name)
    return dict([*layer["rows"], *layer["columns"]])


def test_from_the_command_line(table: Path, tmp_path: Path) -> None:
    output, report = tmp_path / "q.onnx", tmp_path / "report.json"
    done = invoke("quantize", MODEL, "--calib", table, "-o", output, "--target", "crossbar",
                  "--crossbar", "64x16", "--json", report, "--exclude", "stem|fc")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "arrays of 64x16" in done.output
    assert "map of the tiles" in done.output
    assert "slower" not in done.output
    assert float(re.findall(r"cosine ([0-9.]+)", done.output)[0]) > 0.995
    found = json.loads(report.read_text())["crossbar"]
    assert found["array"] == [64, 16]
    assert found["arrays"] == sum(layer["arrays"] for layer in found["layers"])
    assert 0.9 < found["utilisation"] <= 1
    assert not any("stem" in layer["name"] for layer in found["layers"])
    with np.load(DATA) as data:
        feed = (
            {"image": data["image"][:1]}
            if "image" in data
            else {data.files[0]: data[data.files[0]][:1]}
        )
    check_reader(output, feed)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("rows", ["channel", "kernel"])
def test_the_example_reads_groups_and_transposed_weights(
    rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, moved: bool
) -> None:
    def moved_plan(*arguments: Any) -> Any:
        prepared, plan, *others = plan_model(*arguments)
        return prepared, shuffled(plan), *others

    if moved:
        monkeypatch.setattr(drafting, "plan_model", moved_plan)
    proto = build(
        """net (float[N, 4, 6, 6] x) => (float[N, 6, 7, 7] y) {
        c = Conv<group = 2>(x, w) r = Relu(c) t = ConvTranspose<group = 2>(r, t0)
        y = Conv<pads = [1, 1, 1, 1]>(t, k) }""",
        {"w": (6, 2, 3, 3), "t0": (6, 2, 4, 4), "k": (6, 4, 3, 3)},
    )
    for number, node in enumerate(proto.graph.node):
        node.name = f"node {number}"
    model, output = tmp_path / "m.onnx", tmp_path / "q.onnx"
    onnx.save(proto, model)
    done = invoke("quantize", model, "--data", "random", "-o", output, "--target", "crossbar",
                  "--crossbar", "5x2", "--rows", rows, "--weights", "int4",
                  "--activations", "float")  # fmt: skip
    assert done.exit_code == 0, done.output
    check_reader(output, {"x": np.zeros((1, 4, 6, 6), np.float32)})
    table = json.loads(Path(f"{output}.json").read_text())
    assert table["index_bits"] == sum(layer["index_bits"] for layer in table["layers"])
    assert bool(table["index_bits"]) == moved
    assert all((layer["row_order"] == "natural") != moved for layer in table["layers"])


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--target", "crossbar"], 5, "crossbar needs the size of its arrays, e.g. --crossbar"),
        (["--target", "crossbar", "--crossbar", "12"], 2, "crossbar is rows x columns"),
        (["--target", "crossbar", "--crossbar", "0x4"], 2, "crossbar is rows x columns"),
        (["--crossbar", "8x8"], 5, "crossbar is for targets with one scale an array"),
        (["--rows", "kernel"], 5, "rows is for targets with one scale an array"),
        (["--target", "crossbar", "--crossbar", "8x8", "--weights", "int9"], 6, "has no int9"),
        (["--target", "crossbar", "--crossbar", "8x8", "--per-channel"], 6, "an array, not a"),
        (["--target", "crossbar", "--crossbar", "8x8", "--max-opset", "20"], 6, "need opset 21"),
    ],
)
def test_bad_flags_get_one_line(
    flags: list[str], code: int, message: str, table: Path, tmp_path: Path
) -> None:
    done = invoke("quantize", MODEL, "--calib", table, "-o", tmp_path / "q.onnx", *flags)
    assert done.exit_code == code, done.output
    assert message in " ".join(done.output.split())
    assert not list(tmp_path.iterdir())


def test_an_array_larger_than_every_layer_is_one_tile_each(table: Path, tmp_path: Path) -> None:
    output = tmp_path / "q.onnx"
    done = invoke("quantize", MODEL, "--calib", table, "-o", output, "--target", "crossbar",
                  "--crossbar", "9999x9999")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(Path(f"{output}.json").read_text())
    assert all(layer["arrays"] == 1 for layer in found["layers"])
    assert found["utilisation"] < 0.01
    assert "the emptiest" in done.output


def test_the_plan_says_tiles(tmp_path: Path) -> None:
    report = tmp_path / "plan.json"
    done = invoke("inspect", MODEL, "--plan", "--target", "crossbar", "--crossbar", "64x16",
                  "--activations", "float", "--json", report)  # fmt: skip
    assert done.exit_code == 0, done.output
    tensors = json.loads(report.read_text())["tensors"]
    assert {tensor["granularity"] for tensor in tensors} == {"tile 64x16"}
    done = invoke("inspect", MODEL, "--plan", "--target", "crossbar")
    assert done.exit_code == 5


def test_calibration_needs_no_size(tmp_path: Path) -> None:
    done = invoke("calibrate", MODEL, "--data", DATA, "--samples", 8, "--target", "crossbar",
                  "-o", tmp_path / "t.calib")  # fmt: skip
    assert done.exit_code == 0, done.output


def test_scales_by_the_output_bring_it_nearer(table: Path, tmp_path: Path) -> None:
    found = []
    for scales in ("range", "cosine"):
        output = tmp_path / f"{scales}.onnx"
        done = invoke("quantize", MODEL, "--calib", table, "-o", output, "--target", "crossbar",
                      "--crossbar", "64x32", "--weights", "int4", "--activations", "float",
                      "--tile-scales", scales)  # fmt: skip
        assert done.exit_code == 0, done.output
        report = tmp_path / "c.json"
        done = invoke("compare", MODEL, output, "--data", MODEL.with_name("eval.npz"),
                      "--samples", 128, "--json", report)  # fmt: skip
        assert done.exit_code == 0, done.output
        (near,) = json.loads(report.read_text())["outputs"].values()
        found.append(near["cosine"])
    assert found[1] > found[0] + 0.01


def test_scales_by_the_output_need_samples(tmp_path: Path) -> None:
    table = tmp_path / "t.calib"
    invoke("calibrate", MODEL, "--data", DATA, "--samples", 8, "--keep-samples", 0, "-o", table)
    done = invoke("quantize", MODEL, "--calib", table, "-o", tmp_path / "q.onnx", "--target",
                  "crossbar", "--crossbar", "8x8", "--tile-scales", "cosine")  # fmt: skip
    assert done.exit_code == 4
    assert "calibrate with --keep-samples" in " ".join(done.output.split())
