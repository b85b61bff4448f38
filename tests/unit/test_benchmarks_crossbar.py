"""Orders of channels in the benchmark: what is asked for, and how the tables read."""

import argparse
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from benchmarks import crossbar
from benchmarks.crossbar import COLUMN, WHOLE, Asked, Result
from benchmarks.measure import Reference, Settings
from benchmarks.metrics import Change
from onnxq.errors import ModelError
from tests.graphs import build

ASKED = Asked(
    way="sort",
    size="8x8",
    bits=4,
    activations="float",
    layers="all",
    scales="range",
    mode="joint",
)
ENDS = ("/first/Conv", "/last/Gemm")


def parsed(*words: str) -> argparse.Namespace:
    return crossbar._parser().parse_args(words)


def result(way: str, cosine: float, after: float = 0.5, **asked: Any) -> Result:
    return Result(
        model="m",
        asked=replace(ASKED, way=way, **asked),
        cosine=cosine,
        sqnr=20.0,
        agreement=0.9,
        changes=(Change(name="top-1", before=0.9, after=after, low=-0.5, high=-0.3, samples=9),),
    )


def cells(table: str) -> list[list[str]]:
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return [lines[0], *lines[2:]]


def test_what_depends_on_no_size_or_mode_is_measured_once() -> None:
    asked = parsed("--sizes", "8x8,4x4", "--modes", "joint,independent", "--random", "1")
    found = [(each.way, each.size, each.mode) for each in crossbar.settings(asked)]
    once = ("per tensor", "per channel")
    assert [each[1:] for each in found if each[0] in once] == [("8x8", "joint")] * 2
    assert [each[1:] for each in found if each[0] == "tile"] == [("8x8", "joint"), ("4x4", "joint")]
    for way in ("sort", "cluster", "random:0"):
        assert len([each for each in found if each[0] == way]) == 4
    assert len(found) == len(set(found))


def test_tiles_in_the_order_of_the_model_come_before_what_is_compared_with_them() -> None:
    found = [each.way for each in crossbar.settings(parsed("--random", "2", "--sizes", "8x8"))]
    assert found.index("tile") < min(map(found.index, ("sort", "cluster", "random:0", "random:1")))


def test_annealing_takes_long_and_is_asked_for() -> None:
    assert "anneal" not in parsed().ways
    assert parsed("--ways", "tile,anneal").ways == ["tile", "anneal"]
    assert parsed("--ways", "none").ways == []


@pytest.mark.parametrize(
    ("flag", "word"), [("--ways", "best"), ("--sizes", "8"), ("--layers", "outer")]
)
def test_unknown_words_are_refused(
    flag: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(flag, word)
    assert word in capsys.readouterr().err


@pytest.mark.parametrize(
    ("way", "size"), [("per tensor", WHOLE), ("per channel", COLUMN), ("random:3", "8x8")]
)
def test_a_way_may_have_a_size_of_its_own(way: str, size: str) -> None:
    assert replace(ASKED, way=way).recipe(ENDS).crossbar == size


def test_inner_layers_leave_out_the_ends_and_nothing_else() -> None:
    rules = replace(ASKED, layers="inner").recipe(ENDS).rules
    assert not ASKED.recipe(ENDS).rules
    for name, out in {**dict.fromkeys(ENDS, True), "/first/Conv_1": False}.items():
        assert any(rule.matches(name, "Conv") and not rule.quantize for rule in rules) is out


def test_a_model_of_one_layer_has_one_rule() -> None:
    assert len(replace(ASKED, layers="inner").recipe(("only", "only")).rules) == 1


def test_the_overview_repeats_what_has_no_size_and_adds_means() -> None:
    found = [
        result("per tensor", 0.7),
        result("tile", 0.8),
        result("sort", 0.9),
        result("tile", 0.6, size="4x4"),
    ]
    head, large, small, mean = cells(crossbar.overview(found))
    assert head[-3:] == ["per tensor", "tile", "sort"]
    assert large[-3:] == [
        "0.7000, 0.5000 ± 0.1000",
        "0.8000, 0.5000 ± 0.1000",
        "0.9000, 0.5000 ± 0.1000",
    ]
    assert small[-3:] == ["0.7000, 0.5000 ± 0.1000", "0.6000, 0.5000 ± 0.1000", "–"]
    assert mean[-4:] == ["mean cosine", "0.7000", "0.7000", "–"]


def test_an_error_is_a_row_and_no_number() -> None:
    found = Result(model="m", asked=ASKED, error="too | far\nout")
    assert cells(crossbar.overview([found]))[1][-1] == "–"
    assert r"too \| far out" in crossbar.rows([found])


def test_random_orders_are_spread_by_size() -> None:
    found = [result(f"random:{i}", c, c) for i, c in enumerate((0.7, 0.8, 0.9))]
    found += [result("tile", 0.1), result("random:0", 0.5, 0.5, size="4x4")]
    found.append(Result(model="m", asked=replace(ASKED, way="random:9"), error="no"))
    _, large, small = cells(crossbar.spread(found))
    assert large[6:] == ["8x8", "3", *["0.7000", "0.8000", "0.9000", "0.1000"] * 2]
    assert small[6:] == ["4x4", "1", *["0.5000", "0.5000", "0.5000", "–"] * 2]
    assert not crossbar.spread([result("tile", 0.1)])


def test_each_order_is_compared_with_tiles_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossbar, "quantize", lambda *_, **__: SimpleNamespace(reordering=None))
    outputs = iter(("plain", "moved", "other"))
    score = {"changes": (), "agreement": 1.0, "sqnr": float("inf"), "cosine": 1.0}
    reference: Any = SimpleNamespace(
        run=lambda _: next(outputs),
        score=lambda _: score,
        answers=lambda found: found,
        changes=lambda before, after: (before, after),
    )
    job: Any = SimpleNamespace(
        name="m", path=Path("m"), table=None, ends=ENDS, reference=reference, swaps=0
    )
    tiles: dict[Asked, Any] = {}
    plain = crossbar.measure(job, replace(ASKED, way="tile"), tiles)
    moved = crossbar.measure(job, replace(ASKED, mode="independent"), tiles)
    other = crossbar.measure(job, replace(ASKED, size="4x4"), tiles)
    assert [each.over_tile for each in (plain, moved, other)] == [(), ("plain", "moved"), ()]


def test_what_cannot_be_quantized_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ModelError("no")

    monkeypatch.setattr(crossbar, "quantize", refuse)
    job: Any = SimpleNamespace(name="m", path=Path("m"), table=None, ends=ENDS)
    assert crossbar.measure(job, ASKED, {}).error == "no"


def test_a_reference_measures_the_same_in_batches(tmp_path: Path) -> None:
    text = "agraph (float[N, 4] x) => (float[N, 3] y) { y = MatMul(x, w) }"
    onnx.save(build(text, {"w": (4, 3)}), tmp_path / "model.onnx")
    onnx.save(build(text, {"w": (4, 3)}, seed=1), tmp_path / "other.onnx")
    rng = np.random.default_rng(0)
    x, label = rng.standard_normal((7, 4)).astype(np.float32), rng.integers(3, size=7)
    np.savez(tmp_path / "eval.npz", x=x, label=label)
    one, three = (
        Reference("m", tmp_path, Settings(batch=batch)).scored(tmp_path / "other.onnx")
        for batch in (1, 3)
    )
    assert one["changes"] == three["changes"]
    assert one["changes"][0].samples == 7
    assert three["cosine"] == pytest.approx(one["cosine"])
