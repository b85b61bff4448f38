"""Trying a strategy: the same twice, no longer than it takes, and without falling over."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxq.drafting import draft
from onnxq.errors import OnnxqError
from onnxq.graph.session import Session
from onnxq.metrics.answers import Metric
from onnxq.metrics.classification import Classification
from onnxq.metrics.unlabelled import Cosine, Noise
from onnxq.recipe import NodeRule, Recipe, TensorRule
from onnxq.search.emission import Emission
from onnxq.search.exam import Exam, examined, shuffled
from onnxq.search.laboratory import (
    Evaluation,
    Laboratory,
    as_dict,
    from_dict,
)
from onnxq.search.trials import measured
from onnxq.sources import batches_of
from tests.graphs import build
from tests.worlds import (
    RESIDUAL,
    RUNTIME,
    SAMPLE,
    WEIGHTS,
    World,
    eager_cpu,
    fashion_world,
    random_data,
    world,
)

METRICS = [Noise(), Cosine(), Classification(k=2)]


@dataclass(frozen=True, kw_only=True)
class Batchwise:
    """A metric with neither units nor a score a sample."""

    name: str = "batchwise"

    def evidence(self, answers: Any) -> list[Any]:
        (name,) = answers.reference
        return [(float(np.abs(answers.outputs[name] - answers.reference[name]).max()),)]

    def score(self, evidence: Any) -> float:
        return -float(np.max(evidence))


@pytest.fixture(scope="module")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> World:
    return fashion_world(tmp_path_factory.mktemp("fashion"), ("ranges", "widths", "repairs"))


def exam_of(made: World, metric: Metric) -> Exam:
    session = Session(made.model, RUNTIME)
    batches = list(batches_of(made.source, session))
    return examined(session, shuffled(batches, 0), metric)


def coarse(made: World) -> tuple[int, ...]:
    """Return a bad strategy: the fewest bits for all weights."""
    space = made.laboratory.space
    return tuple(len(gene.options) - 1 if gene.kind == "weight" else 0 for gene in space.genes)


def zeros(made: World) -> tuple[int, ...]:
    return (0,) * len(made.counts)


def untimed(found: Evaluation) -> dict[str, Any]:
    """Return what must be the same twice, as JSON has it."""
    return {**as_dict(found), "seconds": None, "latency": None}


@pytest.mark.parametrize("metric", [*METRICS, Batchwise()], ids=lambda metric: metric.name)
def test_the_same_strategy_is_the_same_twice(fashion: World, metric: Metric) -> None:
    exam = exam_of(fashion, metric)
    for genes in (zeros(fashion), coarse(fashion)):
        first = fashion.laboratory.evaluate(genes, exam)
        fashion.laboratory.evaluate(coarse(fashion), exam)
        again = fashion.laboratory.evaluate(genes, exam)
        assert untimed(first) == untimed(again)
        assert not first.error
        assert first.complete
        assert first.samples == exam.samples == 48


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_an_evaluation_is_what_the_file_would_score(fashion: World, metric: Metric) -> None:
    exam, genes = exam_of(fashion, metric), coarse(fashion)
    found = fashion.laboratory.evaluate(genes, exam)
    with fashion.drafted(fashion.laboratory.resolved(genes), None) as session:
        near = measured(exam, session, level=0.0)
    assert (found.score, found.cosine, found.sqnr) == (near.score, near.cosine, near.sqnr)
    assert found.noise == pytest.approx(10 ** (-near.sqnr / 10))
    assert found.bits == fashion.laboratory.space.bits(genes)
    assert len(found.units) == exam.samples
    assert math.isnan(found.latency)


def test_what_a_file_takes_is_its_size_but_for_metadata(fashion: World, tmp_path: Path) -> None:
    for genes in (zeros(fashion), coarse(fashion)):
        made = draft(SAMPLE, fashion.table, fashion.laboratory.resolved(genes), runtime=RUNTIME)
        Emission.of(made, tmp_path / "model.onnx")
        found = fashion.laboratory.evaluate(genes, exam_of(fashion, Noise()))
        assert found.bytes == pytest.approx((tmp_path / "model.onnx").stat().st_size, rel=1e-3)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_hopeless_strategy_is_given_up(fashion: World, metric: Metric) -> None:
    exam = exam_of(fashion, metric)
    best = (metric.best,) * exam.samples  # type: ignore[attr-defined]
    whole = fashion.laboratory.evaluate(coarse(fashion), exam)
    found = fashion.laboratory.evaluate(coarse(fashion), exam, bar=best)
    assert not found.complete
    assert found.samples < exam.samples
    assert found.units == whole.units[: len(found.units)]
    assert found.samples == len(found.units) == exam.batches[0].samples
    assert not found.error
    assert math.isfinite(found.score)
    assert found.bits == whole.bits


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_strategy_that_wins_is_seen_whole(fashion: World, metric: Metric) -> None:
    exam = exam_of(fashion, metric)
    found = fashion.laboratory.evaluate(coarse(fashion), exam)
    easy = tuple(each - 0.01 for each in found.units)
    again = fashion.laboratory.evaluate(coarse(fashion), exam, bar=easy)
    assert untimed(again) == untimed(found)
    better = fashion.laboratory.evaluate(zeros(fashion), exam, bar=found.units)
    assert better.complete
    assert better.score > found.score


def test_all_samples_seen_are_all_samples_seen(fashion: World) -> None:
    """Even of a strategy that is no better in the end."""
    exam = exam_of(fashion, Noise())
    found = fashion.laboratory.evaluate(coarse(fashion), exam)
    assert fashion.laboratory.evaluate(coarse(fashion), exam, bar=found.units).complete


def test_the_worst_output_counts(tmp_path: Path) -> None:
    text = """g (float[N, 8] x) => (float[N, 8] y, float[N, 8] z) {
        y = MatMul(x, w)
        z = MatMul(x, v)
    }"""
    path = tmp_path / "model.onnx"
    onnx.save(build(text, {"w": (8, 8), "v": (8, 8)}), path)
    both = {}
    for bits in ("int2", "int8"):
        rule = NodeRule(name=r"\(z\)", weights=TensorRule(dtype=bits))
        base = Recipe(target=eager_cpu(tmp_path), rules=(rule,))
        made = world(path, random_data(), base, ("ranges",))
        both[bits] = made.laboratory.evaluate(zeros(made), exam_of(made, Noise()))
    assert both["int2"].cosine < both["int8"].cosine - 0.01
    assert both["int2"].sqnr < both["int8"].sqnr - 6
    assert both["int2"].score == pytest.approx(-(10 ** (-both["int2"].sqnr / 10)))


def test_latency_is_measured_of_what_is_complete(fashion: World) -> None:
    exam = exam_of(fashion, Noise())
    assert fashion.laboratory.evaluate(zeros(fashion), exam, timed=True).latency > 0
    bar = (0.0,) * exam.samples
    dropped = fashion.laboratory.evaluate(coarse(fashion), exam, bar=bar, timed=True)
    assert math.isnan(dropped.latency)


def test_a_strategy_that_fails_says_why(fashion: World) -> None:
    exam = exam_of(fashion, Noise())
    blind = Laboratory(fashion.laboratory.space, fashion.laboratory.stock(zeros(fashion)))
    names = [gene.name for gene in blind.space.genes]
    genes = tuple(int(name == "rescale") for name in names)
    assert fashion.laboratory.evaluate(genes, exam).complete
    found = blind.evaluate(genes, exam)
    assert "lacks tensor" in found.error
    assert not found.complete
    assert math.isnan(found.score)
    assert (found.samples, found.units) == (0, ())
    assert found.bits == blind.space.bits(genes)
    assert not blind.evaluate(zeros(fashion), exam).error, "the others can be tried nevertheless"
    with pytest.raises(OnnxqError, match="lacks tensor"):
        blind.made(genes)


def test_a_metric_that_fails_fails_the_strategy(fashion: World) -> None:
    class Odd(Batchwise):
        def score(self, evidence: Any) -> float:
            del evidence
            return math.nan

    found = fashion.laboratory.evaluate(zeros(fashion), exam_of(fashion, Odd()))
    assert found.error
    assert not found.complete


def test_models_are_prepared_once_for_all_that_rescale_alike(fashion: World) -> None:
    laboratory = fashion.laboratory
    names = [gene.name for gene in laboratory.space.genes]
    rescale = names.index("rescale")

    def strategy(value: int, others: int = 0) -> tuple[int, ...]:
        return tuple(value if n == rescale else others for n in range(len(names)))

    assert laboratory.stock(strategy(0)) is laboratory.stock(strategy(0, 1))
    assert laboratory.stock(strategy(1)) is laboratory.stock(strategy(1, 1))
    assert len({id(laboratory.stock(strategy(value))) for value in range(4)}) == 4


@pytest.fixture(scope="module")
def unnamed(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A model whose nodes have no names: they are called by what they write."""
    folder = tmp_path_factory.mktemp("unnamed")
    onnx.save(build(RESIDUAL, WEIGHTS), folder / "model.onnx")
    base = Recipe(target=eager_cpu(folder))
    return world(folder / "model.onnx", random_data(), base, ("repairs", "float", "ranges"))


