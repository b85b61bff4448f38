import math
import re
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.report.plots import Series, axis, chart, spelled_ticks, ticks
from onnxq.report.search_page import ORIGINS, page

SVG = "{http://www.w3.org/2000/svg}"
ODD = '<b>"x"&'


def evaluation(number: int, **changed: Any) -> dict[str, Any]:
    return {
        "number": number,
        "code": f"id-{number:04}",
        "origin": ORIGINS[number % len(ORIGINS)],
        "score": -0.5 / number if number % 3 else -2.0 / number,
        "complete": number % 4 != 0,
        "error": "",
        "sqnr": 14.2,
        "cosine": 0.98,
        "size_bits": 1_000_000 + 10_000 * number,
        "latency": None,
        "seconds": 0.5 * number,
    } | changed


def row(code: str, **changed: Any) -> dict[str, Any]:
    return {
        "code": code,
        "chosen": False,
        "uniform": False,
        "score": -0.01,
        "held_score": -0.011,
        "sqnr": 15.1,
        "held_sqnr": 15.0,
        "cosine": 0.99,
        "held_cosine": 0.989,
        "size_bits": 1_200_000,
        "file_bytes": 300_000,
        "latency": None,
    } | changed


def gain(difference: float | None, half_width: float | None) -> dict[str, Any]:
    return {"difference": difference, "half_width": half_width, "samples": 50}


def generation(number: int, **changed: Any) -> dict[str, Any]:
    return {
        "number": number,
        "evaluations": 64,
        "best": -0.01,
        "front": 7,
        "screened": 4000,
        "rank_correlation": 0.8,
        "seconds": 12.0,
    } | changed


def layer(name: str, choice: str = "int8, minmax") -> dict[str, Any]:
    return {
        "name": name,
        "kind": "weight",
        "reason": "read by /conv2",
        "choice": choice,
        "default": "int8, minmax",
    }


def content(**changed: Any) -> dict[str, Any]:
    return {
        "model": "cifar.onnx",
        "target": "cpu",
        "metric": "relative-entropy",
        "objectives": ["quality", "size"],
        "samples": 200,
        "held_samples": 50,
        "seed": 0,
        "seconds": 123.4,
        "space": {"id": "7f3a", "genes": 48, "log10_strategies": 61.2},
        "evaluations": [evaluation(number) for number in range(1, 41)],
        "generations": [generation(1, rank_correlation=None), generation(2), generation(3)],
        "front": [
            row("id-0003", size_bits=1_050_000, score=-0.2),
            row("id-0007", chosen=True),
            row("id-0030", size_bits=1_300_000, score=-0.008, uniform=True),
        ],
        "default": row("default", size_bits=1_100_000, score=-0.3),
        "uniform": row("id-0030", size_bits=1_300_000, score=-0.008, uniform=True),
        "gain": {"over_default": gain(0.004, 0.001), "over_uniform": gain(-0.0005, 0.001)},
        "layers": [layer("conv1_out", "int4, mse"), layer("conv2_out")],
        "command": "onnxq quantize cifar.onnx --strategy A7",
    } | changed


def parsed(text: str) -> ET.Element:
    return ET.fromstring(text)


def words(text: str) -> str:
    return " ".join(" ".join(parsed(text).find("body").itertext()).split())


def plots(text: str) -> dict[str, ET.Element]:
    return {svg.attrib["aria-label"]: svg for svg in parsed(text).iter(f"{SVG}svg")}


def plot(text: str, of: str) -> ET.Element:
    return next(svg for label, svg in plots(text).items() if label.startswith(of))


def drawn(svg: ET.Element, kind: str) -> list[ET.Element]:
    """The marks of a kind, without those of the legend."""
    found = (each for each in svg.iter() if kind in each.get("class", "").split())
    return [each for each in found if not {"key", "line"} & set(each.attrib["class"].split())]


def steps(svg: ET.Element) -> list[tuple[float, float]]:
    """The corners of the line of the best so far."""
    line = next(e for e in svg.iter() if e.get("class") == "line best")
    path = line.attrib["d"].replace("M", "").replace(" ", "V")
    return [tuple(map(float, corner.split("V"))) for corner in path.split("H")]


