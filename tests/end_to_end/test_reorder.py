"""Orders of channels from the command line."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner, Result

from onnxq import reordering, table_file
from onnxq.cli.app import app
from onnxq.feeds import Batch
from onnxq.graph.io import load, sync
from onnxq.graph.session import Runtime
from onnxq.movable import ONE_TILE
from onnxq.planning import plan_model
from onnxq.recipe import Recipe, TensorRule
from onnxq.reordering import FORMAT, reordered
from tests.end_to_end.test_crossbar import check_reader
from tests.graphs import build, session

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "sample_models" / "fashion_resnet" / "model.onnx"
MOBILE = MODEL.parents[1] / "fashion_mobilenet" / "model.onnx"
DATA, EVAL = MODEL.with_name("calib.npz"), MODEL.with_name("eval.npz")
ALONE = ["--weights", "int4", "--activations", "float"]
CROSSBAR = ["--target", "crossbar", "--crossbar", "64x64", *ALONE, "--exclude", "stem"]
BLOCKS = [*ALONE, "--weight-granularity", "block:32"]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: object) -> str:
    """Run a command that succeeds; return what it says in one line."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reorder") / "model.calib"
    done("calibrate", MODEL, "--data", DATA, "--samples", 32, "-o", path)
    return path


def compared(output: Path, *flags: object) -> tuple[float, dict[str, float]]:
    """Return the cosine of the output, and what each layer adds in dB."""
    report = output.with_suffix(".compared.json")
    done("compare", MODEL, output, "--data", EVAL, "--samples", 64, "--json", report, *flags)
    found: dict[str, Any] = json.loads(report.read_text())
    (near,) = found["outputs"].values()
    return near["cosine"], {each["name"]: each["added_db"] for each in found.get("layers", ())}


