"""What ``onnxq tune`` finds and costs, beside searches that try everything.

    python benchmarks/tune.py --help

Two searches are run for real, each candidate emitted anew into a session of its own and run on all
samples:

* ``sweeps``: for one tensor after the other all positions, the best stays; again until nothing
  moves, three times at most;
* ``grid``: every combination of positions of a few tensors, the others as the recipe has them.

They start where tune starts, and know its samples. A score must be better to replace another.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import onnxq  # noqa: E402  found only with the line above
from benchmarks.table import environment  # noqa: E402
from onnxq.drafting import Draft, draft  # noqa: E402
from onnxq.emit import emit  # noqa: E402
from onnxq.graph import io  # noqa: E402
from onnxq.graph.session import Runtime, Session  # noqa: E402
from onnxq.metrics import metric  # noqa: E402
from onnxq.recipe import Recipe, TensorRule  # noqa: E402
from onnxq.search.candidates import Coordinate, coordinates  # noqa: E402
from onnxq.search.exam import (  # noqa: E402
    Exam,
    answers_of,
    examined,
    shuffled,
    sides,
)
from onnxq.search.samples import parts  # noqa: E402
from onnxq.search.settings import Tuning  # noqa: E402
from onnxq.search.tune import tune  # noqa: E402
from onnxq.sources import batches_of  # noqa: E402

SWEEPS = 3
GRID = 3  # tensors of the joint grid
SAMPLES = HERE.parent / "sample_models"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, its samples and what is searched.

    Attributes:
        folder: Of ``model.onnx`` and ``calib.npz``.
        metric: What to improve.
        bits: Width of weights and activations.
        samples: How many, a fifth of them held out.
        batch: Samples a run.
    """

    folder: Path
    metric: str
    bits: int
    samples: int
    batch: int = 32

    @property
    def model(self) -> Path:
        """The float model."""
        return self.folder / "model.onnx"

    @property
    def recipe(self) -> Recipe:
        """Where to start."""
        width = TensorRule(dtype=f"int{self.bits}")
        return Recipe(target="fixed-point", activations=width, weights=width)

    @property
    def data(self) -> tuple[onnxq.Source, onnxq.Source]:
        """The samples to search on, and those held out."""
        cut = onnxq.Cut(batch_size=self.batch, samples=self.samples)
        return parts(onnxq.Source(data=str(self.folder / "calib.npz"), cut=cut), None)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found.

    Attributes:
        case: What was run.
        model: The model's folder.
        what: Metric and width.
        search: Which search.
        evaluations: Candidates tried.
        seconds: Wall time of the search alone.
        score: On the samples searched on.
        held: On those held out, with half the 95 % interval of the change from the start.
        change: Half width of that interval.
        sqnr: On the samples searched on, dB.
        held_sqnr: On those held out.
    """

    case: str
    model: str
    what: str
    search: str
    evaluations: int
    seconds: float
    score: float
    held: float
    change: float
    sqnr: float
    held_sqnr: float


class Anew:
    """Scores choices, each in a model emitted anew."""

    def __init__(self, made: Draft, exam: Exam) -> None:
        """Begin with the draft."""
        self._made, self._exam = made, exam
        self.used: dict[Any, Any] = dict(made.activations.items()) | dict(made.weights.items())
        self.coordinates = coordinates(
            made.prepared, made.plan, made.seen, self.used, "activations"
        )
        self.evaluations = 0

    def session(self, choices: Mapping[str, int]) -> Session:
        """Emit a model and load it."""
        used = dict(self.used)
        for each in self.coordinates:
            used |= each.change(choices.get(each.name, each.start))
        model = io.copied(self._made.prepared)
        activations = {name: params for name, params in used.items() if isinstance(name, str)}
        weights = {key: params for key, params in used.items() if not isinstance(key, str)}
        emit(model, self._made.plan, activations, weights)
        return Session(io.sync(model), Runtime())

    def score(self, choices: Mapping[str, int]) -> float:
        """Run all samples through a model emitted anew."""
        self.evaluations += 1
        session = self.session(choices)
        found: list[Any] = []
        for number, batch in enumerate(self._exam.batches):
            found.extend(self._exam.evidence(number, answers_of(session, batch.inputs)))
        return self._exam.metric.score(found)


def sweeps(anew: Anew) -> dict[str, int]:
    """Try all positions of one tensor after the other, until nothing moves."""
    at = {each.name: each.start for each in anew.coordinates}
    best = anew.score(at)
    for _ in range(SWEEPS):
        before = dict(at)
        for each in anew.coordinates:
            for choice in range(len(each.choices)):
                if choice != at[each.name]:
                    score = anew.score({**at, each.name: choice})
                    if score > best:
                        best, at = score, {**at, each.name: choice}
        if at == before:
            break
    return at


def grid(anew: Anew) -> dict[str, int]:
    """Try every combination of positions of the first tensors."""
    open_: Sequence[Coordinate] = anew.coordinates[:GRID]
    best, found = float("-inf"), {}
    for choices in product(*(range(len(each.choices)) for each in open_)):
        at = dict(zip((each.name for each in open_), choices, strict=True))
        score = anew.score(at)
        if score > best:
            best, found = score, at
    return found


def run(name: str, case: Case, kind: str) -> list[Found]:
    """Run tune, and a search that tries everything, on the same samples."""
    runtime, what = Runtime(), metric(case.metric)
    kept, held = case.data
    table = onnxq.calibrate(case.model, kept)
    reference = Session(case.model, runtime)
    batches = shuffled(list(batches_of(kept, reference)), 0)
    exam = examined(reference, batches, what)
    other = examined(reference, list(batches_of(held, reference)), what)
    recipe = case.recipe
    made = draft(case.model, table, recipe, runtime=runtime)
    anew = Anew(made, exam)
    if kind == "grid":
        closed = {each.name: each.rule(each.start) for each in anew.coordinates[GRID:]}
        recipe = replace(recipe, tensors=closed)
    start = anew.session({})
    lines = []

    def line(search: str, evaluations: int, seconds: float, session: Session) -> None:
        """Add what a search found."""
        on, off = (sides(each, (start, session)) for each in (exam, other))
        lines.append(
            Found(
                case=name,
                model=case.folder.name,
                what=f"{case.metric}, {case.bits} bits, {exam.samples} samples",
                search=search,
                evaluations=evaluations,
                seconds=seconds,
                score=on.after.after,
                held=off.after.after,
                change=off.gain.half_width,
                sqnr=on.similarities[1].sqnr,
                held_sqnr=off.similarities[1].sqnr,
            )
        )
        print(json.dumps(asdict(lines[-1])), file=sys.stderr)

    line("start", 0, 0.0, start)
    ways = {
        "tune": Tuning(metric=what),
        "tune --exact": Tuning(metric=what, drop=False),
        "tune --min-gain 0 --sweeps 3": Tuning(metric=what, min_gain=0.0, sweeps=SWEEPS),
    }
    with TemporaryDirectory() as folder:
        for search, way in ways.items():
            path = Path(folder) / "t.onnx"
            found = tune(case.model, table, recipe, (kept, held), path, tuning=way)
            line(search, found.evaluations, found.seconds, Session(path, runtime))
    begun = time.monotonic()
    searches: Mapping[str, Callable[[Anew], dict[str, int]]] = {"sweeps": sweeps, "grid": grid}
    at = searches[kind](anew)
    seconds = time.monotonic() - begun
    line(kind, anew.evaluations, seconds, anew.session(at))
    return lines


def cases(cache: Path | None, samples: int | None) -> dict[str, tuple[Case, str]]:
    """Return what can be run."""
    resnet = SAMPLES / "fashion_resnet"
    found = {
        "grid": (Case(folder=resnet, metric="cosine", bits=6, samples=samples or 256), "grid"),
        "fashion": (Case(folder=resnet, metric="cosine", bits=6, samples=samples or 256), "sweeps"),
        "fashion-labels": (
            Case(folder=resnet, metric="classification", bits=5, samples=samples or 256),
            "sweeps",
        ),
    }
    if cache is not None:
        cifar = cache / "cifar_resnet20"
        for name in ("cosine", "classification"):
            case = Case(folder=cifar, metric=name, bits=6, samples=samples or 1000)
            found[f"cifar-{name}"] = case, "sweeps"
    return found


def shown(lines: Sequence[Found]) -> str:
    """Return the results as a table, times as multiples of the search that tries everything."""
    headings = ("model", "what", "search", "candidates", "seconds", "time", "score", "SQNR dB")
    rows = [f"| {' | '.join((*headings, 'score held out', 'SQNR held out'))} |"]
    rows.append("| --- " * (len(headings) + 2) + "|")
    slowest = {each.case: each.seconds for each in lines}  # the last one of each
    for each in lines:
        all_of_it = slowest[each.case]
        faster = f"{all_of_it / each.seconds:.0f} × less" if 0 < each.seconds < all_of_it else ""
        cells = (
            *(each.model, each.what, each.search, str(each.evaluations), f"{each.seconds:.1f}"),
            *(faster, f"{each.score:.5f}", f"{each.sqnr:.2f}"),
            *(f"{each.held:.5f} ± {each.change:.5f}", f"{each.held_sqnr:.2f}"),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks/tune.py")
    parser.add_argument("--cases", help="comma between them; default all there are")
    parser.add_argument("--cache", type=Path, help="folder of the models of benchmarks/run.py")
    parser.add_argument("--samples", type=int, help="how many, a fifth of them held out")
    parser.add_argument("--out", type=Path, default=Path("tune.json"))
    asked = parser.parse_args()
    there = cases(asked.cache, asked.samples)
    names = asked.cases.split(",") if asked.cases else list(there)
    lines = [found for name in names for found in run(name, *there[name])]
    results = {"environment": environment(), "found": [asdict(each) for each in lines]}
    asked.out.write_text(json.dumps(results, indent=1))
    print(shown(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
