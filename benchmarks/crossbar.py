"""Bring channels onto tiles in several orders and score the task: crossbar.py --help.

Every model is quantized for target crossbar from one calibration table, on the first samples of
``calib.npz``: with one scale a layer, one a tile in the order of the model, one a tile in each
order asked for, and one an output. All are scored on ``eval.npz`` beside the float model, and each
order beside the model's own on tiles of the same size. Orders and scales are chosen on samples the
table keeps; nothing is chosen on ``eval.npz``.
"""

import argparse
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.command import HERE, _path, say
from benchmarks.fixed_point import TASKS, _among
from benchmarks.measure import Reference, Settings
from benchmarks.metrics import Change
from benchmarks.positions import _widths
from benchmarks.ranges import _markdown
from benchmarks.table import _finite, _metric, _number, environment
from onnxq import Cut, NodeRule, Recipe, Runtime, Source, TensorRule, calibrate, quantize
from onnxq.errors import OnnxqError
from onnxq.planning import plan_model
from onnxq.recipe import REORDER_MODES, TILE_SCALES, crossbar_size
from onnxq.reordering import Reordering
from onnxq.search.anneal import anneal
from onnxq.search.cooling import Cooling
from onnxq.search.samples import parts
from onnxq.table import CalibrationTable

TARGET = "crossbar"
ACTIVATIONS = ("float", "uint8")
LAYERS = ("all", "inner")  # inner: all but the first and the last with weights
WHOLE = "99999x99999"  # one scale a layer and group
COLUMN = "99999x1"  # one scale an output
BATCH = 16  # samples a run
ONE = Runtime(threads=1)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A model to quantize.

    Attributes:
        name: The model's folder.
        path: Its file.
        table: Its calibration table.
        ends: Names of the first and the last layer with weights.
        reference: Its float model and evaluation data.
        swaps: How many annealing tries.
    """

    name: str
    path: Path
    table: CalibrationTable
    ends: tuple[str, str]
    reference: Reference
    swaps: int


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One setting.

    Attributes:
        way: A key of `WAYS`, or ``random:SEED``.
        size: Of the arrays; of no meaning where the way has its own.
        bits: Width of weights.
        activations: Their type.
        layers: One of `LAYERS`.
        scales: How the scale of a tile is chosen.
        mode: What changes places.
        correct_bias: ``yes`` or ``no``, of the recipe.
    """

    way: str
    size: str
    bits: int
    activations: str
    layers: str
    scales: str
    mode: str
    correct_bias: str = "no"

    def recipe(self, ends: tuple[str, str]) -> Recipe:
        """Ask for it, in the order of the model."""
        out = [
            NodeRule(name=f"^{re.escape(name)}$", quantize=False) for name in dict.fromkeys(ends)
        ]
        return Recipe(
            target=TARGET,
            crossbar=_way(self.way).size or self.size,
            activations=TensorRule(dtype=self.activations),
            weights=TensorRule(dtype=f"int{self.bits}"),
            rules=tuple(out) if self.layers == "inner" else (),
            tile_scales=self.scales,
            correct_bias=self.correct_bias == "yes",
            reorder="none",
            reorder_mode=self.mode,
        )


@dataclass(frozen=True, kw_only=True)
class Way:
    """A column of the tables.

    Attributes:
        write: Writes the model of a recipe and returns what became of the order.
        size: Of the arrays; None: as asked for.
        moves: Whether it looks for an order.
    """

    write: Callable[[Job, Recipe, Path], Reordering | None]
    size: str | None = None
    moves: bool = True


def ordered(how: str, job: Job, recipe: Recipe, output: Path) -> Reordering | None:
    """Write the model in an order quantize knows by name."""
    asked = replace(recipe, reorder=how)
    made = quantize(job.path, job.table, asked, output, explain=False, runtime=ONE)
    return made.reordering


def annealed(job: Job, recipe: Recipe, output: Path) -> Reordering | None:
    """Write the model in the order annealing finds from ``cluster``, by the cosine to float."""
    cut = Cut(batch_size=BATCH, samples=job.table.samples)
    source = Source(data=str(job.path.with_name("calib.npz")), cut=cut)
    made = anneal(
        *(job.path, job.table, replace(recipe, reorder="cluster"), parts(source, None), output),
        cooling=Cooling(swaps=job.swaps, workers=1),
        runtime=ONE,
    )
    return made.quantized.reordering


