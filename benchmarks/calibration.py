"""What calibration costs: time against plain inference, memory, onnxruntime's calibrator, kill -9.

    python benchmarks/calibration.py --help

Every measurement runs in a process of its own. Those that are compared run in turns, round by
round, and the median over the rounds of the ratio within a round counts: the machine may be busy.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from benchmarks import resnet50  # noqa: E402  found only with the line above
from benchmarks.calibration_process import Job, Took  # noqa: E402
from benchmarks.kill import kill_and_resume  # noqa: E402
from benchmarks.table import environment  # noqa: E402

NETWORK = "resnet50"
EFFICIENTNET = "efficientnet_lite0"
BARS = {EFFICIENTNET: (2.5, 2.0), NETWORK: (1.6, 1.4)}  # processor time: bar and goal
TWO_BARS = (1.4, 1.2)  # wall time of two workers
SIZES = (16, 256, 2048)  # samples of the comparison of memory
PEER = 64  # samples beside onnxruntime's calibrator
HEADINGS = ("model", "measured", "samples", "value", "bar", "goal", "met")


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the table.

    Attributes:
        model: The model's folder.
        measured: What was measured.
        samples: How many samples.
        value: The median over the rounds.
        bar: What it must be.
        goal: What it should be.
        met: Whether it is within the bar.
        rounds: The value in each round.
    """

    model: str
    measured: str
    samples: str
    value: str
    bar: str
    goal: str
    met: bool
    rounds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where models are and how often to measure.

    Attributes:
        cache: Folder of the models.
        rounds: How many rounds.
        warm: Folder of compiled code, filled by the first run.
    """

    cache: Path
    rounds: int
    warm: Path

    def run(self, model: str, kind: str, samples: int, **more: Any) -> Took:
        """Measure once in a new process.

        Args:
            model: The model's folder.
            kind: What to run.
            samples: How many samples.
            more: ``workers``; ``cold`` for an empty cache of compiled code.
        """
        cold = more.pop("cold", False)
        job = Job(kind=kind, folder=str(self.cache / model), samples=samples, **more)
        with TemporaryDirectory() as empty:
            compiled = empty if cold else str(self.warm)
            env = os.environ | {"PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": compiled}
            command = [sys.executable, "-m", "benchmarks.calibration_process"]
            command.append(json.dumps(asdict(job)))
            ended = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
        took = Took(**json.loads(ended.stdout.splitlines()[-1]))
        print(f"{model} {kind} {samples}: {took.cpu:.2f} s, {took.rss:.0f} MB", file=sys.stderr)
        return took

    def each(self, model: str, jobs: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Took]]:
        """Run all jobs in turns, as many rounds as wanted."""
        found: dict[str, list[Took]] = {name: [] for name in jobs}
        for _ in range(self.rounds):
            for name, job in jobs.items():
                found[name].append(self.run(model, **job))
        return found


def speed(bench: Bench, model: str, samples: int) -> list[Line]:
    """Compare calibration with plain inference: processor time, and wall time of two workers."""
    onnxq = {"kind": "onnxq", "samples": samples}
    took = bench.each(
        model,
        {
            "float": {"kind": "float", "samples": samples},
            "cold": onnxq | {"cold": True},
            "warm": onnxq,
            "two": onnxq | {"workers": 2},
        },
    )
    cpu, wall = ([getattr(one, what) for one in took["float"]] for what in ("cpu", "wall"))

    def line(what: str, times: Sequence[float], base: Sequence[float], bars: Any) -> Line:
        ratios = tuple(a / b for a, b in zip(times, base, strict=True))
        what = f"{what} ÷ float inference"
        return _line(model, what, str(samples), ratios, "×", most=bars[0], goal=bars[1])

    bars = BARS[model]
    return [
        line("processor time, compiling included,", [t.cpu for t in took["cold"]], cpu, bars),
        line("processor time", [t.cpu for t in took["warm"]], cpu, bars),
        line("wall time of two workers", [t.wall for t in took["two"]], wall, TWO_BARS),
    ]


def flat(bench: Bench, model: str, workers: int) -> list[Line]:
    """Compare the memory of few and many samples."""
    job = {"kind": "onnxq", "workers": workers}
    took = bench.each(model, {str(n): job | {"samples": n} for n in SIZES})
    peaks = {n: [one.rss for one in found] for n, found in took.items()}
    spread = tuple(100 * (max(same) / min(same) - 1) for same in zip(*peaks.values(), strict=True))
    seen = " / ".join(f"{statistics.median(peak):.0f}" for peak in peaks.values())
    what = f"peak memory, {_workers(workers)}, {seen} MB: largest ÷ smallest − 1"
    return [_line(model, what, " / ".join(peaks), spread, " %", most=10)]


def above(bench: Bench, model: str, workers: int) -> list[Line]:
    """Compare the memory with that of plain inference."""
    took = bench.each(
        model,
        {
            "float": {"kind": "float", "samples": PEER},
            "onnxq": {"kind": "onnxq", "samples": PEER, "workers": workers},
        },
    )
    more = tuple(a.rss - b.rss for a, b in zip(took["onnxq"], took["float"], strict=True))
    what = f"peak memory − that of float inference, {_workers(workers)}"
    return [_line(model, what, str(PEER), more, " MB", most=250)]


def _workers(count: int) -> str:
    """Spell a number of workers."""
    return "one worker" if count == 1 else "default workers"


def peer(bench: Bench, model: str) -> list[Line]:
    """Compare with onnxruntime's Percentile calibrator."""
    kinds = ("float", "onnxq", "onnxruntime")
    took = bench.each(model, {kind: {"kind": kind, "samples": PEER} for kind in kinds})
    ours, theirs = took["onnxq"], took["onnxruntime"]
    faster = tuple(b.cpu / a.cpu for a, b in zip(ours, theirs, strict=True))
    lighter = tuple(
        (b.rss - base.rss) / (a.rss - base.rss)
        for base, a, b in zip(took["float"], ours, theirs, strict=True)
    )
    what = "onnxruntime's Percentile calibrator ÷ onnxq"
    return [
        _line(model, f"processor time, {what}", str(PEER), faster, "×", least=15),
        _line(model, f"memory above inference, {what}", str(PEER), lighter, "×", least=10),
    ]


