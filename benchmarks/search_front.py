"""Quality against size of the weights: a search's front beside one width for all weights.

Each width has the better of two range algorithms, by the noise on the samples searched on. Against
it stand points of the front, chosen by the rules of `RULES`; only the last one looks at held-out
samples, to tell what there would be to choose.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.command import say
from benchmarks.metrics import Change
from benchmarks.ranges import _markdown
from benchmarks.search_subject import Measured, Subject, searching_of
from benchmarks.table import _metric
from onnxq import Searching
from onnxq.metrics.similarity import decibel
from onnxq.search.evolution import ranks
from onnxq.search.laboratory import Evaluation
from onnxq.search.searching import Row
from onnxq.search.space import Gene, Space
from onnxq.search.strategy import encode

WIDTHS = range(3, 9)
RANGES = ("mse", "minmax")
WANTED = 0.9  # of the bits of one width


@dataclass(frozen=True, kw_only=True)
class Point:
    """A strategy.

    Attributes:
        name: What it is called.
        code: The strategy.
        found: On the samples searched on.
        held: Its file on held-out samples.
    """

    name: str
    code: str
    found: Evaluation
    held: Measured

    @property
    def accuracy(self) -> float:
        """The task's metric, higher is better."""
        return self.held.task.after * (-1 if self.held.task.better == "lower" else 1)

    @property
    def plain(self) -> dict[str, Any]:
        """What JSON has of it."""
        own = {"name": self.name, "code": self.code, "bits": self.found.bits}
        return {**own, "noise": self.found.noise, **self.held.plain}


def _nearest(points: Sequence[Point], than: Point) -> list[Point]:
    """Return those of at most so many bits, the least noise first."""
    small = [each for each in points if each.found.bits <= WANTED * than.found.bits]
    return sorted(small, key=lambda each: each.found.noise)


# What to take of a front, the smallest point first, against one width: the first that is returned.
RULES: Mapping[str, Callable[[Sequence[Point], Point], list[Point]]] = {
    "the smallest without more noise": lambda points, than: [
        each for each in points if each.found.noise <= than.found.noise
    ],
    f"the least noise within {WANTED} × the bits": _nearest,
    "the smallest that is not worse, picked on held-out samples": lambda points, than: [
        each for each in points if each.accuracy >= than.accuracy
    ],
}


def measured(subject: Subject, asked: argparse.Namespace) -> dict[str, Any]:
    """Search for a front with each seed, and measure all of it."""
    return {"model": subject.name, "seeds": [_searched(subject, asked, s) for s in asked.seeds]}