PLAIN = partial(ordered, "none")
TILE = "tile"  # what the orders are compared with
# One more line makes one more column.
WAYS: dict[str, Way] = {
    "per tensor": Way(write=PLAIN, size=WHOLE, moves=False),
    TILE: Way(write=PLAIN, moves=False),
    "sort": Way(write=partial(ordered, "sort")),
    "cluster": Way(write=partial(ordered, "cluster")),
    "anneal": Way(write=annealed),
    "per channel": Way(write=PLAIN, size=COLUMN, moves=False),
}
DEFAULT_WAYS = [name for name in WAYS if name != "anneal"]


def _way(name: str) -> Way:
    """Return a way by its name."""
    return WAYS[name] if name in WAYS else Way(write=partial(ordered, name))


def settings(asked: argparse.Namespace) -> Iterator[Asked]:
    """Yield what to measure of a model: what does not depend on a size or a mode, once."""
    ways = [*asked.ways, *(f"random:{seed}" for seed in range(asked.random))]
    rest = (asked.correct_bias, asked.scales, asked.bits, asked.activations, asked.layers)
    for mode, correct_bias, scales, bits, activations, layers in product(asked.modes, *rest):
        for size, way in product(asked.sizes, ways):
            again = (_way(way).size and size != asked.sizes[0]) or (
                not _way(way).moves and mode != asked.modes[0]
            )
            if not again:
                yield Asked(
                    way=way,
                    size=size,
                    bits=bits,
                    activations=activations,
                    layers=layers,
                    scales=scales,
                    mode=mode,
                    correct_bias=correct_bias,
                )


@dataclass(frozen=True, kw_only=True)
class Result:
    """One model in one setting.

    Attributes:
        model: The model's folder.
        asked: The setting.
        error: Why there is nothing to show, or None.
        cosine: Mean over the samples, of the output where it is least.
        sqnr: Of the output where it is least, dB.
        agreement: Share of answers that stayed the same.
        changes: Task metrics of the float and the quantized model, the foremost first.
        over_tile: The same of the model on tiles in its own order and this one; nothing for ways
            that do not move.
        noise: Predicted noise ÷ signal, summed over the layers, before and after; None where
            nothing moves.
        seconds: Wall time of quantizing, with the check of the result.
    """

    model: str
    asked: Asked
    error: str | None = None
    cosine: float | None = None
    sqnr: float | None = None
    agreement: float | None = None
    changes: tuple[Change, ...] = ()
    over_tile: tuple[Change, ...] = ()
    noise: tuple[float, float] | None = None
    seconds: float | None = None


def measure(job: Job, asked: Asked, tiles: dict[Asked, Any]) -> Result:
    """Quantize a model in one setting and score it.

    Args:
        job: The model.
        asked: The setting.
        tiles: Answers on tiles in the order of the model, by setting; added to.
    """
    with TemporaryDirectory() as folder:
        output = Path(folder) / "model.onnx"
        begun = time.monotonic()
        try:
            moved = _way(asked.way).write(job, asked.recipe(job.ends), output)
            seconds = time.monotonic() - begun
            outputs = job.reference.run(output)
            scored = job.reference.score(outputs)
        except (OnnxqError, ValueError) as error:
            return Result(model=job.name, asked=asked, error=str(error))
    answers = job.reference.answers(outputs)
    plain = tiles.get(_on_tiles(asked))
    if asked.way == TILE:
        tiles[_on_tiles(asked)] = answers
    compared = plain is not None and _way(asked.way).moves
    return Result(
        model=job.name,
        asked=asked,
        noise=None if moved is None else (moved.before, moved.after),
        over_tile=job.reference.changes(plain, answers) if compared else (),
        seconds=seconds,
        **scored,
    )


def _on_tiles(asked: Asked) -> Asked:
    """Return the setting without what does not matter in the order of the model."""
    return replace(asked, way=TILE, mode="")


def load(name: str, asked: argparse.Namespace) -> Job:
    """Calibrate a model and run it in float.

    Args:
        name: The model's folder in the cache.
        asked: The command line.
    """
    folder = asked.cache / name
    path = folder / "model.onnx"
    source = Source(
        data=str(folder / "calib.npz"), cut=Cut(batch_size=BATCH, samples=asked.samples)
    )
    table = calibrate(path, source, recipe=Recipe(target=TARGET), runtime=ONE)
    _, plan, _, _ = plan_model(path, Recipe(target=TARGET, crossbar=WHOLE), table, None)
    layers = [node.label for node in plan.nodes.values() if node.weights]
    limits = Settings(eval_limit=asked.eval_limit, batch=BATCH, threads=ONE.threads)
    return Job(
        name=name,
        path=path,
        table=table,
        ends=(layers[0], layers[-1]),
        reference=Reference(name, folder, limits),
        swaps=asked.swaps,
    )


