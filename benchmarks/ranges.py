"""Compare the range algorithms on the models of the benchmark: ranges.py --help.

Three questions, each with a table of its own:

    tensors   SQNR of every quantized activation and weight, alone
    planted   the same where stray values were put into the calibration data
    models    SQNR, cosine and task metric of models quantized with each algorithm

Ranges come from the first samples of ``calib.npz``. Tensors are measured on the next ones, which
is also where defaults may be chosen; models on ``eval.npz``, with everything fixed before.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numba import njit

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.command import HERE, _models, _path, say
from benchmarks.fetch import MODELS
from benchmarks.measure import Reference, Settings
from onnxq import Collection, Recipe, Source, calibrate, calibration, quantize
from onnxq.collect import observer
from onnxq.errors import ModelError
from onnxq.feeds import Cut
from onnxq.graph import io
from onnxq.graph.io import Model
from onnxq.graph.session import Runtime
from onnxq.metrics.similarity import decibel
from onnxq.numerics.affine import fake_quantize, params_of
from onnxq.numerics.ends import ends
from onnxq.numerics.histogram import merge
from onnxq.numerics.observe import observe
from onnxq.plan import Plan
from onnxq.planning import plan_model
from onnxq.ranges import range_algorithm
from onnxq.recipe import TensorRule
from onnxq.table import CalibrationTable
from onnxq.types import Array, QuantParams, QuantSpec, RangeAlgorithm, TensorStats

KEEP = 4096  # values at an end, as calibrate has it
HELD = 1 << 17  # values at an end here, for large k
MOST = 100.0  # dB; a tensor without error, e.g. one of small whole numbers, counts as this
GROUPS = 8  # samples a run
OUTLIERS = "outlier-var"
RELATIVE = {"variance": "relative"}
STRAYS = {"1e-6": 1e-6, "1e-5": 1e-5}  # of the values
FAR = (20.0, 100.0)  # times the root mean square of the tensor
SEED = 20240229
PLANTED = ("fashion_resnet", "fashion_mobilenet")  # whole models with stray values
PARTS = ("tensors", "planted", "models")


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A range algorithm with options.

    Attributes:
        range: Its name.
        options: Its options.
        share: k of outlier-var as a share of the values of an end, at most what is held; None
            for its default.
    """

    range: str
    options: Mapping[str, Any]
    share: float | None = None

    def algorithm(self, stats: TensorStats) -> RangeAlgorithm:
        """Return it ready for a tensor: shares larger than what is held are cut."""
        if self.share is None:
            return range_algorithm(self.range, **self.options)
        held = stats.ends[0].largest.size
        sizes = [(e.above, e.below) for e in stats.ends]
        most = [
            max(min(round(self.share * max(side)), held), 1) for side in zip(*sizes, strict=True)
        ]
        return range_algorithm(self.range, k1=most[0], k2=most[1], **self.options)


def _contenders() -> dict[str, Contender]:
    """Return what is compared, by the name it has in the tables; min–max is the first."""
    found = {
        "minmax": Contender(range="minmax", options={}),
        "percentile 99.9": Contender(range="percentile", options={"percentile": 99.9}),
        "percentile 99.99": Contender(range="percentile", options={"percentile": 99.99}),
        "percentile 99.999": Contender(range="percentile", options={"percentile": 99.999}),
        "mse": Contender(range="mse", options={}),
        "entropy": Contender(range="entropy", options={}),
        "outlier-var": Contender(range=OUTLIERS, options={}),
    }
    for alpha in (0.3, 3.0):
        options = {"alpha": alpha, "beta": alpha}
        found[f"outlier-var, α {alpha:g}"] = Contender(range=OUTLIERS, options=options)
    for share in (0.0001, 0.01):
        found[f"outlier-var, k {share:.2%}"] = Contender(range=OUTLIERS, options={}, share=share)
    found["relative"] = Contender(range=OUTLIERS, options=RELATIVE)
    for alpha in (0.3, 3.0):
        options = {**RELATIVE, "alpha": alpha, "beta": alpha}
        found[f"relative, α {alpha:g}"] = Contender(range=OUTLIERS, options=options)
    for share in (0.0001, 0.01):
        found[f"relative, k {share:.2%}"] = Contender(range=OUTLIERS, options=RELATIVE, share=share)
    found["raw"] = Contender(range=OUTLIERS, options={"variance": "raw"})
    found["relative, extremes all"] = Contender(
        range=OUTLIERS, options={**RELATIVE, "extremes": "all"}
    )
    return found


CONTENDERS = _contenders()
MODEL_LEVEL = (
    "minmax",
    "percentile 99.9",
    "percentile 99.99",
    "mse",
    "entropy",
    "outlier-var",
    "relative",
)