def _searched(subject: Subject, asked: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Search for a front with one seed, and measure all of it."""
    searching = searching_of(asked, seed, objectives=("quality", "size"))
    with TemporaryDirectory() as folder:
        say(f"{subject.name}: a search of {asked.evaluations}, seed {seed}")
        found = subject.search(Path(folder) / "model.onnx", searching)
        rows = front(found.rows)
        say(f"{subject.name}: measuring {len(rows)} points of the front")
        points = [
            Point(name=f"{n}", code=row.code, found=row.found, held=held)
            for n, row in enumerate(rows, 1)
            for held in [subject.measured(row.code, Path(folder))]
        ]
        widths = _widths(subject, found.space, searching, Path(folder))
    task = points[0].held.task
    return {
        "seed": seed,
        "evaluations": len(found.rows),
        "seconds": found.seconds,
        "task": {"name": task.name, "float": task.before},
        "points": [each.plain for each in (*widths, *points)],
        "picks": [pick for width in widths for pick in _picks(subject, width, points)],
    }


def front(rows: Sequence[Row]) -> list[Row]:
    """Return what nothing dominates in noise and bits, the smallest first; equals once."""
    complete = [row for row in rows if row.found.complete]
    level = ranks(np.array([[row.found.noise, row.found.bits] for row in complete]))
    best = [row for row, on in zip(complete, level, strict=True) if on == 0]
    different = {(row.found.noise, row.found.bits): row for row in best}
    return sorted(different.values(), key=lambda row: row.found.bits)


def _widths(subject: Subject, space: Space, searching: Searching, folder: Path) -> list[Point]:
    """Return each width, with the range algorithm that has less noise."""
    laboratory, exam = subject.laboratory(searching)
    points = []
    for width in WIDTHS:
        found = {f"int{width} {name}": uniform(space, width, name) for name in RANGES}
        genes = {name: each for name, each in found.items() if each is not None}
        tried = {name: laboratory.evaluate(each, exam) for name, each in genes.items()}
        if not tried:
            continue  # the recipe or the target does not have it
        best = min(tried, key=lambda name: tried[name].noise)
        code = encode(space, genes[best])
        held = subject.measured(code, folder)
        points.append(Point(name=best, code=code, found=tried[best], held=held))
    return points


def uniform(space: Space, width: int, name: str) -> tuple[int, ...] | None:
    """Return the strategy with one width and range algorithm for all weights that may have it."""
    having = [_having(gene, width, name) for gene in space.genes]
    return tuple(each[0] if each else 0 for each in having) if any(having) else None


def _having(gene: Gene, width: int, name: str) -> list[int]:
    """Return which options of a weight are of a width and a range algorithm as it is."""
    return [
        value
        for value, option in enumerate(gene.options if gene.kind == "weight" else ())
        if option.spec is not None
        and option.spec.dtype.bits == width
        and (option.rule.range, option.rule.range_options) == (name, None)
    ]


def _picks(subject: Subject, width: Point, points: Sequence[Point]) -> list[dict[str, Any]]:
    """Return what the rules take of a front against a width."""
    chosen = {rule: take(points, width)[:1] for rule, take in RULES.items()}
    return [
        {
            "width": width.name,
            "rule": rule,
            "point": point.name,
            "bits": point.found.bits / width.found.bits,
            "bytes": point.held.plain["bytes"] / width.held.plain["bytes"],
            "change": asdict(subject.held.changes(width.held.answers, point.held.answers)[0]),
            "not worse": point.accuracy >= width.accuracy,
        }
        for rule, found in chosen.items()
        for point in found
    ]


def shown(found: Sequence[Mapping[str, Any]]) -> str:
    """Return what was found as Markdown: the choices against each width, then all points."""
    picks = [["model, seed", "width", "of the front", "point", "bits", "file"]]
    picks[0] += ["width → point [95 % of the difference]", f"bits ≤ {WANTED} ×", "not worse"]
    points = [["model, seed", "point", "weights, kB", "file, kB", "SQNR dB, searched on"]]
    points[0] += ["held out", "task"]
    for table in (picks, points):
        table.append(["---"] * len(table[0]))
    for model, each in ((one["model"], seed) for one in found for seed in one["seeds"]):
        name, task = f"{model}, {each['seed']}", each["task"]
        for pick in each["picks"]:
            cells = [pick["width"], pick["rule"], pick["point"]]
            cells += [f"{pick[key]:.3f} ×" for key in ("bits", "bytes")]
            marks = [pick["bits"] <= WANTED, pick["not worse"]]
            cells += [_metric(Change(**pick["change"])), *("yes" if m else "no" for m in marks)]
            picks.append([name, *cells])
        for point in each["points"]:
            sizes = [f"{point['bits'] / 8e3:.1f}", f"{point['bytes'] / 1e3:.1f}"]
            near = [f"{decibel(1, point['noise']):.2f}", f"{point['sqnr']:.2f}"]
            points.append([name, point["name"], *sizes, *near, f"{point['task']:.4f}"])
        points.append([name, "float", *["–"] * 4, f"{task['name']} {task['float']:.4f}"])
    return f"{_markdown(picks)}\n{_markdown(points)}"
