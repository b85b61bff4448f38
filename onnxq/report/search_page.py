"""The result of a search over quantization strategies as one HTML page that needs nothing else."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from onnxq.report.plots import INK, Axis, Series, as_float, axis, chart, escaped, placed

STYLE = """
:root{color-scheme:light;--paper:#fff;--ink:#1c1c1c;--quiet:#5f6368;--rule:#dcdee1;--wash:#f4f5f6;
--uniform:#e69f00;--global:#56b4e9;--probe:#009e73;--screened:#0072b2;--scout:#cc79a7;
--random:#8a8a8a;--chosen:#d55e00}
@media screen and (prefers-color-scheme:dark){
:root{color-scheme:dark;--paper:#15171a;--ink:#e6e7e9;--quiet:#a2a7ae;--rule:#363a40;--wash:#202327;
--uniform:#f2b632;--global:#9bdcff;--probe:#2cc295;--screened:#3f8ef0;--scout:#e3a0c8;
--random:#969696;--chosen:#ff8243}}
body{margin:0 auto;padding:1.5rem 1rem 4rem;max-width:62rem;background:var(--paper);
color:var(--ink);font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .5rem}p{margin:.4rem 0}
.quiet{color:var(--quiet)}
pre{background:var(--wash);border:1px solid var(--rule);padding:.7rem;white-space:pre-wrap;
overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.93em;
font-variant-numeric:tabular-nums}
th,td{padding:.2rem .7rem .2rem 0;text-align:right;border-bottom:1px solid var(--rule);
vertical-align:top}
th{font-weight:600;color:var(--quiet);vertical-align:bottom}
.left{text-align:left;overflow-wrap:anywhere;min-width:5rem}
tr.chosen td,tr.changed td{font-weight:700}tr.chosen td:first-child{color:var(--chosen)}
tr.kept td{color:var(--quiet)}
figure{margin:0}
@media print{body{max-width:none;padding:0;font-size:10px}.wide{overflow:visible}
th,td{padding-right:.5em}figure,tr,pre{break-inside:avoid}h2{break-after:avoid}}
"""
ORIGINS = ("uniform", "global", "probe", "screened", "scout", "random")
COSTS = {"size": "size_bits", "latency": "latency"}
SIZES = ("size_bits", "file_bytes")
UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))

Content = Mapping[str, Any]


def page(content: Content) -> str:
    """Return the page of a search: its answer, how it was found, and what it asks of each tensor.

    Args:
        content: Plain values, as JSON holds them: `model`, `target`, `metric`, `objectives`,
            `samples`, `held_samples`, `seed`, `seconds`, `space`, `evaluations`, `generations`,
            `front`, `default`, `uniform`, `gain`, `layers` and `command`. A higher score is
            better; numbers may be missing or not finite, and are left out of plots then.
    """
    sections = (_summary, _answer, _command, _progress, _costs, _front, _generations, _layers)
    return "\n".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>',
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
            f"<title>Quantization search: {escaped(content['model'])}</title>",
            f"<style>{STYLE}{INK}</style>\n</head>\n<body>",
            *(section(content) for section in sections),
            "</body>\n</html>\n",
        )
    )


def _summary(content: Content) -> str:
    """Return the title, and what was searched in how long."""
    space = content["space"]
    facts = (
        f"{content['model']} for {content['target']}",
        f"metric {content['metric']}",
        f"objectives {', '.join(content['objectives'])}",
        f"{len(content['evaluations'])} evaluations in {_time(content['seconds'])}",
        f"seed {content['seed']}",
        f"space {space['id']}: {space['genes']} genes",
    )
    power = _number(space["log10_strategies"], ".1f")
    size = "– strategies" if power == "–" else f"10<sup>{power}</sup> strategies"
    return f"<h1>Quantization search</h1>\n<p>{escaped(' · '.join(facts))}, {size}</p>"


def _answer(content: Content) -> str:
    """Return the strategy chosen beside those it must beat, and by how much it does."""
    sides = {
        "chosen": next((row for row in content["front"] if row["chosen"]), None),
        "default": content["default"],
        "best uniform": content["uniform"],
    }
    rows = []
    for name, row in sides.items():
        code = f": {row['code']}" if row else ""
        rows.append(("chosen" if name == "chosen" else "", (name + code, *_row(content, row))))
    gains = content["gain"]
    lines = [
        f"Searched on {content['samples']} samples, {content['held_samples']} held out",
        "Default is what the recipe alone gives, best uniform the best that asks all tensors alike",
    ]
    if sides["chosen"] is None:
        lines.append("Nothing was chosen")
    else:
        lines.append(f"Chosen over default: {_gain(content, gains.get('over_default'))}")
        lines.append(f"Chosen over best uniform: {_gain(content, gains.get('over_uniform'))}")
    text = "\n".join(f"<p>{escaped(line)}.</p>" for line in lines)
    return f"<h2>Answer</h2>\n{text}\n{_table(('', *_headings(content)), rows)}"


def _gain(content: Content, gain: Mapping[str, Any] | None) -> str:
    """Spell a difference with its interval, and what it says."""
    if gain is None:
        return "not compared"
    difference, half = as_float(gain["difference"]), as_float(gain["half_width"])
    if math.isnan(difference) or math.isnan(half):
        verdict = "there is no interval, so this says nothing"
    elif abs(difference) <= half:
        verdict = "no difference beyond the interval"
    else:
        verdict = "better" if difference > 0 else "worse"
    named = {content["samples"]: " searched on", content["held_samples"]: " held out"}
    which = named.get(gain["samples"], "") if len(named) == 2 else ""
    spelled = f"{_number(difference, '+.5g')} ± {_number(half)}"
    return f"{spelled} (n = {gain['samples']} samples{which}): {verdict}"


def _command(content: Content) -> str:
    """Return the command that gives the chosen model again."""
    return f"<h2>Again without a search</h2>\n<pre>{escaped(content['command'])}</pre>"


def _progress(content: Content) -> str:
    """Return the plot of all scores in the order they were found."""
    shown = [e for e in content["evaluations"] if not e["error"] and placed(e["score"])]
    shown.sort(key=lambda each: each["number"])
    parts = ["<h2>Progress</h2>", "<p>No evaluation has a score to plot.</p>"]
    if shown:
        log = _is_log(content)
        series = [*_origins(shown, log=log), *_best(shown, log=log)]
        across = axis("evaluations", [0, *(each["number"] for each in shown)], whole=True)
        up = _score_axis(content, [y for each in series for _, y in each.points])
        plot = chart("Scores of the evaluations, and the best so far", (across, up), series)
        parts[1] = f"<figure>{plot}</figure>"
    return "\n".join((*parts, _left_out(content["evaluations"])))


def _origins(shown: Sequence[Content], *, log: bool) -> Iterator[Series]:
    """Yield the evaluations by where they come from, those given up early apart."""
    groups: dict[str, list[Content]] = {origin: [] for origin in (*ORIGINS, "other")}
    for each in shown:
        groups[each["origin"] if each["origin"] in ORIGINS else "other"].append(each)
    for origin, found in groups.items():
        for kind in ("early", "complete"):
            these = [each for each in found if bool(each["complete"]) == (kind == "complete")]
            points = [(each["number"], _height(each["score"], log=log)) for each in these]
            titles = [f"{e['number']}: {e['code']}, {_number(e['score'])}" for e in these]
            label = f"{origin} ({len(found)})" if found and kind == "complete" else ""
            yield Series(f"dot {origin} {kind}", points, label, titles)
    if any(not each["complete"] for each in shown):
        yield Series("dot other early", (), "given up early")


def _best(shown: Sequence[Content], *, log: bool) -> Iterator[Series]:
    """Yield the best score so far, of the evaluations that are complete."""
    complete = [each for each in shown if each["complete"]]
    heights = [_height(each["score"], log=log) for each in complete]
    if heights:
        best = list(accumulate(heights, min if log else max))
        steps = zip((each["number"] for each in complete), best, strict=True)
        yield Series("best", [*steps, (shown[-1]["number"], best[-1])], "best", (), "steps")


def _left_out(evaluations: Sequence[Content]) -> str:
    """Say how many evaluations were given up or failed, and what failed most."""
    errors = Counter(each["error"] for each in evaluations if each["error"])
    given_up = sum(not each["complete"] and not each["error"] for each in evaluations)
    text = f"{given_up} given up early, their scores of the samples seen so far; "
    text += f"{errors.total()} failed and not shown"
    if errors:
        text += f", most often with “{errors.most_common(1)[0][0]}”"
    return f'<p class="quiet">{escaped(text)}.</p>'


def _costs(content: Content) -> str:
    """Return a plot of the scores over each cost that is an objective."""
    plots = [_cost(content, cost) for cost in COSTS if cost in content["objectives"]]
    return "\n".join(("<h2>Score and cost</h2>", *plots)) if plots else ""


def _cost(content: Content, cost: str) -> str:
    """Return a plot of the scores over a cost."""
    evaluations, front = content["evaluations"], content["front"]
    groups = {
        ("dot tried", "evaluated"): [e for e in evaluations if e["complete"] and not e["error"]],
        ("front", "front"): front,
        ("default", "default"): [content["default"]],
        ("same", "best uniform"): [content["uniform"]],
        ("chosen", "chosen"): [row for row in front if row["chosen"]],
    }
    unit, prefix = _unit(content, "size_bits") if cost == "size" else (1.0, "")
    log, key, series = _is_log(content), COSTS[cost], []
    for (kind, label), found in groups.items():
        shown = [each for each in found if each and placed(each["score"], each[key])]
        shown.sort(key=lambda each: each[key])
        points = [(each[key] / unit, _height(each["score"], log=log)) for each in shown]
        titles = [f"{each['code']}, {_number(each['score'])}" for each in shown]
        line = "straight" if kind == "front" and len(content["objectives"]) == 2 else ""
        series.append(Series(kind, points, label if points else "", titles, line))
    points = [point for each in series for point in each.points]
    if not points:
        return f"<p>Nothing has both a score and a {cost} to plot.</p>"
    name = f"size, {prefix}bit" if cost == "size" else "latency ÷ float"
    axes = axis(name, [x for x, _ in points]), _score_axis(content, [y for _, y in points])
    return f"<figure>{chart(f'Score over {cost}, and the front', axes, series)}</figure>"


def _front(content: Content) -> str:
    """Return the strategies that no other beats in all objectives."""
    rows = []
    for row in content["front"]:
        marks = [mark for mark in ("chosen", "uniform") if row[mark]]
        name = " ".join((row["code"], *(f"({mark})" for mark in marks)))
        rows.append(("chosen" if row["chosen"] else "", (name, *_row(content, row))))
    text = _table(("strategy", *_headings(content)), rows) if rows else "<p>It is empty.</p>"
    return f"<h2>Front</h2>\n{text}"


def _generations(content: Content) -> str:
    """Return what each generation ran, and how well the screening ranked it beforehand."""
    found = content["generations"]
    if not found:
        return ""
    ranked = [each for each in found if placed(each["rank_correlation"])]
    points = [(each["number"], each["rank_correlation"]) for each in ranked]
    plot = ""
    if len(points) >= 2:
        across = axis("generation", [x for x, _ in points], whole=True)
        axes = across, axis("rank correlation of screening and score", (-1.0, 1.0))
        series = Series("rank", points, "", (), "straight")
        plot = f"<figure>{chart('Rank correlation by generation', axes, [series])}</figure>"
    names = "generation", "evaluations", "screened", "rank correlation", "best", "front", "time"
    rows = [("", _generation(each)) for each in found]
    return f"<h2>Generations</h2>\n{plot}\n{_table(names, rows)}"


def _generation(row: Content) -> tuple[str, ...]:
    """Return the cells of a generation."""
    return (
        str(row["number"]),
        str(row["evaluations"]),
        str(row["screened"]),
        _number(row["rank_correlation"], ".2f"),
        _number(row["best"]),
        str(row["front"]),
        _time(row["seconds"]),
    )


def _layers(content: Content) -> str:
    """Return what is asked of each tensor, beside what the recipe alone asks."""
    rows, changed = [], 0
    for row in content["layers"]:
        differs = row["choice"] != row["default"]
        changed += differs
        name = f"● {row['name']}" if differs else row["name"]
        cells = name, row["kind"], row["reason"], row["choice"], row["default"]
        rows.append(("changed" if differs else "kept", cells))
    text = f"<p>{changed} of {len(rows)} differ from the default; they are marked ●.</p>"
    names = "name", "kind", "reason", "choice", "default"
    return f"<h2>Choices</h2>\n{text}\n{_table(names, rows, left=len(names))}"


def _headings(content: Content) -> tuple[str, ...]:
    """Return what the columns of a strategy are called."""
    pairs = ("score", "SQNR dB", "cosine")
    both = (name for pair in pairs for name in (pair, f"{pair} held out"))
    size, file = _unit(content, "size_bits")[1], _unit(content, "file_bytes")[1]
    return (*both, f"size, {size}bit", f"file, {file}B", "latency ÷ float")


def _row(content: Content, row: Content | None) -> tuple[str, ...]:
    """Return the cells of a strategy, on the samples searched on and held out."""
    if row is None:
        return ("–",) * len(_headings(content))
    forms = {"score": ".5g", "sqnr": ".2f", "cosine": ".5f"}
    both = (_number(row[h + n], form) for n, form in forms.items() for h in ("", "held_"))
    sizes = (_number(as_float(row[k]) / _unit(content, k)[0], ".4g") for k in SIZES)
    return (*both, *sizes, _number(row["latency"], ".2f"))


def _unit(content: Content, key: str) -> tuple[float, str]:
    """Return the unit that suits the largest size of all strategies compared."""
    rows = (*content["front"], content["default"], content["uniform"])
    most = max((row[key] for row in rows if row and placed(row[key])), default=0.0)
    return next((unit for unit in UNITS if most >= unit[0]), UNITS[-1])


def _table(
    headings: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], left: int = 1
) -> str:
    """Return a table.

    Args:
        headings: Of its columns.
        rows: CSS class and cells of each row.
        left: How many columns hold names.
    """
    sides = [' class="left"' if place < left else "" for place in range(len(headings))]

    def line(tag: str, cells: Sequence[str]) -> str:
        pairs = zip(sides, cells, strict=True)
        return "".join(f"<{tag}{side}>{escaped(cell)}</{tag}>" for side, cell in pairs)

    body = "\n".join(f'<tr class="{kind}">{line("td", cells)}</tr>' for kind, cells in rows)
    head = f"<thead><tr>{line('th', headings)}</tr></thead>"
    return f'<div class="wide"><table>{head}\n<tbody>{body}</tbody></table></div>'


def _is_log(content: Content) -> bool:
    """Say whether all scores are below zero: how far below is what matters then."""
    scored = [each for each in content["evaluations"] if not each["error"]]
    rows = (*scored, *content["front"], content["default"], content["uniform"])
    scores = [row["score"] for row in rows if row and placed(row["score"])]
    return bool(scores) and max(scores) < 0


def _height(score: float, *, log: bool) -> float:
    """Return where a score is plotted: as what is lost where all are below zero."""
    return -score if log else score


def _score_axis(content: Content, heights: Sequence[float]) -> Axis:
    """Return the axis of the scores."""
    log = _is_log(content)
    name = "−score (logarithmic; lower is better)" if log else "score (higher is better)"
    return axis(f"{content['metric']}: {name}", heights, log=log)


def _number(value: Any, form: str = ".5g") -> str:
    """Spell a number, a dash where there is none."""
    number = as_float(value)
    text = format(number, form).replace("inf", "∞").replace("-", "−")
    return "–" if math.isnan(number) else text


def _time(seconds: Any) -> str:
    """Spell a time."""
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if placed(seconds) and seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{_number(seconds, '.1f')} s"