def killed(bench: Bench, model: str) -> list[Line]:
    """Kill a run again and again, and resume it."""
    found = kill_and_resume(bench.cache / model, moments=20)
    what = f"identical after kill -9 and --resume ({found.resumed} from a checkpoint)"
    same = _line(model, what, str(found.samples), (found.identical,), " of 20", least=20)
    return [same]


PARTS: dict[str, tuple[Callable[..., list[Line]], tuple[Any, ...], tuple[str, ...]]] = {
    "speed-256": (speed, (256,), tuple(BARS)),
    "speed-1024": (speed, (1024,), tuple(BARS)),
    "speed-2048": (speed, (2048,), (EFFICIENTNET,)),
    "flat": (flat, (0,), (EFFICIENTNET,)),
    "flat-one": (flat, (1,), (EFFICIENTNET,)),
    "above": (above, (0,), ("minilm",)),
    "above-one": (above, (1,), ("minilm",)),
    "peer": (peer, (), (EFFICIENTNET,)),
    "kill": (killed, (), ("cifar_resnet20",)),
}


def _line(
    model: str, measured: str, samples: str, rounds: tuple[float, ...], unit: str, **bars: float
) -> Line:
    """Judge the median by a bar: ``most`` or ``least``."""
    value = statistics.median(rounds)
    sign, bar = ("≤", bars["most"]) if "most" in bars else ("≥", bars["least"])
    digits = 2 if value < 10 and unit == "×" else 0 if unit != " %" else 1
    return Line(
        model=model,
        measured=measured,
        samples=samples,
        value=f"{value:.{digits}f}{unit}",
        bar=f"{sign} {bar:g}{unit}",
        goal=f"{sign} {bars['goal']:g}{unit}" if "goal" in bars else "",
        met=value <= bar if sign == "≤" else value >= bar,
        rounds=rounds,
    )


def markdown(lines: Sequence[Line]) -> str:
    """Return the lines as a Markdown table."""
    rows = [HEADINGS, ["---"] * len(HEADINGS)]
    for line in lines:
        cells = asdict(line) | {"met": "yes" if line.met else "**no**"}
        rows.append([str(cells[heading]) for heading in HEADINGS])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> int:
    """Measure what the command line asks for.

    Returns:
        0, or 2 where nothing could be measured.
    """
    parser = argparse.ArgumentParser(prog="benchmarks/calibration.py")
    add = parser.add_argument
    add("--parts", default=",".join(PARTS), help=f"comma between them; default {','.join(PARTS)}")
    add("--models", default="", help="only these, comma between them")
    add("--rounds", type=int, default=3, help="measurements of each (3)")
    add("--cache", type=Path, default=HERE / ".cache", help="folder of the models")
    add("--out", type=Path, help="where calibration.json and .md go; default the cache")
    asked = parser.parse_args()
    cache, lines = asked.cache.resolve(), []
    if not (cache / NETWORK / "model.onnx").exists():
        resnet50.build(cache / NETWORK)
    with TemporaryDirectory() as warm:
        bench = Bench(cache=cache, rounds=asked.rounds, warm=Path(warm))
        bench.run(NETWORK, "onnxq", 1)  # compiles
        for part in asked.parts.split(","):
            measure, settings, models = PARTS[part]
            for model in models:
                if asked.models and model not in asked.models.split(","):
                    continue
                if not (cache / model / "model.onnx").exists():
                    print(f"{model}: skipped: not in the cache", file=sys.stderr)
                    continue
                lines += measure(bench, model, *settings)
                _write(lines, asked.out or cache)
    print(markdown(lines), end="")
    return 0 if lines else 2


def _write(lines: Sequence[Line], folder: Path) -> None:
    """Write what there is so far."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"environment": environment(), "lines": [asdict(line) for line in lines]}
    text = json.dumps(content, indent=2, ensure_ascii=False)
    (folder / "calibration.json").write_text(text + "\n", encoding="utf-8")
    (folder / "calibration.md").write_text(markdown(lines), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
