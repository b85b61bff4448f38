"""Evaluate strategies: quantize, run, score, and stop as soon as one cannot matter any more."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np

from onnxq import comparison
from onnxq.comparison import nearness
from onnxq.errors import ModelError, OnnxqError
from onnxq.graph.session import Session
from onnxq.metrics.judge import checked_score
from onnxq.metrics.similarity import Similarity
from onnxq.plan import Plan
from onnxq.recipe import Recipe, dumps
from onnxq.search.exam import Exam, answers_of
from onnxq.search.space import Space
from onnxq.search.stock import Made, Stock
from onnxq.sources import Source

# What passes that rescale add to names of tensors, and so to what nodes without a name are called.
RENAMED = re.compile(r"(_(equalized|smoothed)(_[0-9a-f]+)?)+(?=\)?$)")
LATENCY_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What came of a strategy.

    Attributes:
        score: What the metric says of the samples seen; NaN where it failed.
        complete: Whether all samples were seen.
        samples: How many were.
        units: What is compared sample by sample, or batch by batch.
        cosine: Mean cosine of the worst output.
        sqnr: SQNR of the worst output, in dB.
        bits: What the weights take, scales included.
        bytes: Of the file, but for what metadata tells.
        latency: Time over that of the float model; NaN where it was not asked for.
        seconds: What it took.
        error: Why it failed; empty if it did not.
    """

    score: float = math.nan
    complete: bool = False
    samples: int = 0
    units: tuple[float, ...] = ()
    cosine: float = math.nan
    sqnr: float = math.nan
    bits: int = 0
    bytes: int = 0
    latency: float = math.nan
    seconds: float = 0.0
    error: str = ""

    @property
    def is_given_up(self) -> bool:
        """Whether it might have been run on more samples."""
        return not (self.complete or self.error)

    @property
    def noise(self) -> float:
        """Noise over signal of the worst output."""
        return float(10 ** (-self.sqnr / 10))


class Laboratory:
    """A space, and what it takes to try its strategies.

    Attributes:
        space: The strategies.
        source: The data of the table, if it is at hand.
    """

    def __init__(self, space: Space, stock: Stock, source: Source | None = None) -> None:
        """Take what was prepared.

        Args:
            space: The strategies.
            stock: The model, prepared by the recipe of the space alone.
            source: The data of the table: what is rescaled is observed on it.
        """
        self.space, self._stock, self.source = space, stock, source
        self._stocks: dict[str, Stock] = {_key(space.base): self._foreseeing(stock)}
        self._reference: Session | None = None
        self._lock = Lock()

    def stock(self, genes: Sequence[int]) -> Stock:
        """Return the model prepared as a strategy wants it.

        Raises:
            OnnxqError: Of any kind: it cannot be.
        """
        recipe = self.space.whole(genes)
        with self._lock:
            key = _key(recipe)
            if key not in self._stocks:
                self._stocks[key] = self._foreseeing(self._stock.rescaled(recipe, self.source))
            return self._stocks[key]

    def _foreseeing(self, stock: Stock) -> Stock:
        """Tell a stock which ways to quantize an activation there are."""
        names = _names(stock)
        genes = (self.space.genes[number] for number in self.space.of_kind("activation"))
        found = {names.get(g.name, ""): [o.spec for o in g.options if o.spec] for g in genes}
        stock.foresee(found)
        return stock

    def resolved(self, genes: Sequence[int]) -> Recipe:
        """Return the recipe of a strategy; it names tensors as the prepared model does.

        Raises:
            OnnxqError: Of any kind: the model cannot be prepared like that.
        """
        stock = self.stock(genes)
        names = _names(stock)
        labels = {RENAMED.sub("", n.label): n.label for n in stock.plan.nodes.values()}
        recipe = self.space.recipe(genes, names, labels)
        if not (recipe.tensors and (recipe.rules or stock.plan.recipe.rescales)):
            return recipe
        plan = stock.planned(replace(recipe, tensors={}))  # what is named must be there
        own = {name for name, each in plan.activations.items() if each.shares == name}
        own |= {weight.name for node in plan.nodes.values() for weight in node.weights}
        return replace(recipe, tensors={k: v for k, v in recipe.tensors.items() if k in own})

    def made(self, genes: Sequence[int]) -> Made:
        """Quantize by a strategy.

        Raises:
            OnnxqError: Of any kind: it does not fit the model.
        """
        recipe, stock = self.resolved(genes), self.stock(genes)
        made = stock.made(recipe, self.space.groups(genes))
        lifts = any(option.lifts for _, option in self.space.chosen(genes))
        asked = stock.asked(recipe) if lifts else self._stock.plan
        lost = self._computing(asked) - self._computing(made.plan)
        if lost:  # or the best ranges were those that nothing can be quantized with
            raise ModelError(f"{len(lost)} nodes would stay float, {min(lost)} is one")
        return made

    @staticmethod
    def _computing(plan: Plan) -> set[str]:
        """Return the labels of the quantized nodes that are worth it by themselves."""
        ops = {op for op, rule in plan.target.ops.items() if rule.role == "compute"}
        nodes = [n for n in plan.nodes.values() if n.quantized and n.op in ops]
        return {RENAMED.sub("", node.label) for node in nodes}

    def evaluate(
        self,
        genes: Sequence[int],
        exam: Exam,
        *,
        bar: Sequence[float] | None = None,
        timed: bool = False,
    ) -> Evaluation:
        """Try a strategy.

        Args:
            genes: The strategy.
            exam: What to score it on.
            bar: Units of an evaluation on all samples; stop once it is clear that the score does
                not exceed its score.
            timed: Also measure its latency.
        """
        return self._tried(genes, exam, bar, timed=timed)[0]

    def examined(self, genes: Sequence[int], exam: Exam) -> tuple[Evaluation, list[Any]]:
        """Try a strategy on all samples; also return what the metric found in the answers."""
        return self._tried(genes, exam, None, timed=False)

    def _tried(
        self, genes: Sequence[int], exam: Exam, bar: Sequence[float] | None, *, timed: bool
    ) -> tuple[Evaluation, list[Any]]:
        """Try a strategy; a failure is a result."""
        bits = self.space.bits(genes)
        try:
            made = self.made(genes)
            found, evidence = _run(made.session, exam, bar)
            ratio = self._latency(made.session, exam) if timed and found.complete else math.nan
        except OnnxqError as error:
            return Evaluation(bits=bits, error=str(error)), []
        return replace(found, bits=bits, bytes=made.bytes, latency=ratio), evidence

    def _latency(self, session: Session, exam: Exam) -> float:
        """Return the time for one sample over that of the float model."""
        feed = next(exam.batches[0].rows())
        with self._lock:
            if self._reference is None:
                self._reference = self._stock.reference()
            threads = self._stock.runtime.threads
            timed = comparison.latency(
                self._reference, session, feed, threads, seconds=LATENCY_SECONDS
            )
        return timed.quantized_ms / timed.float_ms


