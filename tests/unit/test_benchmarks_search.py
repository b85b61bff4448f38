"""Searches in the benchmark: how models are compared, what is counted, what is chosen."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import search, search_front, search_speed
from benchmarks.metrics import Change
from benchmarks.search_front import RULES, Point
from benchmarks.search_subject import Measured
from onnxq.recipe import TensorRule
from onnxq.search.laboratory import Evaluation
from onnxq.search.searching import Generation, Row


def row(genes: tuple[int, ...], number: int, origin: str = "screened", **found: Any) -> Row:
    known = {"score": -1.0, "complete": True, "sqnr": 10.0, **found}
    evaluation = Evaluation(**known)
    return Row(number=number, genes=genes, code="", origin=origin, found=evaluation, seconds=0.0)


def point(name: str, bits: int, noise: float, accuracy: float, better: str = "higher") -> Point:
    task = Change(name="t", before=0.9, after=accuracy, low=0.0, high=0.0, samples=9, better=better)
    held = Measured(plain={}, task=task, losses={}, answers=None)
    found = Evaluation(bits=bits, sqnr=-10 * math.log10(noise))
    return Point(name=name, code="", found=found, held=held)


def test_a_duel_counts_the_seeds_that_are_sure_and_pools_all() -> None:
    other = np.linspace(1, 2, 50)
    better, same, worse = other - 0.5, other + np.tile([0.1, -0.1], 25), other + 0.2
    found = search.duel([(other, better), (other, same), (other, worse)])
    assert (found["better"], found["worse"], len(found["seeds"])) == (1, 1, 3)
    assert found["pooled"]["after"] - found["pooled"]["before"] == pytest.approx(-0.1)
    assert found["pooled"]["samples"] == 50


@pytest.mark.parametrize(
    ("values", "spelled"),
    [([0.5], "0.50"), ([0.5, 0.7], "0.60 (0.20)"), ([1, 1, 1], "1.00 (0.00)")],
)
def test_the_spread_is_told_where_there_are_several(values: list[float], spelled: str) -> None:
    assert search.spread(values, 2) == spelled


def test_models_may_have_a_width(capsys: pytest.CaptureFixture[str]) -> None:
    parse = search._parser().parse_args
    assert parse(["--models", "fashion_resnet:int4,minilm"]).models == [
        "fashion_resnet:int4",
        "minilm",
    ]
    assert parse(["--parts", "speed,front"]).parts == ["speed", "front"]
    with pytest.raises(SystemExit):
        parse(["--models", "nonesuch:int4"])
    assert "nonesuch" in capsys.readouterr().err


def test_gains_multiply_and_their_shares_add_up() -> None:
    found = search_speed.gains([2.0, 4.0, 4.0, 32.0])
    assert [step for step, _ in found] == [1.0, 2.0, 1.0, 8.0]
    assert [share for _, share in found] == pytest.approx([0, 0.25, 0, 0.75])
    assert search_speed.gains([2.0, 2.0]) == [(1.0, 0.0), (1.0, 0.0)]


def test_offspring_are_seen_where_there_is_nothing_else() -> None:
    everything = [row((value,), number) for number, value in enumerate((0, 1), 1)]
    generation = [Generation(number=1, evaluations=2)]
    later = [row((0,), 3)]
    known = [row(each.genes, each.number, "probe") for each in everything]
    assert search_speed.seen_share([*known, *later], generation, np.array([2]), 8) == 1.0
    wide = np.full(40, 30)
    one = [row((0,) * 40, 1, "probe"), row((1,) * 40, 2)]
    assert search_speed.seen_share(one, generation, wide, 8) < 0.2
    assert search_speed.seen_share(one, [], wide, 8) == 0.0


def test_a_front_has_no_point_that_another_one_beats() -> None:
    rows = [
        row((0,), 1, sqnr=10.0, bits=100),
        row((1,), 2, sqnr=20.0, bits=200),
        row((2,), 3, sqnr=9.0, bits=150),
        row((3,), 4, sqnr=30.0, bits=300, complete=False),
        row((4,), 5, sqnr=20.0, bits=200),
    ]
    assert [each.found.bits for each in search_front.front(rows)] == [100, 200]


def test_a_width_takes_its_range_algorithm_without_options() -> None:
    def option(bits: int, name: str, **options: float) -> Any:
        spec = SimpleNamespace(dtype=SimpleNamespace(bits=bits))
        return SimpleNamespace(
            spec=spec, rule=TensorRule(range=name, range_options=options or None)
        )

    options = (option(8, "mse"), option(4, "percentile", percentile=98.0), option(4, "mse"))
    genes = (
        SimpleNamespace(kind="weight", options=options),
        SimpleNamespace(kind="activation", options=options),
        SimpleNamespace(kind="weight", options=options[:1]),
    )
    space: Any = SimpleNamespace(genes=genes)
    assert search_front.uniform(space, 4, "mse") == (2, 0, 0)
    assert search_front.uniform(space, 4, "percentile") is None


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_only_the_last_rule_looks_at_held_out_samples(better: str) -> None:
    sign = 1 if better == "higher" else -1
    width = point("width", 100, 0.1, 0.5, better)
    points = [
        point("small", 50, 0.4, 0.5 + sign * 0.2, better),
        point("nearest", 80, 0.2, 0.5 - sign * 0.1, better),
        point("as near", 95, 0.1, 0.5 - sign * 0.1, better),
        point("best", 120, 0.05, 0.5 + sign * 0.3, better),
    ]
    chosen = [take(points, width)[0].name for take in RULES.values()]
    assert chosen == ["as near", "nearest", "small"]
    assert RULES[next(iter(RULES))](points[:2], width) == []