GROUP = ("model, weights", "activations", "layers", "scales", "correct bias", "mode")
HEADINGS = [
    *("model", "bits", "activations", "layers", "scales", "correct bias", "mode", "size", "way"),
    *("cosine", "SQNR dB", "agree", "float → quantized [95 % of the difference]"),
    *("tile → this [95 %]", "predicted noise", "seconds"),
]


def rows(results: Sequence[Result]) -> str:
    """Return a Markdown table with a row a setting."""
    lines = [HEADINGS, ["---"] * len(HEADINGS)]
    for each in results:
        asked = each.asked
        own = _way(asked.way).size
        metrics = "<br>".join(map(_metric, each.changes)) or "–"
        lines.append([
            *(each.model, str(asked.bits), asked.activations, asked.layers, asked.scales),
            asked.correct_bias,
            asked.mode if _way(asked.way).moves else "–",
            *("–" if own else asked.size, asked.way),
            *(_number(each.cosine, 4), _number(each.sqnr, 1), _number(each.agreement, 3)),
            " ".join(each.error.split()).replace("|", r"\|") if each.error else metrics,
            "<br>".join(map(_metric, each.over_tile)) or "–",
            "–" if each.noise is None else f"{each.noise[0]:.3f} → {each.noise[1]:.3f}",
            _number(each.seconds, 1),
        ])  # fmt: skip
    return _markdown(lines)


def overview(results: Sequence[Result]) -> str:
    """Return a Markdown table with a row a size and a column a way, random orders left out.

    What does not depend on the size stands in every row, what does not on the mode in those of
    the first mode; at the end of sizes that were all measured, the mean cosine.
    """
    known = [each for each in results if each.asked.way in WAYS]
    ways = [way for way in WAYS if any(each.asked.way == way for each in known)]
    lines = [[*GROUP, "size", *ways]]
    lines.append(["---"] * len(lines[0]))
    for (model, bits, *group), there in _grouped(known).items():
        sizes = list(dict.fromkeys(each.asked.size for each in there))
        table = {(each.asked.size, each.asked.way): each for each in there}
        table |= {(s, e.asked.way): e for e in there for s in sizes if _way(e.asked.way).size}
        head = [f"{model}, {bits} bits", *group]
        for size in sizes:
            found = [table.get((size, way)) for way in ways]
            lines.append([*head, size, *(_cell(each) for each in found)])
        means = [_mean([table.get((size, way)) for size in sizes]) for way in ways]
        if len(sizes) > 1:
            lines.append([*head, "mean cosine", *(_number(mean, 4) for mean in means)])
    return _markdown(lines)


def _grouped(results: Sequence[Result]) -> dict[tuple[Any, ...], list[Result]]:
    """Return the results by all but size and way, in the order they came."""
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for each in results:
        asked = each.asked
        key = (asked.activations, asked.layers, asked.scales, asked.correct_bias, asked.mode)
        groups.setdefault((each.model, asked.bits, *key), []).append(each)
    return groups


def _cell(result: Result | None) -> str:
    """Spell cosine, the foremost metric and the half interval of its change."""
    if result is None or result.error or not result.changes:
        return "–"
    change = result.changes[0]
    half = (change.high - change.low) / 2
    return f"{_number(result.cosine, 4)}, {change.after:.4f} ± {half:.4f}"


def _mean(results: Sequence[Result | None]) -> float | None:
    """Return the mean cosine, if all are known."""
    cosines = [None if each is None else each.cosine for each in results]
    known = [cosine for cosine in cosines if cosine is not None]
    return float(np.mean(known)) if len(known) == len(cosines) else None