def rows_of(text: str, heading: str) -> list[list[str]]:
    """The rows of the table below a heading."""
    part = text.partition(f"<h2>{heading}</h2>")[2].partition("<table>")[2]
    table = ET.fromstring(f"<table>{part.partition('</table>')[0]}</table>")
    return [["".join(cell.itertext()) for cell in each] for each in table.iter("tr")]


def test_the_parts_come_in_the_order_a_reader_asks_for_them() -> None:
    headings = [each.text for each in parsed(page(content())).iter("h2")]
    assert headings == [
        "Answer",
        "Again without a search",
        "Progress",
        "Score and cost",
        "Front",
        "Generations",
        "Choices",
    ]


def test_each_plot_is_an_image_with_a_name() -> None:
    text = page(content())
    found = list(parsed(text).iter(f"{SVG}svg"))
    assert len(found) == 3
    assert all(svg.attrib["role"] == "img" and svg.attrib["aria-label"] for svg in found)


def test_the_page_needs_nothing_else() -> None:
    text = page(content())
    assert "http" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"<(script|link|img|iframe|object)|@import|url\(|\b(src|href)=", text)


@pytest.mark.parametrize(
    "changed",
    [
        {"model": ODD},
        {"target": ODD},
        {"metric": ODD},
        {"command": ODD},
        {"objectives": [ODD, "size"]},
        {"space": {"id": ODD, "genes": 1, "log10_strategies": 1.0}},
        {"layers": [layer(ODD)]},
        {"layers": [layer("a", ODD)]},
        {"front": [row(ODD)]},
        {"uniform": row(ODD)},
        {"evaluations": [evaluation(1, code=ODD)]},
        {"evaluations": [evaluation(1, error=ODD)]},
    ],
)
def test_what_others_named_is_text_and_no_markup(changed: dict[str, Any]) -> None:
    text = page(content(**changed))
    assert ODD in "".join(parsed(text).itertext())
    assert "<b>" not in text


def test_an_unknown_origin_is_no_markup_either() -> None:
    svg = plot(page(content(evaluations=[evaluation(1, origin=ODD)])), "Scores")
    assert len(drawn(svg, "other")) == 1


def test_what_no_document_can_hold_is_replaced() -> None:
    text = page(content(layers=[layer("a\x00b\ud800c")]))
    text.encode()
    assert "a\ufffdb\ufffdc" in "".join(parsed(text).itertext())


def test_each_evaluation_with_a_score_is_a_dot() -> None:
    odd = [
        evaluation(41, score=None),
        evaluation(42, score=math.nan),
        evaluation(43, score="-inf"),
        evaluation(44, error="it failed"),
    ]
    evaluations = [evaluation(number) for number in range(1, 41)] + odd
    svg = plot(page(content(evaluations=evaluations)), "Scores")
    assert len(drawn(svg, "dot")) == 40
    assert len(drawn(svg, "early")) == 10
    for origin in ORIGINS:
        mine = [each for each in evaluations[:40] if each["origin"] == origin]
        assert len(drawn(svg, origin)) == len(mine)
        assert f"{origin} ({len(mine)})" in " ".join(svg.itertext())


def test_only_complete_evaluations_are_beside_the_front() -> None:
    odd = [evaluation(41, size_bits=None), evaluation(42, score=math.inf)]
    evaluations = [evaluation(number) for number in range(1, 41)] + odd
    svg = plot(page(content(evaluations=evaluations)), "Score over size")
    assert len(drawn(svg, "tried")) == 30
    assert len(drawn(svg, "front")) == 3
    assert [len(drawn(svg, kind)) for kind in ("chosen", "default", "same")] == [1, 1, 1]


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_the_best_so_far_never_gets_worse(offset: float) -> None:
    evaluations = [evaluation(n, score=evaluation(n)["score"] + offset) for n in range(1, 41)]
    rows = {name: row(name, score=offset - 0.3) for name in ("default", "uniform")}
    svg = plot(page(content(evaluations=evaluations, front=[], **rows)), "Scores")
    corners = steps(svg)
    assert len(corners) == 31
    assert all(after[0] >= before[0] for before, after in pairwise(corners))
    heights = [y for _, y in corners]  # pixels count downwards: what is lost falls, a score rises
    assert heights == sorted(heights, reverse=bool(offset))
    assert len(set(heights)) > 3