def test_rescaled_tensors_and_nodes_are_called_by_their_new_names(unnamed: World) -> None:
    space, exam = unnamed.laboratory.space, exam_of(unnamed, Noise())
    chosen = {"rescale": 1, "Conv(a)": 1, "x": 1, "r": 2, "w2": 1}
    assert set(chosen) <= {gene.name for gene in space.genes}
    for left_out in chosen:
        genes = tuple(
            chosen.get(gene.name, 0) if gene.name != left_out else 0 for gene in space.genes
        )
        recipe = unnamed.laboratory.resolved(genes)
        stock = unnamed.laboratory.stock(genes)
        assert ("r" in stock.plan.activations) == ("w2" in stock.weights) == (left_out == "rescale")
        known = {*stock.plan.activations, *stock.weights}
        assert set(recipe.tensors) <= known
        plan = unnamed.laboratory.made(genes).plan
        floats = [n for n in plan.nodes.values() if n.op == "Conv" and not n.quantized]
        assert len(floats) == (left_out != "Conv(a)")
        assert all(node.label.startswith("Conv(a") for node in floats)
        (second,) = (n for n in plan.nodes.values() if n.label.startswith("Conv(c"))
        asked = next(gene for gene in space.genes if gene.name == "w2").options
        spec = asked[0 if left_out == "w2" else 1].spec
        assert spec is not None
        assert second.weights[0].spec.range == spec.range
        found = unnamed.laboratory.evaluate(genes, exam)
        assert found.complete, found.error


