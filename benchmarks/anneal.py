"""How many swaps ``onnxq anneal`` tries a second, beside a session that is given all weights anew.

    python benchmarks/anneal.py --help

The other way has one session for all swaps, with the weights as inputs: each swap quantizes all
weights again and runs the whole model. Both try the same swaps in turns, on one thread and the same
samples, and must find the same scores; nothing is given up early. Then onnxq alone, giving up.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import onnxq  # noqa: E402  found only with the line above
from benchmarks.table import environment  # noqa: E402
from onnxq.drafting import draft  # noqa: E402
from onnxq.graph import io  # noqa: E402
from onnxq.graph.session import Runtime, Session  # noqa: E402
from onnxq.metrics import metric  # noqa: E402
from onnxq.recipe import Recipe, TensorRule  # noqa: E402
from onnxq.search.anneal import arranged  # noqa: E402
from onnxq.search.annealing import Annealing  # noqa: E402
from onnxq.search.arrangement import Arrangement  # noqa: E402
from onnxq.search.bench import Trial  # noqa: E402
from onnxq.search.cooling import Cooling  # noqa: E402
from onnxq.search.exam import Exam, answers_of, examined, shuffled  # noqa: E402
from onnxq.sources import batches_of  # noqa: E402

TURN = 10  # swaps one after the other
ONE = Runtime(threads=1)


class Whole:
    """One session for all swaps, the constants its inputs; in the place of a bench."""

    def __init__(self, arrangement: Arrangement, exam: Exam) -> None:
        """Load the model, and score it as it is."""
        self._arrangement, self._exam = arrangement, exam
        given = self._constants()
        self._session = Session(_fed(io.sync(arrangement.model), given), ONE)
        self.evaluations = self.runs = 0
        self.now = self.ask({}, -np.inf)

    def _constants(self) -> dict[str, Any]:
        """Quantize all weights, and return them with all else that may change."""
        at = self._arrangement
        used = at.used(at.weights, at.values, at.weights)
        return {**{name: at.values[name] for name in at.values.keys() & at.read}, **used}

    def ask(self, constants: Mapping[str, Any], bar: float) -> Trial:
        """Score a candidate on all samples."""
        del bar
        given = {**self._constants(), **constants}
        found = []
        for number, batch in enumerate(self._exam.batches):
            outputs = answers_of(self._session, {**batch.inputs, **given})
            found.extend(self._exam.evidence(number, outputs))
        return Trial(score=self._exam.metric.score(found), units=[], constants=constants)

    def keep(self, trial: Trial) -> None:
        """Make a candidate the present state."""
        self.now = trial


def _fed(proto: onnx.ModelProto, constants: Mapping[str, Any]) -> onnx.ModelProto:
    """Return a model that is given some of its constants."""
    fed = onnx.ModelProto()
    fed.CopyFrom(proto)
    kept = [tensor for tensor in fed.graph.initializer if tensor.name not in constants]
    del fed.graph.initializer[:]
    fed.graph.initializer.extend(kept)
    for name, values in constants.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
        fed.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, values.shape))
    return fed


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Swaps a second.

    Attributes:
        model: Its folder's name.
        size: Of a tile.
        samples: How many are run.
        swaps: How many were tried each way.
        whole: With all weights given anew.
        pieces: By onnxq, nothing given up.
        dropped: By onnxq, giving up what will not be accepted.
        scores: In the end, of both ways.
    """

    model: str
    size: str
    samples: int
    swaps: int
    whole: float
    pieces: float
    dropped: float
    scores: tuple[float, float]


def measured(folder: Path, size: str, samples: int, swaps: int) -> Speed:
    """Try the same swaps both ways, in turns."""
    model = folder / "model.onnx"
    source = onnxq.Source(
        data=str(folder / "calib.npz"), cut=onnxq.Cut(batch_size=32, samples=samples)
    )
    recipe = Recipe(
        target="crossbar",
        crossbar=size,
        weights=TensorRule(dtype="int4"),
        activations=TensorRule(dtype="float"),
    )
    table = onnxq.calibrate(model, source)
    made = draft(model, table, replace(recipe, correct_bias=False), runtime=ONE)
    reference = Session(model, ONE)
    batches = shuffled(list(batches_of(source, reference)), 0)
    exam = examined(reference, batches, metric("cosine"))
    cooling = Cooling(swaps=swaps, drop=False, workers=1)
    ours = Annealing(arranged(made, table, recipe, ONE), exam, cooling, ONE)
    every = arranged(made, table, recipe, ONE)
    whole = Annealing(every, exam, cooling, ONE)
    whole.bench = Whole(every, exam)  # type: ignore[assignment]
    dropping = replace(cooling, drop=True)
    quick = Annealing(arranged(made, table, recipe, ONE), exam, dropping, ONE)
    spent = dict.fromkeys(("whole", "pieces", "dropped"), 0.0)
    while ours.done < swaps:
        for name, way in (("whole", whole), ("pieces", ours), ("dropped", quick)):
            begun = time.perf_counter()
            for _ in range(TURN):
                way.step()
            spent[name] += time.perf_counter() - begun
    rates = {name: ours.done / seconds for name, seconds in spent.items()}
    return Speed(
        model=folder.name,
        size=size,
        samples=samples,
        swaps=ours.done,
        scores=(whole.bench.now.score, ours.bench.now.score),
        **rates,
    )


def shown(found: list[Speed]) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| model, tiles, samples | swaps | all anew, swaps/s | onnxq | | giving up | | score |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in found:
        first, second = each.scores
        same = f"{second:.6f}" if abs(first - second) < 1e-5 else f"{first:.6f}, {second:.6f}"
        ratios = [f"{rate / each.whole:.1f} ×" for rate in (each.pieces, each.dropped)]
        lines.append(
            f"| {each.model}, {each.size}, {each.samples} | {each.swaps} | {each.whole:.1f} "
            f"| {each.pieces:.1f} | {ratios[0]} | {each.dropped:.1f} | {ratios[1]} | {same} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", default="cifar_resnet20", help="folders of the cache, comma between them")
    add("--sizes", default="128x128,32x32", help="of tiles, comma between them")
    add("--samples", type=int, default=128)
    add("--swaps", type=int, default=200)
    add("--cache", type=Path, default=HERE / ".cache", help="folder of benchmarks/run.py")
    add("--out", type=Path, default=HERE / ".cache", help="where anneal.json and anneal.md go")
    asked = parser.parse_args()
    found: list[Speed] = []
    for name in asked.models.split(","):
        for size in asked.sizes.split(","):
            found.append(measured(asked.cache / name, size, asked.samples, asked.swaps))
            print(shown(found[-1:]), file=sys.stderr, flush=True)
    asked.out.mkdir(parents=True, exist_ok=True)
    content = {"environment": environment(), "rows": [vars(each) for each in found]}
    (asked.out / "anneal.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (asked.out / "anneal.md").write_text(shown(found) + "\n", encoding="utf-8")
    print(shown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