def test_the_order_of_the_evaluations_is_that_of_their_numbers() -> None:
    evaluations = content()["evaluations"]
    there, back = (page(content(evaluations=each)) for each in (evaluations, evaluations[::-1]))
    assert steps(plot(there, "Scores")) == steps(plot(back, "Scores"))
    assert not drawn(plot(there, "Scores"), "best")


def test_what_was_given_up_early_is_not_the_best() -> None:
    evaluations = [evaluation(1, score=-1.0), evaluation(2, score=-0.1, complete=False)]
    corners = steps(plot(page(content(evaluations=evaluations)), "Scores"))
    assert len({y for _, y in corners}) == 1


def test_scores_below_zero_are_plotted_as_what_is_lost() -> None:
    text = page(content())
    assert "−score (logarithmic; lower is better)" in text
    svg = plot(text, "Scores")
    numbers = [each.text for each in svg.iter(f"{SVG}text") if "end" in each.get("class", "")]
    assert "0.1" in numbers


@pytest.mark.parametrize("score", [0.0, 0.9])
def test_one_score_that_is_not_below_zero_makes_the_axis_linear(score: float) -> None:
    text = page(content(evaluations=[evaluation(1), evaluation(2, score=score)]))
    assert "score (higher is better)" in text
    assert "logarithmic" not in text


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (gain(0.004, 0.001), "+0.004 ± 0.001 (n = 50 samples held out): better"),
        (gain(-0.004, 0.001), "−0.004 ± 0.001 (n = 50 samples held out): worse"),
        (gain(0.0009, 0.001), "no difference beyond the interval"),
        (gain(-0.0009, 0.001), "no difference beyond the interval"),
        (gain(0.0, 0.0), "no difference beyond the interval"),
        (gain(0.004, None), "+0.004 ± – (n = 50 samples held out): there is no interval"),
        (gain(math.nan, 0.001), "there is no interval"),
        (None, "not compared"),
    ],
)
def test_a_gain_is_called_one_only_beyond_its_interval(
    measured: dict[str, Any] | None, said: str
) -> None:
    gains = {"over_default": measured, "over_uniform": gain(1.0, 0.1)}
    text = words(page(content(gain=gains)))
    assert f"Chosen over default: {said}" in text or f": {said}" in text.split("best uniform:")[0]


def test_the_answer_shows_the_chosen_beside_both_others() -> None:
    table = rows_of(page(content()), "Answer")
    assert [each[0] for each in table[1:]] == [
        "chosen: id-0007",
        "default: default",
        "best uniform: id-0030",
    ]
    cells = dict(zip(table[0], table[1], strict=True))
    assert cells["score"] == "−0.01"
    assert cells["score held out"] == "−0.011"
    assert cells["SQNR dB held out"] == "15.00"
    assert cells["size, Mbit"] == "1.2"
    assert cells["file, kB"] == "300"
    assert cells["latency ÷ float"] == "–"


def test_without_a_uniform_strategy_there_are_dashes() -> None:
    text = page(content(uniform=None))
    assert set(rows_of(text, "Answer")[3][1:]) == {"–"}
    assert not drawn(plot(text, "Score over size"), "same")


def test_numbers_that_are_none_are_dashes_everywhere() -> None:
    names = ("score", "held_score", "sqnr", "held_sqnr", "cosine", "held_cosine", "latency")
    for nothing in (None, math.nan):
        lost = dict.fromkeys((*names, "size_bits", "file_bytes"), nothing)
        none = {name: nothing for name in names if not name.startswith("held")}
        evaluations = [evaluation(n, **none, size_bits=nothing) for n in (1, 2)]
        text = page(
            content(
                evaluations=evaluations,
                front=[row("a", chosen=True, **lost)],
                default=row("b", **lost),
                uniform=row("c", **lost),
                generations=[generation(1, best=nothing, rank_correlation=nothing)],
                seconds=nothing,
                space={"id": "7f3a", "genes": 1, "log10_strategies": nothing},
                gain={"over_default": gain(nothing, nothing), "over_uniform": None},
            )
        )
        assert not re.search(r"\b(nan|none|inf)\b", words(text), re.IGNORECASE)
        assert not plots(text)
        assert set(rows_of(text, "Front")[1][1:]) == {"–"}