@pytest.fixture(scope="module")
def natural(table: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What crossbars of the natural order come to."""
    output = tmp_path_factory.mktemp("natural") / "q.onnx"
    done("quantize", MODEL, "--calib", table, "-o", output, *CROSSBAR)
    cosine, layers = compared(output, "--layers")
    return {"cosine": cosine, "layers": layers}


def feed() -> dict[str, np.ndarray]:
    (given,) = onnx.load(MODEL).graph.input
    with np.load(DATA) as data:
        return {given.name: data[given.name][:1]}


@pytest.mark.parametrize("mode", ["joint", "independent"])
@pytest.mark.parametrize("how", ["sort", "random:3"])
def test_on_crossbars(
    how: str, mode: str, table: Path, natural: dict[str, Any], tmp_path: Path
) -> None:
    output, report = tmp_path / "q.onnx", tmp_path / "report.json"
    run = ["quantize", MODEL, "--calib", table, *CROSSBAR, "--reorder", how,
           "--reorder-mode", mode]  # fmt: skip
    assert f"reordered by {how}: " in done(*run, "-o", output, "--json", report)
    content = json.loads(report.read_text())
    assert content["reordering"]["mode"] == mode
    assert content["reordering"]["channels"] > 400
    assert bool(content["crossbar"]["index_bits"]) == (mode == "independent")
    notes = {entry.key for entry in onnx.load(output).metadata_props}
    assert ("onnxq.channel_order" in notes) == (mode == "joint")
    cosine, layers = compared(output, "--layers")
    assert cosine > natural["cosine"] - 0.01
    assert layers.keys() == natural["layers"].keys()
    assert all(abs(layers[name] - near) < 6 for name, near in natural["layers"].items())
    if how == "sort":
        again = tmp_path / "again.onnx"
        done(*run, "-o", again)
        assert output.read_bytes() == again.read_bytes()
    else:
        check_reader(output, feed())


def test_clusters_lose_less(table: Path, natural: dict[str, Any], tmp_path: Path) -> None:
    output, report = tmp_path / "q.onnx", tmp_path / "report.json"
    done("quantize", MODEL, "--calib", table, "-o", output, *CROSSBAR, "--reorder", "cluster",
         "--json", report)  # fmt: skip
    noise = json.loads(report.read_text())["reordering"]["predicted_noise"]
    assert noise["after"] < 0.9 * noise["before"]
    assert compared(output)[0] > natural["cosine"] - 0.005


@pytest.mark.parametrize("mode", ["joint", "independent"])
@pytest.mark.parametrize("target", ["cpu", "generic"])
def test_in_blocks(target: str, mode: str, table: Path, tmp_path: Path) -> None:
    cosines = []
    for how in ("none", "sort"):
        output = tmp_path / f"{how}.onnx"
        told = done("quantize", MODEL, "--calib", table, "-o", output, "--target", target, *BLOCKS,
                    "--reorder", how, "--reorder-mode", mode)  # fmt: skip
        assert ("reordered by" in told) == (how == "sort")
        cosines.append(compared(output)[0])
    assert cosines[1] > cosines[0] - 0.002
    indices = sum(node.op_type == "Gather" for node in onnx.load(output).graph.node)
    assert bool(indices) == (mode == "independent")
    if mode == "independent":  # the order of the outputs changes no block
        assert indices <= sum(
            node.op_type in ("Conv", "Gemm") for node in onnx.load(output).graph.node
        )


@pytest.mark.parametrize("model", [MODEL, MOBILE])
def test_the_float_model_computes_the_same(model: Path, tmp_path: Path) -> None:
    table, runtime = tmp_path / "t.calib", Runtime()
    done("calibrate", model, "--data", DATA, "--samples", 16, "-o", table)
    recipe = Recipe(target="crossbar", crossbar="32x16", reorder="random:5",
                    activations=TensorRule(dtype="float"))  # fmt: skip
    loaded = table_file.load(table)
    prepared, plan, _, _ = plan_model(model, recipe, loaded, None)
    samples = [
        Batch(inputs=each, labels={}, samples=1, splittable=False)
        for each in loaded.kept.feeds.values()
    ]
    _, found = reordered(prepared, plan, samples, runtime)
    assert found.moved
    assert not found.refused
    moving = [order for order in found.moved if (np.diff(order) != 1).any()]
    assert sum(map(len, moving)) == found.channels
    with np.load(EVAL) as data:
        images = data[next(iter(feed()))][:32].astype(np.float32)
    pair = [session(each).run(None, {next(iter(feed())): images})[0]
            for each in (onnx.load(model), sync(prepared))]  # fmt: skip
    np.testing.assert_allclose(pair[0], pair[1], rtol=1e-4, atol=1e-5 * np.abs(pair[0]).max())


def test_layers_against_another_order_would_be_far(table: Path, tmp_path: Path) -> None:
    output, lost = tmp_path / "q.onnx", tmp_path / "lost.onnx"
    done("quantize", MODEL, "--calib", table, "-o", output, *CROSSBAR, "--reorder", "random:1")
    proto = onnx.load(output)
    kept = [entry for entry in proto.metadata_props if entry.key != "onnxq.channel_order"]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    onnx.save(proto, lost)
    near, far = (compared(each, "--layers")[1] for each in (output, lost))
    assert min(near.values()) > 5
    assert min(float(each) for each in far.values()) < 1


def test_another_model_cannot_follow(table: Path, tmp_path: Path) -> None:
    output = tmp_path / "q.onnx"
    done("quantize", MODEL, "--calib", table, "-o", output, *CROSSBAR, "--reorder", "random:1")
    told = invoke("compare", MOBILE, output, "--data", EVAL, "--samples", 8, "--layers")
    assert told.exit_code == 3, told.output
    assert "records an order of other channels" in " ".join(told.output.split())


@pytest.mark.parametrize("mode", ["joint", "independent"])
def test_an_order_from_a_file_is_that_order(mode: str, table: Path, tmp_path: Path) -> None:
    recipe = Recipe(target="crossbar", crossbar="64x64", reorder="random:7", reorder_mode=mode,
                    activations=TensorRule(dtype="float"))  # fmt: skip
    loaded = table_file.load(table)
    prepared, plan, _, _ = plan_model(MODEL, recipe, loaded, None)
    samples = [
        Batch(inputs=each, labels={}, samples=1, splittable=False)
        for each in loaded.kept.feeds.values()
    ]
    _, found = reordered(prepared, plan, samples, Runtime())
    order = written(tmp_path, orders=[each.tolist() for each in found.orders], mode=mode,
                    float_model_sha256=prepared.sha256)  # fmt: skip
    codes = []
    for how in (order, "random:7"):
        output = tmp_path / "q.onnx"
        done("quantize", MODEL, "--calib", table, "-o", output, "--target", "crossbar",
             "--crossbar", "64x64", *ALONE, "--reorder", how, "--reorder-mode", mode)  # fmt: skip
        with np.load(f"{output}.npz") as held:
            codes.append({name: held[name] for name in held.files})
    assert codes[0].keys() == codes[1].keys()
    for name, each in codes[0].items():
        np.testing.assert_array_equal(each, codes[1][name])


def written(folder: Path, **content: object) -> Path:
    path = folder / "order.json"
    whole = {"format": FORMAT, "float_model_sha256": "", "mode": "joint", "orders": []} | content
    path.write_text(json.dumps(whole))
    return path


# --- what cannot be done


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--reorder", "sort"], 5, "target cpu has no weights on tiles or in blocks here"),
        (["--target", "generic", "--reorder", "sort"], 5, "or --weight-granularity block:N"),
        ([*CROSSBAR, "--reorder", "srt"], 5, "did you mean 'sort'?"),
        ([*CROSSBAR, "--reorder", "random:x"], 5, "did you mean 'random'?"),
        ([*CROSSBAR, "--reorder", "missing.json"], 5, "missing.json: cannot be read: No such"),
        ([*CROSSBAR, "--reorder-mode", "joint"], 2, "says what --reorder moves: give both"),
        ([*CROSSBAR, "--reorder", "sort", "--reorder-mode", "jont"], 5, "did you mean 'joint'?"),
    ],
)
def test_bad_flags_get_one_line(
    flags: list[str], code: int, message: str, table: Path, tmp_path: Path
) -> None:
    told = invoke("quantize", MODEL, "--calib", table, "-o", tmp_path / "q.onnx", *flags)
    assert told.exit_code == code, told.output
    assert message in " ".join(told.output.split())
    assert not list(tmp_path.iterdir())
    told = invoke("inspect", MODEL, "--plan", *flags)
    assert told.exit_code == (0 if "missing.json" in flags else code), told.output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format": "onnxq order 9"}, "not an order of onnxq, or of another version"),
        ({"orders": 5}, "not an order of onnxq: "),
        ({"orders": [5]}, "not an order of onnxq"),
        ({"orders": [[0, None]]}, "not an order of onnxq"),
        ({"orders": [[0, 2]]}, "not an order of onnxq"),
        ({"orders": [[0.5, 1.2]]}, "not an order of onnxq"),
        ({"orders": [[0, 10**30]]}, "not an order of onnxq"),
        ({"orders": [[1, 0]]}, "the order is for another plan: other layers, arrays or blocks"),
        ({"float_model_sha256": "0"}, "the order is for another model"),
        ({"mode": "independent"}, "the order needs --reorder-mode independent"),
    ],
)
def test_bad_files_get_one_line(
    content: dict[str, Any], message: str, table: Path, tmp_path: Path
) -> None:
    order = written(tmp_path, **{"float_model_sha256": load(MODEL).sha256, **content})
    output = tmp_path / "q.onnx"
    told = invoke("quantize", MODEL, "--calib", table, "-o", output, *CROSSBAR, "--reorder", order)
    assert told.exit_code == 5, told.output
    assert message in " ".join(told.output.split())
    assert not output.exists()


@pytest.mark.parametrize("text", ["", "[]", "nonsense", "{}", '{"orders": []}', "\xff"])
def test_files_that_are_no_orders(text: str, table: Path, tmp_path: Path) -> None:
    order = tmp_path / "order.json"
    order.write_text(text, encoding="latin-1")
    told = invoke("quantize", MODEL, "--calib", table, "-o", tmp_path / "q.onnx", *CROSSBAR,
                  "--reorder", order)  # fmt: skip
    assert told.exit_code == 5, told.output
    assert "not an order of onnxq" in " ".join(told.output.split())


def test_an_order_is_not_overwritten(table: Path, tmp_path: Path) -> None:
    order = written(tmp_path)
    output = order.with_suffix("")  # its map would be order.json
    told = invoke("quantize", MODEL, "--calib", table, "-o", output, *CROSSBAR, "--reorder", order)
    assert told.exit_code == 8, told.output
    assert "would replace the input" in " ".join(told.output.split())
    assert json.loads(order.read_text())["format"] == FORMAT


def test_orders_need_samples(tmp_path: Path) -> None:
    table = tmp_path / "t.calib"
    done("calibrate", MODEL, "--data", DATA, "--samples", 8, "--keep-samples", 0, "-o", table)
    told = invoke("quantize", MODEL, "--calib", table, "-o", tmp_path / "q.onnx", *CROSSBAR,
                  "--reorder", "sort")  # fmt: skip
    assert told.exit_code == 4
    assert "reorder needs samples" in " ".join(told.output.split())


def test_scales_a_channel_stay_where_they_are(tmp_path: Path) -> None:
    table = tmp_path / "t.calib"
    channels = ["--target", "generic", "--activation-granularity", "channel"]
    done("calibrate", MODEL, "--data", DATA, "--samples", 8, *channels[2:], "-o", table)
    run = ["quantize", MODEL, "--calib", table, "-o", tmp_path / "q.onnx", *channels,
           "--weight-granularity", "block:32", "--reorder", "sort"]  # fmt: skip
    told = invoke(*run)
    assert told.exit_code == 5, told.output
    assert "has one scale a channel" in " ".join(told.output.split())
    assert "reordered by sort" in done(*run, "--reorder-mode", "independent")


# --- what changes nothing


@pytest.mark.parametrize("mode", ["joint", "independent"])
def test_tiles_larger_than_every_layer(mode: str, table: Path, tmp_path: Path) -> None:
    models = []
    for how in ("none", "sort"):
        output = tmp_path / f"{how}.onnx"
        told = done("quantize", MODEL, "--calib", table, "-o", output, "--target", "crossbar",
                    "--crossbar", "9999x9999", *ALONE, "--reorder", how,
                    "--reorder-mode", mode)  # fmt: skip
        models.append(without_recipe(output))
    assert f"reordered by sort: nothing can change places: {ONE_TILE}" in told
    assert models[0] == models[1]


def without_recipe(path: Path) -> bytes:
    """Return a model without how it was asked for."""
    proto = onnx.load(path)
    (recipe,) = (entry for entry in proto.metadata_props if entry.key == "onnxq.recipe")
    recipe.value = re.sub(r'"reorder": "[a-z0-9:]*"', "", recipe.value)
    return proto.SerializeToString(deterministic=True)


def test_where_everything_stays_the_reason_is_told(tmp_path: Path) -> None:
    text = "net (float[2, 64, 4, 4] x) => (float[2, 64, 4, 4] y) { y = Conv(x, w) }"
    model, report = tmp_path / "m.onnx", tmp_path / "report.json"
    onnx.save(build(text, {"w": (64, 64, 1, 1)}), model)
    models = []
    for how in ("none", "cluster"):
        output = tmp_path / f"{how}.onnx"
        told = done("quantize", model, "--data", "random", "-o", output, "--target", "crossbar",
                    "--crossbar", "16x16", *ALONE, "--reorder", how, "--json", report)  # fmt: skip
        models.append(without_recipe(output))
    assert "reordered by cluster: nothing can change places: model output 'y'" in told
    assert models[0] == models[1]
    assert json.loads(report.read_text())["reordering"]["nothing"] == "model output 'y'"
    told = done("inspect", model, "--plan", "--target", "crossbar", "--crossbar", "16x16",
                "--reorder", "sort")  # fmt: skip
    assert "nothing can change places: model output 'y'" in told


def test_channels_go_back_if_the_model_then_computes_something_else(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reordering, "SAME", 1000.0)
    models, report = [], tmp_path / "report.json"
    for how in ("none", "random:1"):
        output = tmp_path / f"{how[:4]}.onnx"
        told = done("quantize", MODEL, "--calib", table, "-o", output, *CROSSBAR, "--reorder", how,
                    "--json", report)  # fmt: skip
        models.append(without_recipe(output))
    assert "warning: the channels keep their order: output 'logits' changed (SQNR 1" in told
    assert models[0] == models[1]
    found = json.loads(report.read_text())["reordering"]
    assert "'logits' changed" in found["refused"]
    assert found["predicted_noise"]["before"] == found["predicted_noise"]["after"]


# --- what inspect says


def test_the_plan_says_what_can_move(tmp_path: Path) -> None:
    report = tmp_path / "plan.json"
    run = ["inspect", MODEL, "--plan", "--target", "crossbar", "--crossbar", "64x64"]
    told = done(*run, "--reorder", "sort", "--json", report)
    assert "416 channels in 5 families can change places" in told
    assert "64 move (family 2) 32 move (family 1)" in told
    assert "stay: model output 'logits' 128 move (family 5)" in told
    content = json.loads(report.read_text())["reordering"]
    assert sum(content["families"]) == 416
    head = content["layers"][-1]
    assert head["op"] == "Gemm"
    assert head["outputs"] == {"moves": [], "idle": 0, "stays": {"model output 'logits'": 10}}
    assert head["inputs"]["moves"] == [{"family": 5, "channels": 128}]


def test_the_plan_counts_rows_and_columns(tmp_path: Path) -> None:
    report = tmp_path / "plan.json"
    run = ["inspect", MODEL, "--plan", "--target", "crossbar", "--crossbar", "64x64"]
    told = done(*run, "--reorder", "sort", "--reorder-mode", "independent", "--json", report)
    assert "rows and columns in" in told
    assert "layer on tiles" not in told
    assert json.loads(report.read_text())["reordering"]["layers"] == []
    for more in ([], ["--reorder", "none"]):
        assert "change places" not in done(*run, *more, "--json", report)
        assert "reordering" not in json.loads(report.read_text())
