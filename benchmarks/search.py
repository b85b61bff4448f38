"""What a search over strategies finds, and how fast: search.py --help.

* ``quality``: models as written by the recipe alone, by the best strategy that asks the same of
  all tensors, by random search, and by evolution with as many evaluations;
* ``speed``: candidates a second, see `benchmarks.search_speed`;
* ``front``: quality against size of the weights, beside one width for all of them.

Searches calibrate and search on the first samples of ``calib.npz``. What they write is measured as
files on ``eval.npz``, which no choice is made on, but for the rows that say so. ``search.md`` and
``search.json`` go to ``--output``.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import search_front, search_speed
from benchmarks.command import HERE, _path, say
from benchmarks.fetch import MODELS
from benchmarks.fixed_point import _among
from benchmarks.ranges import _markdown
from benchmarks.search_subject import Measured, Subject, folder_of, load, searching_of
from benchmarks.table import _finite, _number, environment
from onnxq.metrics.classification import Paired, paired
from onnxq.types import Array

LOSSES = ("relative entropy", "noise")
OTHERS = ("uniform", "random")  # what evolution is held against
STRATEGIES = ("default", *OTHERS, "evolution")


def quality(subject: Subject, asked: argparse.Namespace) -> dict[str, Any]:
    """Search by evolution and by lot with each seed, and measure what was found.

    Args:
        subject: The model.
        asked: The command line.
    """
    known: dict[str, Measured] = {}
    runs = [_run(subject, asked, seed, known) for seed in asked.seeds]
    task = runs[0][0]["default"].task
    duels = [
        {
            "against": other,
            "by": by,
            **duel([(run[other].losses[by], run["evolution"].losses[by]) for run, _ in runs]),
        }
        for by, other in product(LOSSES, OTHERS)
    ]
    return {
        "model": subject.name,
        "samples": task.samples,
        "task": {"name": task.name, "float": task.before},
        "rows": {name: [run[name].plain for run, _ in runs] for name in STRATEGIES},
        "runs": [told for _, told in runs],
        "duels": duels,
    }


def _run(
    subject: Subject, asked: argparse.Namespace, seed: int, known: dict[str, Measured]
) -> tuple[dict[str, Measured], dict[str, Any]]:
    """Search with one seed; what asks the same of all tensors is measured once."""
    found: dict[str, Measured] = {}
    told: dict[str, Any] = {"seed": seed}
    with TemporaryDirectory() as folder:
        for searcher in ("random", "evolution"):  # the last one tells what is uniform, too
            say(f"{subject.name}: {searcher}, seed {seed}")
            output = Path(folder) / f"{searcher}.onnx"
            searched = subject.search(output, searching_of(asked, seed, searcher=searcher))
            found[searcher] = subject.held.measured(output)
            told[searcher] = {
                "code": searched.chosen.row.code,
                "evaluations": len(searched.rows),
                "failed": sum(bool(row.found.error) for row in searched.rows),
                "seconds": searched.seconds,
                "sqnr of the search": searched.chosen.held.sqnr,
            }
        told["log10 strategies"] = searched.space.log10_strategies
        for name, each in (("default", searched.default), ("uniform", searched.uniform)):
            code = told[name] = each.row.code
            if code not in known:
                known[code] = subject.measured(code, Path(folder))
            found[name] = known[code]
    return found, told


def duel(pairs: Sequence[tuple[Array, Array]]) -> dict[str, Any]:
    """Compare two models by sample, with each seed and with all of them.

    Args:
        pairs: With each seed both models' losses, ``(N,)``, lower is better.

    Returns:
        Of each seed ``before``, ``after`` and ``half_width`` of the 95 % interval of their
        difference, and the same with the losses of a sample averaged over the seeds; how many of
        the seeds' intervals are below 0, ``better``, and above.
    """
    seeds = [paired(*pair) for pair in pairs]
    before, after = np.mean(np.array(pairs), axis=0)
    return {
        "pooled": vars(paired(before, after)),
        "seeds": [vars(each) for each in seeds],
        "better": sum(each.difference + each.half_width < 0 for each in seeds),
        "worse": sum(each.difference - each.half_width > 0 for each in seeds),
    }


def qualities(found: Sequence[Mapping[str, Any]]) -> str:
    """Return what was found as Markdown: a row a strategy, then one a comparison."""
    lines = [["model", "strategy", "SQNR dB", "cosine", "relative entropy, nats", "task"]]
    duels = [["model, samples", "evolution against", "by", "difference, mean of the seeds [95 %]"]]
    duels[0] += ["of the other's", "below 0 (evolution is better)", "above 0"]
    for table in (lines, duels):
        table.append(["---"] * len(table[0]))
    for each in found:
        task = each["task"]
        cells = ["–", "1", "0", f"{task['name']} {task['float']:.4f}"]
        lines.append([each["model"], "float", *cells])
        for name, rows in each["rows"].items():
            digits = {"sqnr": 2, "cosine": 5, "entropy": 5, "task": 4}
            spelled = [spread([row[key] for row in rows], n) for key, n in digits.items()]
            lines.append([each["model"], name, *spelled[:-1], f"{task['name']} {spelled[-1]}"])
        for one in each["duels"]:
            pooled, seeds = Paired(**one["pooled"]), len(one["seeds"])
            change = f"{pooled.difference:+.2e} ± {pooled.half_width:.1e}"
            of_it = f"{pooled.difference / pooled.before:+.1%}" if pooled.before else "–"
            cells = [change, of_it, f"{one['better']} of {seeds}", f"{one['worse']} of {seeds}"]
            duels.append([f"{each['model']}, {each['samples']}", one["against"], one["by"], *cells])
    return f"{_markdown(lines)}\n{_markdown(duels)}"


def spread(values: Sequence[float], digits: int) -> str:
    """Spell a mean, and behind it how far the values are apart if there are several."""
    mean = _number(float(np.mean(values)), digits)
    return mean if len(values) == 1 else f"{mean} ({max(values) - min(values):.{digits}f})"


# What may be asked for: how a model is measured, how the results read, and the usual models.
PARTS: Mapping[
    str, tuple[Callable[[Subject, argparse.Namespace], Any], Callable[[Any], str], str]
] = {
    "quality": (
        quality,
        qualities,
        "cifar_resnet20:int4,fashion_resnet:int4,efficientnet_lite0:int4,ppocr_rec",
    ),
    "speed": (search_speed.measured, search_speed.shown, "cifar_resnet20:int4"),
    "front": (search_front.measured, search_front.shown, "cifar_resnet20"),
}


def main() -> int:
    """Measure what was asked for and write ``search.json`` and ``search.md``."""
    asked = _parser().parse_args()
    logging.disable(logging.WARNING)
    found: dict[str, list[Any]] = {}
    for part in asked.parts:
        measure, _, usual = PARTS[part]
        for name in asked.models or _models(usual):
            if not (folder_of(name.partition(":")[0], asked.cache) / "model.onnx").exists():
                say(f"{name}: skipped: not in the cache: run.py --fetch builds it")
                continue
            say(f"{part} of {name}: calibrating")
            found.setdefault(part, []).append(measure(load(name, asked), asked))
            _write(found, asked)
    print(_tables(found))
    return 0 if found else 2


def _tables(found: Mapping[str, Any]) -> str:
    """Return all as Markdown."""
    return "\n".join(f"## {part}\n\n{PARTS[part][1](each)}" for part, each in found.items())


def _write(found: Mapping[str, Any], asked: argparse.Namespace) -> None:
    """Write what there is so far."""
    asked.output.mkdir(parents=True, exist_ok=True)
    names = ("seeds", "samples", "eval_limit", "evaluations", "metric", "workers", "rebuilds")
    settings = {name: getattr(asked, name) for name in names}
    content = _finite({"settings": settings, "environment": environment(), **found})
    text = json.dumps(content, indent=1, default=float)
    (asked.output / "search.json").write_text(f"{text}\n", encoding="utf-8")
    (asked.output / "search.md").write_text(_tables(found), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/search.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    parts = partial(_among, PARTS)
    add("--parts", type=parts, default=["quality"], help=f"of {', '.join(PARTS)} (quality)")
    add("--models", type=_models, help="MODEL or MODEL:WIDTH of weights, commas between")
    add("--seeds", type=_numbers, default=(0, 1, 2), help="commas between; speed: the first")
    add("--evaluations", type=int, default=400, help="strategies a search may try (400)")
    add("--samples", type=int, default=64, help="to calibrate and search on (64)")
    add("--eval-limit", type=int, help="measure on the first so many samples only")
    add("--metric", default="noise", help="what searches improve (noise)")
    add("--workers", type=int, default=0, help="strategies tried at once; 0: one a core; speed: 1")
    add("--rebuilds", type=int, default=12, help="speed: strategies rebuilt (12)")
    add("--bred", action="store_true", help="speed: candidates as a search breeds them")
    add("--cache", type=_path, default=HERE / ".cache", help="where the models are")
    add("--output", type=_path, default=HERE / ".cache", help="where the tables go")
    return parser


def _models(text: str) -> list[str]:
    """Read names of models, each perhaps with a width."""
    _among(MODELS, ",".join(name.partition(":")[0] for name in text.split(",")))
    return text.split(",")


def _numbers(text: str) -> tuple[int, ...]:
    """Read whole numbers."""
    return tuple(map(int, text.split(",")))


if __name__ == "__main__":
    sys.exit(main())
