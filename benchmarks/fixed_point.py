"""Choose the positions of fixed-point models in several ways and score the task: --help.

Every model is quantized for target fixed-point with one range algorithm for all activations and
weights, a position a tensor, at each width, from the first samples of ``calib.npz``. It is scored
by its task's metric on ``eval.npz`` beside the float model; what is tuned, is on other samples. A
second table counts the tensors in
which adaptive-kl and plain-kl differ, and which of them has the better SQNR there (activations on
samples of ``calib.npz`` that calibration did not see, weights on themselves).
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.command import HERE, _path, say
from benchmarks.positions import TARGET, Tensor, _widths, tensors
from benchmarks.ranges import Setting, _altered, _markdown, _usual, load
from onnxq import Cut, Recipe, Source, TensorRule, Tuning, compare, quantize, tune
from onnxq.metrics import metric
from onnxq.metrics.answers import Metric
from onnxq.search.candidates import OVER
from onnxq.search.samples import parts

TASKS: Mapping[str, Metric] = {
    "fashion_resnet": metric("classification"),
    "fashion_mobilenet": metric("classification"),
    "fashion_segment": metric("segmentation"),
    "fashion_detect": metric("detection"),
    "cifar_resnet20": metric("classification"),
    "efficientnet_lite0": metric("classification"),
    "ppocr_rec": metric("recognition", spaces="strip"),
    "plates": metric("recognition", spaces="strip"),
}
TUNED_ON = 500  # samples at most, a fifth of them held out
RANGES = ("adaptive-kl", "plain-kl")  # whose tensors are compared


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a way of choosing positions has to work with.

    Attributes:
        setting: The model and its calibration table.
        bits: Width of activations and weights.
        granularity: Of weights, ``tensor`` or ``channel``.
        task: The metric of the model's task.
        labelled: Labelled samples that are not evaluated on; None where there are none.
        over: What tune moves.
    """

    setting: Setting
    bits: int
    granularity: str
    task: Metric
    labelled: Path | None
    over: str

    def recipe(self, name: str) -> Recipe:
        """Ask for a range algorithm for everything."""
        rule = {"dtype": f"int{self.bits}", "range": name}
        return Recipe(
            target=TARGET,
            activations=TensorRule(**rule),
            weights=TensorRule(**rule, granularity=self.granularity),
        )


Way = Callable[[Job, Path], None]


def by_range(name: str, job: Job, output: Path) -> None:
    """Write the model as a range algorithm has it."""
    quantize(job.setting.path, job.setting.table, job.recipe(name), output)


def tuned(name: str, job: Job, output: Path) -> None:
    """Write the model as tune leaves it, from where a range algorithm has it.

    Where no labelled samples are left for it, it tunes on the cosine to the float model.
    """
    data = job.labelled or job.setting.path.with_name("calib.npz")
    source = Source(data=str(data), cut=Cut(batch_size=32, samples=TUNED_ON))
    way = Tuning(metric=job.task if job.labelled else metric("cosine"), over=job.over)
    tune(
        *(job.setting.path, job.setting.table, job.recipe(name), parts(source, None), output),
        tuning=way,
    )