def _run(session: Session, exam: Exam, bar: Sequence[float] | None) -> tuple[Evaluation, list[Any]]:
    """Score a model on the samples, as many as it takes."""
    evidence: list[Any] = []
    units = np.zeros(0)
    near: dict[str, Similarity] = {}
    samples, hopeless = 0, False
    for number, batch in enumerate(exam.batches):
        outputs = answers_of(session, batch.inputs)
        found = exam.evidence(number, outputs)
        evidence.extend(found)
        units = np.concatenate([units, exam.units(found)])
        samples += batch.samples
        for name, array in exam.references[number].items():
            both = nearness(array, outputs[name], batch.samples)
            near[name] = near.get(name, Similarity()) + both
        if bar is not None and samples < exam.samples:
            hopeless = exam.is_hopeless(units, np.array(bar), 0.0)
        if hopeless:
            break
    compared = [each for each in near.values() if each.samples]
    if not compared:
        raise ModelError("there is no output of numbers to compare")
    evaluation = Evaluation(
        score=checked_score(exam.metric, evidence, "quantized"),
        complete=not hopeless,
        samples=samples,
        units=tuple(units.tolist()),
        cosine=min(each.cosine for each in compared),
        sqnr=min(each.sqnr for each in compared),
    )
    return evaluation, evidence


def _names(stock: Stock) -> dict[str, str]:
    """Return what tensors are called in a model that may be rescaled, by what they were before."""
    there = [*stock.plan.activations, *stock.weights]
    names = {RENAMED.sub("", name): name for name in there}
    return names | {name: name for name in there}  # where both are there, it means the first


def _key(recipe: Recipe) -> str:
    """Return what models must have in common to be prepared alike: what rescales them."""
    rescaling = Recipe(
        equalize=recipe.equalize,
        equalize_clips=recipe.equalize_clips,
        smooth=recipe.smooth,
        smooth_insert=recipe.smooth_insert,
    )
    return dumps(rescaling)


def as_dict(found: Evaluation) -> dict[str, Any]:
    """Return an evaluation as plain values; numbers may be NaN or infinite."""
    return {name: getattr(found, name) for name in found.__dataclass_fields__}


def from_dict(content: Mapping[str, Any]) -> Evaluation:
    """Return an evaluation from what `as_dict` gave."""
    plain = {name: content[name] for name in Evaluation.__dataclass_fields__ if name in content}
    return Evaluation(**{**plain, "units": tuple(content["units"])})