WEIGHT_LEVEL = (
    "minmax",
    "percentile 99.9",
    "percentile 99.99",
    "mse",
    "outlier-var",
    "outlier-var, k 1.00%",
    "relative",
    "relative, k 1.00%",
    "raw",
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A model with its calibration.

    Attributes:
        name: The model's folder.
        path: Its file.
        table: What calibration saw, many values held at the ends.
        held_out: Samples of ``calib.npz`` that calibration did not see, by input.
    """

    name: str
    path: Path
    table: CalibrationTable
    held_out: dict[str, Array]


def load(name: str, cache: Path, samples: int, recipe: Recipe | None = None) -> Setting:
    """Calibrate a model on its first samples and set the next ones aside.

    Args:
        name: The model's folder in the cache.
        cache: Where it lies.
        samples: How many samples to calibrate on; at most 100 more are held out.
        recipe: What the table is for; None for onnxq's defaults.
    """
    path, data = cache / name / "model.onnx", cache / name / "calib.npz"
    collection = Collection(keep_extremes=HELD)
    source = Source(data=str(data), cut=Cut(batch_size=GROUPS, samples=samples))
    table = calibrate(path, source, recipe=recipe or Recipe(), collection=collection)
    with np.load(data) as file:
        rest = {k: file[k][samples : samples + 100] for k in file.files}
    inputs = {k: array for k, array in rest.items() if not k.startswith("label")}
    return Setting(name=name, path=path, table=table, held_out=inputs)


def _usual(stats: TensorStats) -> TensorStats:
    """Return statistics with the ends as calibrate keeps them by default."""
    held = [
        replace(each, keep=KEEP, largest=each.largest[:KEEP], smallest=each.smallest[:KEEP])
        for each in stats.ends
    ]
    return replace(stats, ends=tuple(held))


def activations(
    setting: Setting, alter: Callable[[TensorStats], TensorStats] = lambda stats: stats
) -> dict[str, dict[str, float]]:
    """Measure every activation the cpu target quantizes, on samples calibration did not see.

    Args:
        setting: The model.
        alter: Changes what calibration saw.

    Returns:
        Tensor to contender to SQNR, dB.
    """
    prepared, plan, _, _ = plan_model(setting.path, Recipe(), setting.table, None)
    seen = calibration.statistics(setting.table, prepared, plan)
    chosen, sources = {}, {}
    for name, activation in plan.activations.items():
        if activation.shares == name:
            there = [each for each in activation.sources if each in setting.table.tensors]
            sources[name] = there[0]
            chosen[name] = _params(alter(seen[name]), activation.spec)
    signal = dict.fromkeys(chosen, 0.0)
    noise = {name: np.zeros(len(CONTENDERS)) for name in chosen}
    for values in _runs(prepared, list(dict.fromkeys(sources.values())), setting.held_out):
        for name, source in sources.items():
            array = np.ascontiguousarray(values[source], np.float32).reshape(-1)
            signal[name] += float(np.square(array, dtype=np.float64).sum())
            noise[name] += _noise(array, chosen[name])
    return {name: _row(signal[name], noise[name]) for name in chosen}


def _params(stats: TensorStats, spec: QuantSpec) -> list[QuantParams]:
    """Let every contender choose."""
    usual = _usual(stats)
    found = []
    for contender in CONTENDERS.values():
        known = stats if contender.share else usual
        algorithm = contender.algorithm(known)
        limits = algorithm(known, replace(spec, range=algorithm)).within(*spec.bounds)
        found.append(params_of(limits, spec))
    return found


def _runs(model: Model, names: list[str], data: dict[str, Array]) -> Iterator[dict[str, Array]]:
    """Run the float model and yield the tensors of each run by name."""
    session = observer(model, names, Runtime())
    count, size = len(next(iter(data.values()))), GROUPS
    start = 0
    while start < count:
        feed = {name: array[start : start + size] for name, array in data.items()}
        try:
            outputs = session.run(feed)
        except ModelError:
            if size == 1:
                raise
            size = 1  # the batch size is fixed
            continue
        yield {**feed, **dict(zip(session.outputs, outputs, strict=True))}
        start += size


def _noise(values: Array, params: Sequence[QuantParams]) -> Array:
    """Return the summed squared error of a tensor for each of many parameters."""
    scales = np.array([each.scale.item() for each in params], np.float32)
    least = [each.dtype.qmin - each.zero_point.item() for each in params]
    most = [each.dtype.qmax - each.zero_point.item() for each in params]
    total: Array = _squares(values, scales, np.array(least, np.float32), np.array(most, np.float32))
    return total


@njit(cache=True, nogil=True)
def _squares(values: Array, scales: Array, least: Array, most: Array) -> Array:
    """Sum the squares of what quantizing changes."""
    sums = np.zeros(scales.size)
    for value in values:
        for i in range(scales.size):
            code = min(max(np.rint(value / scales[i]), least[i]), most[i])
            error = np.float64(code * scales[i]) - np.float64(value)
            sums[i] += error * error
    return sums


def _row(signal: float, noise: Array) -> dict[str, float]:
    """Return SQNR by contender."""
    ratios = [min(decibel(signal, float(each)), MOST) for each in noise]
    return dict(zip(CONTENDERS, ratios, strict=True))


def weights(setting: Setting, granularity: str) -> dict[str, dict[str, float]]:
    """Measure every weight the cpu target quantizes, all of whose values are known.

    Args:
        setting: The model.
        granularity: ``tensor`` or ``channel``.

    Returns:
        Tensor to contender, of `WEIGHT_LEVEL`, to SQNR, dB.
    """
    recipe = Recipe(weights=TensorRule(granularity=granularity))
    prepared, plan, _, _ = plan_model(setting.path, recipe, setting.table, None)
    return dict(_weights(prepared, plan))


def _weights(model: Model, plan: Plan) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the weights that are not all zero."""
    constants = model.graph.tensors()
    for node in plan.nodes.values():
        for weight in node.weights:
            values, spec = io.array_of(constants[weight.name]), weight.spec
            signal = float(np.square(values, dtype=np.float64).sum())
            if not signal:
                continue
            stats = replace(observe(values, spec.tile), ends=ends(values, spec.tile))
            ratios = {}
            for name in WEIGHT_LEVEL:
                algorithm = _of_all(CONTENDERS[name])
                limits = algorithm(stats, replace(spec, range=algorithm))
                found = fake_quantize(values, params_of(limits, spec)).astype(np.float64)
                ratios[name] = min(decibel(signal, float(np.square(found - values).sum())), MOST)
            yield weight.name, ratios


def _of_all(contender: Contender) -> RangeAlgorithm:
    """Return an algorithm for tensors all of whose values are held."""
    share = {} if contender.share is None else {"k1": contender.share, "k2": contender.share}
    return range_algorithm(contender.range, **contender.options, **share)


def plant(share: float) -> Callable[[TensorStats], TensorStats]:
    """Return what adds stray values to statistics, as a glitch of calibration data would.

    Args:
        share: How many, as a share of the values; at least one. They are drawn evenly from
            `FAR` times the root mean square, of either sign where the tensor has both.
    """

    def alter(stats: TensorStats) -> TensorStats:
        rng = np.random.default_rng(SEED)
        values, counts = stats.histograms[0].points()
        size = max(round(share * stats.count.item()), 1)
        far = rng.uniform(*FAR, size) * np.sqrt((counts * values**2).sum() / counts.sum())
        signs = rng.choice([-1, 1], size) if stats.lo.item() < 0 else 1
        strays = (far * signs).astype(np.float32)
        keep = stats.ends[0].keep
        return merge(stats, replace(observe(strays), ends=ends(strays, (), keep)))

    return alter


def models(
    setting: Setting,
    cache: Path,
    limit: int,
    alter: Callable[[TensorStats], TensorStats] = lambda stats: stats,
) -> list[dict[str, Any]]:
    """Quantize a model with each contender and measure it on its evaluation data.

    Args:
        setting: The model.
        cache: Where its ``eval.npz`` lies.
        limit: How many samples to use.
        alter: Changes what calibration saw.

    Returns:
        One row a contender, for activations, and for weights in addition.
    """
    reference = Reference(setting.name, cache / setting.name, Settings(eval_limit=limit, seconds=0))
    table, rows = _altered(setting.table, lambda stats: alter(_usual(stats))), []
    with TemporaryDirectory() as folder:
        for label, recipe in _recipes():
            say(f"{setting.name}: {label}")
            path = Path(folder) / "model.onnx"
            quantize(setting.path, table, recipe, path)
            scored = reference.scored(path)
            scored["changes"] = [asdict(change) for change in scored["changes"]]
            rows.append({"model": setting.name, "ranges": label, **scored})
    return rows


def _altered(
    table: CalibrationTable, alter: Callable[[TensorStats], TensorStats]
) -> CalibrationTable:
    """Return a table with the statistics of every tensor changed."""
    groups = [
        replace(group, tensors={name: alter(stats) for name, stats in group.tensors.items()})
        for group in table.groups
    ]
    return replace(table, groups=tuple(groups))


def _recipes() -> Iterator[tuple[str, Recipe]]:
    """Yield what is asked of whole models, with a name."""
    for name in MODEL_LEVEL:
        yield name, Recipe(activations=_rule(name))
    for name in ("minmax", "mse", "outlier-var"):
        rule = replace(_rule(name), granularity="tensor")
        yield f"mse, weights per tensor {name}", Recipe(weights=rule)
    for name in ("mse", "outlier-var"):
        yield (
            f"{name}, weights per channel too",
            Recipe(activations=_rule(name), weights=_rule(name)),
        )


def _rule(name: str) -> TensorRule:
    """Return what asks for a contender."""
    contender = CONTENDERS[name]
    return TensorRule(range=contender.range, range_options=dict(contender.options))


def gains(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Return a Markdown table of what contenders gain over min–max.

    Args:
        found: Model to tensor to contender to SQNR.

    Returns:
        For each model the mean over its tensors with the worst of them, then the mean over the
        models, dB.
    """
    names = list(found)
    lines = [["range", *(f"{name} ({len(found[name])})" for name in names), "mean", "worst"]]
    lines.append(["---"] * len(lines[0]))
    first = next(iter(next(iter(found.values())).values()))
    for contender in list(first)[1:]:
        gained = [
            [row[contender] - row["minmax"] for row in tensors.values()]
            for tensors in found.values()
        ]
        means, least = [np.mean(each) for each in gained], [min(each) for each in gained]
        cells = [f"{a:+.2f} ({b:+.1f})" for a, b in zip(means, least, strict=True)]
        lines.append([contender, *cells, f"{np.mean(means):+.2f}", f"{min(least):+.1f}"])
    return _markdown(lines)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as a Markdown table."""
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def scores(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the models as a Markdown table."""
    rows = [row for rows in found.values() for row in rows]
    lines = [["model", "ranges", "float → quantized [95 % of the difference]", "SQNR dB", "cosine"]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        changes = "<br>".join(
            f"{c['name']} {c['before']:.4f} → {c['after']:.4f} [{c['low']:+.4f}, {c['high']:+.4f}]"
            for c in row["changes"]
        )
        cells = [f"{row['sqnr']:.1f}", f"{row['cosine']:.4f}"]
        lines.append([row["model"], row["ranges"], changes, *cells])
    return _markdown(lines)


def main() -> int:
    """Measure what was asked for and write ``ranges.json`` and ``ranges.md``."""
    asked = _parser().parse_args()
    logging.disable(logging.WARNING)
    settings = []
    for name in asked.models:
        if (asked.cache / name / "model.onnx").exists():
            say(f"{name}: calibrating")
            settings.append(load(name, asked.cache, asked.samples))
        else:
            say(f"{name}: skipped: not in the cache: run.py --fetch builds it")
    found: dict[str, Any] = {}
    for what, measure in _measures(asked).items():
        say(what)
        found[what] = {}
        for setting in settings:
            found[what][setting.name] = measure(setting)
            _write(found, asked.out or asked.cache)
    print(_tables(found))
    return 0 if settings else 2


def _write(found: Mapping[str, Any], folder: Path) -> None:
    """Write what there is so far."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ranges.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "ranges.md").write_text(_tables(found), encoding="utf-8")


def _tables(found: Mapping[str, Any]) -> str:
    """Return all as Markdown."""
    tables = {what: (scores if "models" in what else gains)(part) for what, part in found.items()}
    return "\n".join(f"## {what}\n\n{table}" for what, table in tables.items())


def _measures(asked: argparse.Namespace) -> dict[str, Callable[[Setting], Any]]:
    """Return what to measure of each model, by name."""
    measures: dict[str, Callable[[Setting], Any]] = {}
    if "tensors" in asked.parts:
        measures["activations"] = activations
        for granularity in ("channel", "tensor"):
            measures[f"weights per {granularity}"] = partial(weights, granularity=granularity)
    if "planted" in asked.parts:
        for label, share in STRAYS.items():
            measures[f"planted {label}"] = partial(activations, alter=plant(share))
    if "models" in asked.parts:
        where = {"cache": asked.cache, "limit": asked.eval_limit}
        measures["models"] = partial(models, **where)
        measures["planted models"] = partial(_planted, **where)
    return measures


def _planted(setting: Setting, cache: Path, limit: int) -> list[dict[str, Any]]:
    """Measure a model of `PLANTED` with stray values in its calibration data."""
    if setting.name not in PLANTED:
        return []
    return models(setting, cache, limit, plant(STRAYS["1e-5"]))


def _parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/ranges.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--models", type=_models, default=list(MODELS), help="names, comma between them")
    add("--parts", type=_parts, default=PARTS, help=f"of {', '.join(PARTS)}; default all")
    add("--samples", type=int, default=64, help="calibration samples (64)")
    add("--eval-limit", type=int, default=300, help="evaluation samples a model (300)")
    add("--cache", type=_path, default=HERE / ".cache", help="where the models are")
    add("--out", type=_path, help="where the tables go; default the cache")
    return parser


def _parts(text: str) -> tuple[str, ...]:
    """Read names of parts."""
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(PARTS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
