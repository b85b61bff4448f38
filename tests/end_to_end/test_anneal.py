"""``onnxq anneal`` as a user runs it: better orders, interrupted, and on bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import onnxq
from onnxq import table_file
from onnxq.cli.app import app
from onnxq.errors import CalibrationError, Interrupted, UsageError
from onnxq.metrics import metric
from onnxq.search.anneal import Annealed, anneal, order_path
from onnxq.search.arrangement import Arrangement
from onnxq.search.cooling import AnnealProgress, Cooling, threshold_of
from onnxq.search.samples import parts

MODEL = Path("sample_models/fashion_resnet/model.onnx").resolve()
EVAL = MODEL.with_name("eval.npz")
TILES = ("--target", "crossbar", "--crossbar", "24x16", "--weights", "int4")
FLOATS = ("--activations", "float")


def recipe(mode: str = "joint", activations: str = "float", **more: Any) -> onnxq.Recipe:
    return onnxq.Recipe(
        target="crossbar",
        crossbar="24x16",
        weights=onnxq.TensorRule(dtype="int4"),
        activations=onnxq.TensorRule(dtype=activations),
        reorder_mode=mode,
        **{"reorder": "sort", **more},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("anneal")
    with np.load(EVAL) as data:
        np.savez(folder / "data.npz", **{name: data[name][:60] for name in data.files})
    source = onnxq.Source(data=str(folder / "data.npz"), cut=onnxq.Cut(batch_size=16))
    table_file.save(onnxq.calibrate(MODEL, source), folder / "m.calib")
    return folder


def by_library(
    folder: Path, output: str, cooling: Cooling, asked: onnxq.Recipe | None = None, **more: Any
) -> Annealed:
    table = table_file.load(folder / "m.calib")
    source = onnxq.Source(data=str(folder / "data.npz"), cut=onnxq.Cut(batch_size=16))
    data = parts(source, None)
    return anneal(MODEL, table, asked or recipe(), data, folder / output, cooling=cooling, **more)


def run(folder: Path, *arguments: str, output: str = "a.onnx") -> Result:
    command = ["anneal", str(MODEL), "--data", str(folder / "data.npz"), *arguments]
    return CliRunner().invoke(app, [*command, "-o", str(folder / output)])


def test_an_annealed_order_is_better_and_makes_the_file_again(folder: Path) -> None:
    calib = ("--calib", str(folder / "m.calib"), *TILES, *FLOATS)
    found = folder / "a.json"
    done = run(folder, *calib, "--reorder", "sort", "--swaps", "60", "--json", str(found))
    assert done.exit_code == 0, done.output
    told = json.loads(found.read_text())
    assert told["improved"]
    assert told["scores"]["best"] > told["scores"]["start"]
    assert told["annealed_on"]["gain"]["difference"] > 0
    assert told["annealed_on"]["samples"] + told["not_annealed_on"]["samples"] == 60
    order = order_path(folder / "a.onnx")
    again = folder / "again.onnx"
    command = ["quantize", str(MODEL), *calib, "--reorder", str(order), "-o", str(again)]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert again.read_bytes() == (folder / "a.onnx").read_bytes()
    assert not (folder / "a.onnx.checkpoint").exists()


@pytest.mark.parametrize("mode", ["joint", "independent"])
@pytest.mark.parametrize("activations", ["float", "uint8"])
def test_scores_are_those_of_the_file(folder: Path, mode: str, activations: str) -> None:
    asked = recipe(mode, activations)
    result = by_library(folder, "s.onnx", Cooling(swaps=25, drop=False, seed=3), asked)
    assert result.accepted > 0
    assert result.scores[0] == pytest.approx(result.kept.before.after, abs=2e-4)
    assert result.scores[1] == pytest.approx(result.kept.after.after, abs=2e-4)
    source = onnxq.Source(data=str(folder / "data.npz"), cut=onnxq.Cut(batch_size=16))
    held = parts(source, None)[1]
    found = onnxq.compare(MODEL, result.quantized.path, held, metric=metric("cosine"))
    assert found.comparison.metric is not None
    assert found.comparison.metric.paired.after == pytest.approx(result.held.after.after, abs=1e-9)


def test_blocks_on_an_ordinary_target(folder: Path) -> None:
    rules = onnxq.TensorRule(dtype="int4", granularity="block:24")
    asked = onnxq.Recipe(
        target="cpu", weights=rules, activations=onnxq.TensorRule(dtype="float"), reorder="sort"
    )
    result = by_library(folder, "b.onnx", Cooling(swaps=30), asked)
    assert result.improved
    assert result.kept.after.after > result.kept.before.after


def test_without_warmth_only_better_orders_are_taken(folder: Path) -> None:
    scores: list[float] = []
    cooling = Cooling(swaps=40, temperature=0.0)
    result = by_library(folder, "w.onnx", cooling, report=lambda p: scores.append(p.score))
    assert scores == sorted(scores)
    assert result.accepted == len({*scores} - {result.scores[0]})


def test_the_published_rule_ends_at_the_first_rejection(folder: Path) -> None:
    cooling = Cooling(swaps=200, temperature=1e-6, threshold=0.5, drop=False)
    result = by_library(folder, "p.onnx", cooling)
    assert result.swaps == result.accepted + 1 < 200


def test_an_interrupted_run_ends_where_one_left_alone_does(folder: Path) -> None:
    def cooling(name: str, **more: Any) -> Cooling:
        return Cooling(swaps=50, restarts=1, checkpoint=folder / name, **more)

    alone = by_library(folder, "alone.onnx", cooling("alone.checkpoint"))

    def stop(progress: AnnealProgress) -> None:
        if progress.done == 33:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        by_library(folder, "kill.onnx", cooling("k.checkpoint"), report=stop)
    assert not (folder / "kill.onnx").exists()
    assert not order_path(folder / "kill.onnx").exists()
    seen: list[int] = []
    again = by_library(
        folder,
        "kill.onnx",
        cooling("k.checkpoint", resume=True),
        report=lambda p: seen.append(p.done),
    )
    assert seen[0] == 21
    assert again.scores == alone.scores
    assert (again.swaps, again.accepted) == (alone.swaps, alone.accepted)
    orders = [order_path(folder / name).read_bytes() for name in ("alone.onnx", "kill.onnx")]
    assert orders[0] == orders[1]


def test_a_checkpoint_of_another_search_is_refused(folder: Path) -> None:
    checkpoint = folder / "other.checkpoint"

    def stop(progress: AnnealProgress) -> None:
        if progress.done == 25:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        by_library(folder, "o.onnx", Cooling(checkpoint=checkpoint), report=stop)
    with pytest.raises(CalibrationError, match="of another model"):
        by_library(folder, "o.onnx", Cooling(checkpoint=checkpoint, resume=True, seed=1))


def test_a_restart_goes_back_to_the_best_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cooling = Cooling(swaps=40, restarts=1, temperature=100.0, drop=False)
    place, back = Arrangement.place, []

    def placed(self: Arrangement, orders: Any) -> Any:
        found = place(self, orders)
        back.append(all(map(np.array_equal, self.orders, orders)))
        return found

    monkeypatch.setattr(Arrangement, "place", placed)
    by_library(folder, "r.onnx", cooling)
    assert [n for n in range(40) if cooling.restarts_at(n)] == [20]
    assert back == [True]


def test_time_is_a_limit(folder: Path) -> None:
    assert by_library(folder, "t.onnx", Cooling(seconds=0.0)).swaps == 0


def test_temperatures_fall_and_rise_again() -> None:
    cooling = Cooling(swaps=100, restarts=1)
    falling = [cooling.at(number, 2.0) for number in range(100)]
    assert falling[0] == falling[50] == 2.0
    assert falling[49] == pytest.approx(2.0 * 0.01**0.98)
    assert falling[:50] == sorted(falling[:50], reverse=True)


def test_rules_of_acceptance_are_read() -> None:
    assert threshold_of("metropolis") is None
    assert threshold_of("threshold:0.8") == 0.8
    for wrong in ("threshold", "threshold:0", "threshold:x", "threshold:2", "always"):
        with pytest.raises(UsageError, match="write metropolis"):
            threshold_of(wrong)


@pytest.mark.parametrize(
    ("arguments", "code", "match"),
    [
        (("--target", "cpu"), 5, "no weights on tiles"),
        (("--target", "crossbar", "--crossbar", "9999x9999", *FLOATS), 3, "nothing to anneal"),
        ((*TILES, "--accept", "always"), 2, "write metropolis"),
        ((*TILES, "--metric", "segmentation"), 5, "segmentation"),
        ((*TILES, "--json", "x.onnx.order.json"), 8, "would replace"),
        ((*TILES, "--reorder", "sorted"), 5, "did you mean 'sort'"),
        ((*TILES, "--reorder", "missing.json"), 5, "missing.json"),
    ],
)
def test_bad_input(
    folder: Path,
    arguments: tuple[str, ...],
    code: int,
    match: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    done = run(folder, "--calib", "m.calib", *arguments, output="x.onnx")
    assert done.exit_code == code, done.output
    assert match in done.output
    assert "Traceback" not in done.output
    assert not (folder / "x.onnx").exists()
    assert not (folder / "x.onnx.order.json").exists()
