"""The command line of the benchmark: onnxq beside other quantizers, in one table."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import fetch, table
from benchmarks.fetch.packages import environment
from benchmarks.measure import Reference, Row, Settings
from benchmarks.tools import (
    PEERS,
    TOOLS,
    Job,
    Outcome,
    environment_of,
    python_of,
    quantize,
)

HERE = Path(__file__).resolve().parent
DEFAULT_TOOLS = "onnxq,onnxruntime,onnxruntime-hand"


def say(text: str) -> None:
    """Report progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Run the benchmark as the command line says.

    Returns:
        0, or 2 where nothing could be measured.
    """
    asked = _parser().parse_args()
    asked.out = asked.out or asked.cache
    asked.fetch = asked.fetch or asked.fetch_only
    for peer in (name for name in PEERS if getattr(asked, f"with_{name}")):
        say(f"installing {peer} in an environment of its own")
        environment(environment_of(peer, asked.cache), PEERS[peer].requirements)
        asked.tools += [t for t in PEERS[peer].tools if t not in asked.tools]
    ingredients = fetch.Ingredients(
        cache=asked.cache, imagenet=asked.imagenet, cifar=asked.cifar, cifar_model=asked.cifar_model
    )
    rows: list[Row] = []
    for name in asked.models:
        reason = fetch.ensure(name, ingredients, download=asked.fetch, say=say)
        if reason:
            say(f"{name}: skipped: {reason}")
        elif not asked.fetch_only:
            for row in _rows(name, asked):
                rows.append(row)
                table.write(rows, _settings(asked), asked.out)
    if rows:
        table.print_table(rows)
        say(f"written: {asked.out / 'benchmark.json'}, {asked.out / 'benchmark.md'}")
    return 0 if rows or asked.fetch_only else 2


def _rows(name: str, asked: argparse.Namespace) -> Iterator[Row]:
    """Quantize and measure one model with every tool."""
    work = asked.cache / "work" / name
    work.mkdir(parents=True, exist_ok=True)
    samples = _cut(asked.cache / name / "calib.npz", work / "calib.npz", asked.samples)
    say(f"{name}: running the float model")
    settings = Settings(eval_limit=asked.eval_limit, seconds=asked.seconds)
    reference = Reference(name, asked.cache / name, settings)
    for tool in asked.tools:
        python = python_of(tool, asked.cache)
        if python is None:
            say(f"{name}: {tool} skipped: not installed (--with-PEER installs it)")
            continue
        job = Job(
            tool=_absolute(tool),
            model=str(reference.model),
            calibration=str(work / "calib.npz"),
            samples=samples,
            output=str(work / tool.replace("/", "_") / "model.onnx"),
        )
        say(f"{name}: {tool}: quantizing")
        yield _measured(reference, tool, job, quantize(job, python))


def _absolute(tool: str) -> str:
    """Return a tool with the whole path of its recipe: it is run in another folder."""
    name, _, recipe = tool.partition("@")
    return f"{name}@{Path(recipe).resolve()}" if Path(recipe).is_file() else tool


def _measured(reference: Reference, tool: str, job: Job, outcome: Outcome) -> Row:
    """Measure what a tool made, if it made something."""
    if outcome.error:
        say(f"{reference.name}: {tool}: failed: {outcome.error}")
        return Row(model=reference.name, tool=tool, outcome=outcome, error=outcome.error)
    say(f"{reference.name}: {tool}: measuring ({outcome.seconds:.1f} s to quantize)")
    return reference.row(tool, Path(job.output), outcome)


def _cut(calibration: Path, target: Path, samples: int) -> int:
    """Write the first samples to a file of their own.

    Returns:
        How many there are.
    """
    with np.load(calibration) as file:
        arrays = {name: file[name][:samples] for name in file.files if not name.startswith("label")}
    np.savez(target, **arrays)
    return len(next(iter(arrays.values())))


def _settings(asked: argparse.Namespace) -> dict[str, Any]:
    """Return what was asked for, without the paths of this machine."""
    names = ("models", "tools", "samples", "eval_limit", "seconds")
    return {name: getattr(asked, name) for name in names}


def _parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks/run.py", description=__doc__)
    add = parser.add_argument
    add("--models", type=_models, default=list(fetch.MODELS), help="names, comma between them")
    add(
        "--tools",
        type=_tools,
        default=_tools(DEFAULT_TOOLS),
        help=f"of {', '.join(TOOLS)}, onnxq@RECIPE; default {DEFAULT_TOOLS}",
    )
    add("--samples", type=int, default=64, help="calibration samples (64)")
    add("--eval-limit", type=int, help="evaluate on the first so many samples only")
    add("--seconds", type=float, default=2.0, help="seconds a latency is measured (2)")
    add("--cache", type=_path, default=HERE / ".cache", help="where models and results go")
    add("--out", type=_path, help="where the tables go; default the cache")
    add("--fetch", action="store_true", help="download what the cache lacks")
    add("--fetch-only", action="store_true", help="download and stop")
    add("--imagenet", type=_path, help="photographs, their names beginning with the class index")
    add("--cifar", type=_path, help="npz with calib, test, test_label")
    add("--cifar-model", type=_path, help="a float model of CIFAR-10")
    for peer in PEERS:
        add(f"--with-{peer}", action="store_true", help="install it in the cache and run it too")
    return parser


def _path(text: str) -> Path:
    """Read a path."""
    return Path(text).resolve()


def _models(text: str) -> list[str]:
    """Read names of models."""
    names = text.split(",")
    unknown = [name for name in names if name not in fetch.MODELS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(fetch.MODELS)}")
    return names


def _tools(text: str) -> list[str]:
    """Read names of tools."""
    names = text.split(",")
    unknown = [name for name in names if name.partition("@")[0] not in TOOLS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(TOOLS)}")
    return names
