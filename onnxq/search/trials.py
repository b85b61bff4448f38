"""Quantize with some layers lifted out of the integers, for real, and measure what comes out."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from onnxq.comparison import nearness
from onnxq.drafting import Draft, draft
from onnxq.errors import NothingToQuantizeError
from onnxq.feeds import Batch
from onnxq.graph.io import Model
from onnxq.graph.query import label
from onnxq.graph.session import Runtime, Session
from onnxq.layers import EFFECT_SAMPLES
from onnxq.metrics.judge import checked_score
from onnxq.metrics.similarity import Similarity
from onnxq.plan import Plan
from onnxq.planning import plan_model
from onnxq.recipe import NodeRule, Recipe, TensorRule
from onnxq.search.emission import Emission
from onnxq.search.exam import Exam, answers_of
from onnxq.table import CalibrationTable


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How near a model is to the float model on the samples of an exam.

    Attributes:
        cosine: Mean cosine of the worst output.
        sqnr: SQNR of the worst output, in dB.
        score: What the metric says; NaN where it was not asked.
        drop: What the float model scores more; NaN likewise.
    """

    cosine: float
    sqnr: float
    score: float = math.nan
    drop: float = math.nan


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A quantized model with some layers lifted.

    Attributes:
        lifted: Their names.
        measured: How near it is.
        plan: What became of every node.
    """

    lifted: frozenset[str]
    measured: Measured
    plan: Plan


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What it takes to quantize a model one way and another, and to measure it.

    Attributes:
        model: The float model.
        table: Its calibration table.
        recipe: What is asked of the layers that are not lifted.
        exam: What to measure on.
        level: What the float model scores by the exam's metric; None if that is not asked.
        made: The draft of the recipe with nothing lifted.
        dtype: What lifted layers get for activations; None keeps them float.
        max_opset: Newest operator set a result may need.
        runtime: How to run models.
    """

    model: Path
    table: CalibrationTable
    recipe: Recipe
    exam: Exam
    made: Draft
    level: float | None = None
    dtype: str | None = None
    max_opset: int | None = None
    runtime: Runtime

    def lifting(self, layers: Iterable[tuple[str, str]]) -> Recipe:
        """Return the recipe that lifts layers; what it names that is no more is left out.

        Args:
            layers: Name and operator type of each.
        """
        rules = tuple(rule for name, op in layers for rule in self._rules(name, op))
        recipe = Recipe(rules=rules).over(self.recipe)
        if not (rules and recipe.tensors):
            return recipe
        plan = plan_model(self.model, replace(recipe, tensors={}), self.table, self.max_opset)[1]
        own = {name for name, each in plan.activations.items() if each.shares == name}
        own |= {weight.name for node in plan.nodes.values() for weight in node.weights}
        return replace(recipe, tensors={k: v for k, v in recipe.tensors.items() if k in own})

    def _rules(self, name: str, op: str) -> Iterator[NodeRule]:
        """Yield what lifts one layer; in 16 bits it keeps what is asked of it besides."""
        if self.dtype is None:
            for each in [(name, op), *absorbed_by(self.made.prepared, self.made.plan, name)]:
                yield NodeRule(name=exactly(each[0]), op=each[1], quantize=False)
            return
        asked = next((r for r in self.recipe.rules if r.matches(name, op)), NodeRule(op=op))
        activations = TensorRule(dtype=self.dtype).over(asked.activations)
        yield replace(asked, name=exactly(name), op=op, activations=activations)

    def trial(self, layers: Sequence[tuple[str, str]]) -> Trial | None:
        """Quantize with layers lifted and measure; None if that leaves nothing to quantize.

        Raises:
            CalibrationError: The table lacks a tensor that is quantized only because of that.
        """
        lifted = frozenset(name for name, _ in layers)
        try:
            made = draft(
                *(self.model, self.table, self.lifting(layers)),
                max_opset=self.max_opset,
                like=self.made,
                runtime=self.runtime,
            )
        except NothingToQuantizeError:
            return None
        with emitted(made, self.runtime) as session:
            found = measured(self.exam, session, self.level)
        return Trial(lifted=lifted, measured=found, plan=made.plan)


def exactly(name: str) -> str:
    """Return the expression that matches one name."""
    return f"^{re.escape(name)}$"


def absorbed_by(model: Model, plan: Plan, name: str) -> Iterator[tuple[str, str]]:
    """Yield name and type of the activation that a node absorbs, if it has integers of its own.

    Beside a float operator it would be quantized by itself, from values nobody observed.

    Args:
        model: The prepared model.
        plan: What becomes of it.
        name: The node.
    """
    target = plan.target
    for node in model.graph.nodes:
        if label(node) != name or not node.outputs or len(node.outputs[0].outputs) != 1:
            continue
        after = node.outputs[0].outputs[0]
        absorbed = plan.nodes.get(after.outputs[0].name) if after.outputs else None
        if absorbed is not None and not absorbed.quantized and after.op in target.absorbs:
            yield from [(label(after), after.op)] if after.op in target.ops else []


@contextmanager
def emitted(made: Draft, runtime: Runtime) -> Iterator[Session]:
    """Emit a draft into a file for a while, and load it."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "trial.onnx"
        Emission.of(made, path)
        session = Session(path, runtime)
        yield session
        session.close()


def measured(exam: Exam, session: Session, level: float | None = None) -> Measured:
    """Run a model on all samples and compare it with the float model.

    Args:
        exam: The samples.
        session: The model.
        level: What the float model scores; None not to ask the metric.
    """
    found: list[object] = []
    near: dict[str, Similarity] = {}
    for number, batch in enumerate(exam.batches):
        outputs = answers_of(session, batch.inputs)
        if level is not None:
            found.extend(exam.evidence(number, outputs))
        for name, array in exam.references[number].items():
            both = nearness(array, outputs[name], batch.samples)
            near[name] = near.get(name, Similarity()) + both
    compared = [each for each in near.values() if each.samples]
    score = math.nan if level is None else checked_score(exam.metric, found, "quantized")
    return Measured(
        cosine=min((each.cosine for each in compared), default=math.nan),
        sqnr=min((each.sqnr for each in compared), default=math.nan),
        score=score,
        drop=math.nan if level is None else level - score,
    )


def float_score(exam: Exam) -> float:
    """Return what the float model scores.

    Raises:
        RecipeError: The metric does not fit the outputs.
        CalibrationError: The labels are missing or do not fit, or the metric fails.
    """
    return checked_score(exam.metric, exam.perfect, "float")


def first_samples(batches: Sequence[Batch]) -> Iterator[Batch]:
    """Yield as many batches as ranking layers by effect looks at."""
    seen = 0
    for batch in batches:
        if seen >= EFFECT_SAMPLES:
            return
        yield batch
        seen += batch.samples