def test_a_strategy_that_leaves_nothing_to_quantize_fails(unnamed: World) -> None:
    genes = tuple(int(gene.kind == "node") for gene in unnamed.laboratory.space.genes)
    found = unnamed.laboratory.evaluate(genes, exam_of(unnamed, Noise()))
    assert "nothing to quantize" in found.error


@pytest.mark.parametrize("lifted", [False, True])
def test_nodes_that_would_stay_float_unasked_fail_the_strategy(
    unnamed: World, monkeypatch: pytest.MonkeyPatch, *, lifted: bool
) -> None:
    names = [gene.name for gene in unnamed.laboratory.space.genes]
    genes = tuple(int(lifted and name == "Conv(a)") for name in names)
    whole = unnamed.laboratory.made(genes)
    nodes = {k: replace(n, quantized=False) for k, n in whole.plan.nodes.items() if n.op == "Gemm"}
    fewer = replace(whole, plan=replace(whole.plan, nodes={**whole.plan.nodes, **nodes}))
    stock = unnamed.laboratory.stock(genes)
    monkeypatch.setattr(type(stock), "made", lambda *_: fewer)
    found = unnamed.laboratory.evaluate(genes, exam_of(unnamed, Noise()))
    assert found.error == "1 nodes would stay float, Gemm(y) is one"


def test_units_are_what_is_compared_sample_by_sample(fashion: World) -> None:
    for metric, count in ((Noise(), 3), (Cosine(), 3), (Batchwise(), 1)):
        exam = exam_of(fashion, metric)
        evidence = exam.evidence(0, exam.references[0])[:3]
        assert len(exam.units(evidence)) == count


EVALUATIONS = [
    Evaluation(),
    Evaluation(
        score=-0.25, complete=True, samples=3, units=(-0.5, 0.0), cosine=0.5, sqnr=6.0, bits=7,
        bytes=9, latency=0.5, seconds=1.5,
    ),
    Evaluation(error="it broke", bits=3),
    Evaluation(score=0.0, complete=True, samples=1, units=(0.0,), cosine=1.0, sqnr=math.inf),
]  # fmt: skip


@pytest.mark.parametrize("found", EVALUATIONS, ids=["nothing", "whole", "broken", "exact"])
def test_evaluations_survive_json(found: Evaluation) -> None:
    text = json.dumps(as_dict(found))
    assert repr(from_dict(json.loads(text))) == repr(found)
    assert repr(from_dict({"code": "x", **json.loads(text)})) == repr(found)