# The columns: a way writes the model of a job. One more line makes one more column.
WAYS: dict[str, Way] = {
    "max-abs": partial(by_range, "minmax"),
    "plain-kl": partial(by_range, "plain-kl"),
    "mse": partial(by_range, "mse"),
    "adaptive-kl": partial(by_range, "adaptive-kl"),
    "adaptive-kl + tune": partial(tuned, "adaptive-kl"),
    "mse + tune": partial(tuned, "mse"),
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One model, quantized in one way.

    Attributes:
        model: The model's folder.
        way: How positions were chosen.
        bits: Width of activations and weights.
        granularity: Of weights.
        metric: What scored it.
        before: Score of the float model.
        after: Score of the quantized model.
        half_width: Half the 95 % interval of their difference, on the same samples.
        sqnr: Of the output where it is least, dB.
        samples: How many were evaluated.
    """

    model: str
    way: str
    bits: int
    granularity: str
    metric: str
    before: float
    after: float
    half_width: float
    sqnr: float
    samples: int


def measure(job: Job, way: str, folder: Path, limit: int | None) -> Result:
    """Quantize a model in one way and score it.

    Args:
        job: The model and what is asked.
        way: A key of `WAYS`.
        folder: Where its evaluation data is.
        limit: Evaluate on the first so many samples only.
    """
    data = Source(data=str(folder / "eval.npz"), cut=Cut(samples=limit))
    with TemporaryDirectory() as temporary:
        output = Path(temporary) / "model.onnx"
        WAYS[way](job, output)
        found = compare(job.setting.path, output, data, metric=job.task).comparison
    assert found.metric is not None
    score = found.metric.paired
    return Result(
        model=job.setting.name,
        way=way,
        bits=job.bits,
        granularity=job.granularity,
        metric=found.metric.name,
        before=score.before,
        after=score.after,
        half_width=score.half_width,
        sqnr=min(output.similarity.sqnr for output in found.outputs),
        samples=found.samples,
    )


def scores(results: Sequence[Result]) -> str:
    """Return the scores as a Markdown table, a row a model, width and granularity."""
    lines = [["model, bits", "metric", "float", *WAYS]]
    lines.append(["---"] * len(lines[0]))
    rows: dict[tuple[str, int, str], dict[str, Result]] = {}
    for result in results:
        rows.setdefault((result.model, result.bits, result.granularity), {})[result.way] = result
    for (model, bits, granularity), row in rows.items():
        first = next(iter(row.values()))
        name = f"{model}, {bits}" + (", a channel" if granularity == "channel" else "")
        cells = [_cell(row[way]) if way in row else "–" for way in WAYS]
        lines.append([name, first.metric, f"{first.before:.4f}", *cells])
    return _markdown(lines)


def _cell(result: Result) -> str:
    """Spell the score, the half interval of the change, and the SQNR."""
    return f"{result.after:.4f} ± {result.half_width:.4f}, {result.sqnr:.1f} dB"


def duels(found: Mapping[tuple[str, int], Mapping[str, Tensor]]) -> str:
    """Return a Markdown table of the tensors in which the two divergences differ.

    Args:
        found: Model and width to tensor.
    """
    adaptive, plain = RANGES
    lines = [["model, bits", "tensors", "differ", f"better with {adaptive}", f"with {plain}"]]
    lines.append(["---"] * len(lines[0]))
    for (model, bits), each in found.items():
        differ = [t for t in each.values() if t.positions[adaptive] != t.positions[plain]]
        wins = [t.sqnr[adaptive] - t.sqnr[plain] for t in differ]
        counts = (len(each), len(differ), sum(w > 0 for w in wins), sum(w < 0 for w in wins))
        lines.append([f"{model}, {bits}", *map(str, counts)])
    return _markdown(lines)


def main() -> int:
    """Measure what was asked for and write ``fixed_point.json`` and ``fixed_point.md``."""
    asked = _parser().parse_args()
    logging.disable(logging.WARNING)
    out = asked.out or asked.cache
    out.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    compared: dict[tuple[str, int], dict[str, Tensor]] = {}
    for name in asked.models:
        folder = asked.cache / name
        if not (folder / "model.onnx").exists():
            say(f"{name}: skipped: not in the cache: run.py --fetch builds it")
            continue
        say(f"{name}: calibrating")
        full = load(name, asked.cache, asked.samples, Recipe(target=TARGET))
        setting = replace(full, table=_altered(full.table, _usual))
        for bits in asked.bits:
            if asked.granularity == "tensor":
                compared[name, bits] = tensors(full, bits)
            job = Job(
                setting=setting,
                bits=bits,
                granularity=asked.granularity,
                task=TASKS[name],
                labelled=_labelled(folder),
                over=asked.over,
            )
            for way in asked.ways:
                results.append(measure(job, way, folder, asked.eval_limit))
                last = results[-1]
                say(f"{name}, {bits} bits, {way}: {last.before:.4f} → {_cell(last)}")
            _write(results, compared, out)
    print(_tables(results, compared))
    return 0 if results else 2


def _labelled(folder: Path) -> Path | None:
    """Return the file with labelled samples that are not evaluated on, if there is one."""
    for path in (folder / "tune.npz", folder / "calib.npz"):
        if path.exists():
            with np.load(path) as file:
                if any(key.startswith("label") for key in file.files):
                    return path
    return None


def _tables(
    results: Sequence[Result], compared: Mapping[tuple[str, int], Mapping[str, Tensor]]
) -> str:
    """Return both tables as Markdown."""
    return f"{scores(results)}\n{duels(compared)}" if compared else scores(results)


def _write(
    results: Sequence[Result],
    compared: Mapping[tuple[str, int], Mapping[str, Tensor]],
    folder: Path,
) -> None:
    """Write what there is so far."""
    plain = json.dumps([asdict(result) for result in results], indent=1)
    (folder / "fixed_point.json").write_text(f"{plain}\n", encoding="utf-8")
    (folder / "fixed_point.md").write_text(_tables(results, compared), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/fixed_point.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--models", type=partial(_among, TASKS), default=list(TASKS), help="names, commas between")
    add("--ways", type=partial(_among, WAYS), default=list(WAYS), help=f"of {', '.join(WAYS)}")
    add("--bits", type=_widths, default=(8, 6), help="widths, comma between them (8,6)")
    add("--granularity", choices=("tensor", "channel"), default="tensor", help="of weights")
    add("--over", choices=OVER, default="both", help="what tune moves (both)")
    add("--samples", type=int, default=64, help="calibration samples (64)")
    add("--eval-limit", type=int, help="evaluate on the first so many samples only")
    add("--cache", type=_path, default=HERE / ".cache", help="where the models are")
    add("--out", type=_path, help="where the tables go; default the cache")
    return parser


def _among(known: Mapping[str, object], text: str) -> list[str]:
    """Read names."""
    names = text.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