def test_infinities_are_spelled_and_left_out_of_plots() -> None:
    rows = [row("a", sqnr="inf", score=-math.inf, chosen=True), row("b", sqnr=math.inf)]
    text = page(content(front=rows))
    cells = rows_of(text, "Front")
    assert [each[3] for each in cells[1:]] == ["∞", "∞"]
    assert cells[1][1] == "−∞"
    assert len(drawn(plot(text, "Score over size"), "front")) == 1
    assert not re.search("nan|inf", " ".join(plots(text)) + re.sub("<style.*?</style>", "", text))


@pytest.mark.parametrize(("others", "lines"), [(["size"], 1), (["size", "latency"], 0)])
def test_the_front_is_a_line_where_there_is_one_cost(others: list[str], lines: int) -> None:
    svg = plot(page(content(objectives=["quality", *others])), "Score over size")
    found = [
        each for each in svg.iter() if each.get("class") == "line front" and "L" in each.attrib["d"]
    ]
    assert len(found) == lines


def test_latency_is_plotted_when_it_is_an_objective() -> None:
    evaluations = [evaluation(n, latency=0.3 + 0.01 * n) for n in range(1, 9)]
    objectives = ["quality", "size", "latency"]
    text = page(content(evaluations=evaluations, objectives=objectives))
    assert len(drawn(plot(text, "Score over latency"), "tried")) == 6
    assert "Score over size, and the front" in plots(text)


def test_quality_alone_has_no_plot_of_costs() -> None:
    text = page(content(objectives=["quality"]))
    assert "Score and cost" not in text
    assert not any("Score over" in label for label in plots(text))


def test_nothing_evaluated_gives_a_page() -> None:
    text = page(
        content(
            evaluations=[],
            generations=[],
            front=[],
            uniform=None,
            layers=[],
            gain={"over_default": None, "over_uniform": None},
        )
    )
    said = words(text)
    assert "No evaluation has a score to plot" in said
    assert "Nothing was chosen" in said
    assert "It is empty" in said
    assert "0 evaluations" in said


@pytest.mark.parametrize("score", [-0.3, 0.0, 0.3, -1e-30, 1e30])
def test_a_single_evaluation_gives_a_page(score: float) -> None:
    single = {
        "evaluations": [evaluation(1, score=score)],
        "front": [row("id-0001", score=score, chosen=True)],
        "default": row("default", score=score),
        "uniform": None,
        "generations": [generation(1)],
    }
    svg = plot(page(content(**single)), "Scores")
    assert len(drawn(svg, "dot")) == 1


def test_failures_are_counted_and_the_commonest_is_told() -> None:
    failed = [evaluation(n, error="seldom" if n == 1 else "no kernel") for n in (1, 2, 3)]
    said = words(page(content(evaluations=[*failed, evaluation(4, complete=False)])))
    assert "1 given up early" in said
    assert "3 failed and not shown, most often with “no kernel”" in said


def test_what_differs_from_the_default_is_marked() -> None:
    text = page(content())
    assert "1 of 2 differ from the default" in words(text)
    assert [each[0] for each in rows_of(text, "Choices")[1:]] == ["● conv1_out", "conv2_out"]
    assert text.count('<tr class="changed">') == 1


def test_the_chosen_is_marked_in_the_front() -> None:
    names = [each[0] for each in rows_of(page(content()), "Front")[1:]]
    assert names == ["id-0003", "id-0007 (chosen)", "id-0030 (uniform)"]


def test_generations_without_a_correlation_are_left_out_of_its_plot() -> None:
    text = page(content())
    assert len(drawn(plot(text, "Rank"), "rank")) == 2
    assert [each[3] for each in rows_of(text, "Generations")[1:]] == ["–", "0.80", "0.80"]
    once = page(content(generations=[generation(1)]))
    assert not any(label.startswith("Rank") for label in plots(once))