def spread(results: Sequence[Result]) -> str:
    """Return a Markdown table of how far random orders lie apart, or nothing if there are none.

    Least, mean, greatest and standard deviation over the orders.
    """
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for key, there in _grouped(results).items():
        for each in there:
            if each.asked.way.startswith("random:") and not each.error:
                groups.setdefault((*key, each.asked.size), []).append(each)
    if not groups:
        return ""
    four = ("least", "mean", "greatest", "std")
    lines = [
        [*GROUP, "size", "orders", *(f"{what}: {w}" for what in ("cosine", "metric") for w in four)]
    ]
    lines.append(["---"] * len(lines[0]))
    for (model, bits, *group), orders in groups.items():
        cosines = [result.cosine or 0.0 for result in orders]
        metrics = [result.changes[0].after for result in orders]
        cells = [*_spread(cosines), *_spread(metrics)]
        lines.append([f"{model}, {bits} bits", *group, str(len(orders)), *cells])
    return _markdown(lines)


def _spread(values: Sequence[float]) -> list[str]:
    """Spell least, mean, greatest and standard deviation."""
    off = float(np.std(values, ddof=1)) if len(values) > 1 else None
    found = (min(values), float(np.mean(values)), max(values), off)
    return [_number(each, 4) for each in found]


def tables(results: Sequence[Result]) -> str:
    """Return all tables as Markdown."""
    named = {
        "Overview": overview(results),
        "Random orders": spread(results),
        "All settings": rows(results),
    }
    return "\n".join(f"## {name}\n\n{table}" for name, table in named.items() if table)


def _write(results: Sequence[Result], told: Mapping[str, Any], folder: Path) -> None:
    """Write what there is so far."""
    plain = {"settings": told, "environment": environment()}
    content = _finite({**plain, "results": [asdict(result) for result in results]})
    (folder / "crossbar.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "crossbar.md").write_text(tables(results), encoding="utf-8")


def main() -> int:
    """Measure what was asked for and write ``crossbar.json`` and ``crossbar.md``."""
    asked = _parser().parse_args()
    logging.disable(logging.WARNING)
    out = asked.out or asked.cache
    out.mkdir(parents=True, exist_ok=True)
    told = {key: value for key, value in vars(asked).items() if key not in ("cache", "out")}
    results: list[Result] = []
    for name in asked.models:
        if not (asked.cache / name / "model.onnx").exists():
            say(f"{name}: skipped: not in the cache: run.py --fetch builds it")
            continue
        say(f"{name}: calibrating")
        job = load(name, asked)
        tiles: dict[Asked, Any] = {}
        for setting in settings(asked):
            results.append(measure(job, setting, tiles))
            say(f"{name}: {_told(results[-1])}")
            _write(results, told, out)
    print(tables(results))
    return 0 if results else 2


def _told(result: Result) -> str:
    """Spell a result for the progress."""
    return f"{', '.join(map(str, asdict(result.asked).values()))}: {result.error or _cell(result)}"


def _parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/crossbar.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--models", type=partial(_among, TASKS), default=["cifar_resnet20"], help="names, commas")
    add("--sizes", type=_sizes, default=_sizes("128x128,64x64,32x32"), help="of arrays, commas")
    add("--ways", type=_ways, default=DEFAULT_WAYS, help=f"of {', '.join(WAYS)}; or none")
    add("--activations", type=_words(ACTIVATIONS), default=["float"], help="float,uint8 (float)")
    add("--layers", type=_words(LAYERS), default=["all"], help="all,inner (all)")
    add("--scales", type=_words(TILE_SCALES), default=["range"], help="range,cosine (range)")
    add("--modes", type=_words(REORDER_MODES), default=["joint"], help="joint,independent (joint)")
    add("--correct-bias", type=_words(("no", "yes")), default=["no"], help="no,yes (no)")
    add("--random", type=int, default=0, help="so many random orders besides (0)")
    add("--bits", type=_widths, default=(4,), help="widths of weights, comma between them (4)")
    add("--swaps", type=int, default=1000, help="of anneal (1000)")
    add("--samples", type=int, default=256, help="calibration samples (256)")
    add("--eval-limit", type=int, help="evaluate on the first so many samples only")
    add("--cache", type=_path, default=HERE / ".cache", help="where the models are")
    add("--out", type=_path, help="where the tables go; default the cache")
    return parser


def _words(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Return what reads some of these words."""
    return partial(_among, dict.fromkeys(known))


def _ways(text: str) -> list[str]:
    """Read names of ways."""
    return [] if text == "none" else _among(WAYS, text)


def _sizes(text: str) -> list[str]:
    """Read sizes of arrays."""
    try:
        return [f"{r}x{c}" for r, c in map(crossbar_size, text.split(","))]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