def test_all_points_are_within_the_plot() -> None:
    svg = plot(page(content()), "Scores")
    for dot in drawn(svg, "dot"):
        assert 72 <= float(dot.attrib["cx"]) <= 592
        assert 30 <= float(dot.attrib["cy"]) <= 292


def test_better_is_further_up_where_higher_is_better() -> None:
    axes = axis("x", [0.0, 1.0]), axis("y", [0.0, 1.0])
    svg = ET.fromstring(chart("a", axes, [Series("dot", [(0.0, 0.0), (1.0, 1.0)])]))
    low, high = drawn(svg, "dot")
    assert float(high.attrib["cy"]) < float(low.attrib["cy"])
    assert float(high.attrib["cx"]) > float(low.attrib["cx"])


numbers = st.floats(-1e12, 1e12)
above_zero = st.floats(1e-12, 1e12)


def check_ticks(found: list[float], low: float, high: float) -> None:
    assert 2 <= len(found) <= 10
    assert all(before < after for before, after in pairwise(found))
    assert low <= found[0]
    assert found[-1] <= high
    assert len(set(spelled_ticks(found))) == len(found)


@given(st.lists(numbers, min_size=1, max_size=5), st.booleans())
def test_ticks_are_few_and_in_range(values: list[float], whole: bool) -> None:
    along = axis("x", values, whole=whole)
    assert along.low < min(values) <= max(values) < along.high
    check_ticks(ticks(along.low, along.high, whole=whole), along.low, along.high)


@given(st.lists(above_zero, min_size=1, max_size=5))
def test_logarithmic_ticks_are_few_and_in_range(values: list[float]) -> None:
    along = axis("x", values, log=True)
    assert 0 < along.low < min(values) <= max(values) < along.high
    check_ticks(ticks(along.low, along.high, log=True), along.low, along.high)


@given(numbers, numbers, st.booleans())
def test_ticks_of_any_two_ends_are_in_range(one: float, other: float, log: bool) -> None:
    low, high = sorted((abs(one) + 1e-12, abs(other) + 1e-12) if log else (one, other))
    if low < high:
        check_ticks(ticks(low, high, log=log), low, high)


@pytest.mark.parametrize(
    ("ends", "log", "expected"),
    [
        ((1e6, 1e6 + 0.4), False, ["1000000", "1000000.1", "1000000.2", "1000000.3", "1000000.4"]),
        ((0.0, 5e-324), False, ["0", "4.94066·10⁻³²⁴"]),
        ((-0.3, 10.2), False, ["0", "2", "4", "6", "8", "10"]),
        ((0.0, 1000.0), False, ["0", "200", "400", "600", "800", "1000"]),
        ((0.808, 0.847), False, ["0.81", "0.82", "0.83", "0.84"]),
        ((-3.1e-5, 4e-5), False, ["−2·10⁻⁵", "0", "2·10⁻⁵", "4·10⁻⁵"]),
        ((-2e-7, 5e-7), False, ["−2·10⁻⁷", "0", "2·10⁻⁷", "4·10⁻⁷"]),
        ((-2e-6, 0.0), False, ["−2·10⁻⁶", "−1.5·10⁻⁶", "−10⁻⁶", "−5·10⁻⁷", "0"]),
        ((8e-6, 2.0), True, ["10⁻⁵", "0.0001", "0.001", "0.01", "0.1", "1"]),
        ((0.04, 0.6), True, ["0.05", "0.1", "0.2", "0.5"]),
        ((0.41, 0.49), True, ["0.42", "0.44", "0.46", "0.48"]),
    ],
)
def test_ticks_are_round_numbers(ends: tuple[float, float], log: bool, expected: list[str]) -> None:
    assert spelled_ticks(ticks(*ends, log=log)) == expected


def test_counts_have_no_ticks_between_them() -> None:
    along = axis("evaluations", [0, 1], whole=True)
    assert ticks(along.low, along.high, whole=True) == [0.0, 1.0]
