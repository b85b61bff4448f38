"""Candidates put together from what is known are those of a draft, bit by bit, in any order."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxq import parameters
from onnxq.drafting import draft
from onnxq.errors import NothingToQuantizeError, UsageError
from onnxq.graph.session import Session
from onnxq.numerics.affine import fake_quantize
from onnxq.numerics.bias import LARGEST
from onnxq.observing import completed
from onnxq.recipe import NodeRule, Recipe, TensorRule
from onnxq.search import means as means_module
from onnxq.search import stock as stock_module
from onnxq.search.emission import Emission
from onnxq.search.space import FACTORS, Gene
from onnxq.search.stock import Stock
from onnxq.sources import batches_of
from onnxq.types import Array
from tests.graphs import build, feed_for, initializers, run, sized
from tests.networks import networks
from tests.worlds import (
    RESIDUAL,
    RUNTIME,
    SAMPLE,
    USUAL,
    WEIGHTS,
    World,
    eager_cpu,
    fashion_world,
    random_data,
    world,
)

TARGETS = ("cpu", "cpu", "generic", "fixed-point", "qnn", "openvino", "tensorrt", "crossbar")
FEED = {"x": np.random.default_rng(0).normal(size=(64, 3, 8, 8)).astype(np.float32)}


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, type) or isinstance(found, type):
        assert found == expected
        return
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The cpu target, but that small layers are worth it."""
    return eager_cpu(tmp_path_factory.mktemp("targets"))


@pytest.fixture(autouse=True, scope="module")
def _few_moulds() -> Iterator[None]:
    """Make all strategies that are not alike break each other's moulds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stock_module, "MOULDS", 2)
        yield


@settings(max_examples=max(15, settings().max_examples // 2))
@given(
    networks(),
    st.sampled_from(TARGETS),
    st.sampled_from([("ranges", "repairs"), USUAL, FACTORS]),
    st.integers(0, 10**6),
)
def test_networks(
    eager: str, proto: onnx.ModelProto, on: str, factors: tuple[str, ...], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(proto, path)
        base = sized(Recipe(target=eager if on == "cpu" else on), on)
        try:
            made = world(path, random_data(), base, factors)
        except (NothingToQuantizeError, UsageError):
            return
        drawn, feed = made.drawn(rng, 3), feed_for(proto, seed)
        for genes in (*drawn, drawn[1]):
            try:
                assert_same(*made.outcomes(genes, feed))
            except NothingToQuantizeError:
                assert made.laboratory.space.of_kind("node"), "all of them are lifted"


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("residual") / "model.onnx"
    onnx.save(build(RESIDUAL, WEIGHTS), path)
    return path


@pytest.mark.parametrize("on", ["cpu", "fixed-point", "crossbar"])
@pytest.mark.parametrize(
    "more",
    [
        Recipe(),
        Recipe(bias_correction="empirical"),
        Recipe(correct_bias=False, equalize=True),
        Recipe(rules=(NodeRule(op="Gemm", quantize=False),)),
        Recipe(reconstruct=True),
        Recipe(fit_ranges=True),
    ],
    ids=["plain", "empirical", "equalized", "rule", "reconstructed", "fitted"],
)
def test_recipes(eager: str, residual: Path, on: str, more: Recipe) -> None:
    base = sized(Recipe(target=eager if on == "cpu" else on).over(more), on)
    made = world(residual, random_data(), base)
    for genes in made.drawn(np.random.default_rng(1), 3):
        assert_same(*made.outcomes(genes, FEED))


def test_what_rounds_like_the_chip_rounds_like_it_from_stock(residual: Path) -> None:
    base = Recipe(target="fixed-point", rounding="half-up", positions="chip")
    made = world(residual, random_data(), base)
    for genes in made.drawn(np.random.default_rng(2), 4):
        assert_same(*made.outcomes(genes, FEED))


@pytest.mark.parametrize("on", ["cpu", "generic", "fixed-point"])
@pytest.mark.parametrize("factors", [("symmetric", "granularity"), ("ranges", "widths")], ids=str)
def test_moulds_differ_with_types_and_tiles(
    eager: str,
    tmp_path: Path,
    on: str,
    factors: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At an operator set that needs no raising, whatever the choice."""
    path = tmp_path / "model.onnx"
    onnx.save(build(RESIDUAL, WEIGHTS, opset=21, ir=10), path)
    made = world(path, random_data(), Recipe(target=eager if on == "cpu" else on), factors)
    drawn = list(dict.fromkeys(made.drawn(np.random.default_rng(4), 6)))
    kept = {genes: made.outcomes(genes, FEED) for genes in drawn}

    def forbidden(*_: Any) -> None:
        raise AssertionError("a candidate is made from the beginning")

    monkeypatch.setattr(Stock, "_drafted", forbidden)
    for genes in (*drawn, *drawn[::-1]):
        found, expected = kept[genes]
        assert_same(found, expected)
        assert_same(made.laboratory.made(genes).session.run(FEED), expected)
    moulds = 1 if on == "cpu" and "widths" in factors else stock_module.MOULDS
    assert len(made.laboratory.stock(drawn[0])._forms) == moulds


@pytest.mark.parametrize("on", ["cpu", "fixed-point", "crossbar"])
def test_only_constants_are_exchanged(
    eager: str, residual: Path, on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    four = TensorRule(dtype="int4")
    base = sized(Recipe(target=eager if on == "cpu" else on, correct_bias=True, weights=four), on)
    if on == "fixed-point":
        base = replace(base, activations=four)  # where ranges make a difference
    made = world(residual, random_data(), base, ("samples", "ranges"))
    drawn = made.drawn(np.random.default_rng(3), 4)
    expected = []
    for genes in drawn:
        recipe, groups = made.laboratory.resolved(genes), made.laboratory.space.groups(genes)
        with made.drafted(recipe, groups) as session:
            expected.append(session.run(FEED))
    assert len({answer.tobytes() for (answer,) in expected}) >= 3

    def forbidden(*_: Any) -> None:
        raise AssertionError("a candidate is made from the beginning")

    monkeypatch.setattr(Stock, "_drafted", forbidden)
    for genes, answer in zip(drawn, expected, strict=True):
        assert_same(made.laboratory.made(genes).session.run(FEED), answer)
        monkeypatch.setattr(Stock, "_form", forbidden)  # one mould serves all


def test_nodes_that_share_a_constant_may_want_it_differently(eager: str, tmp_path: Path) -> None:
    """A bias just fits, and with a smaller range of what its node reads it does no more."""
    text = """g (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y, float[N, 4, 6, 6] z) {
        r = Relu(x)
        y = Conv(r, w, b)
        z = Conv(x, w, c)
    }"""
    weights = {"w": np.random.default_rng(0).normal(size=(4, 4, 1, 1)).astype(np.float32)}
    path, base = tmp_path / "model.onnx", Recipe(target=eager, correct_bias=False)
    largest = np.zeros(4, np.float32)
    for size in (0.0, 0.999):
        bias = {"b": (size * largest).astype(np.float32), "c": np.ones(4, np.float32)}
        onnx.save(build(text, {**weights, **bias}), path)
        made = world(path, random_data(), base, ("ranges",))
        plain = draft(path, made.table, base, runtime=RUNTIME)
        scales = plain.activations["r"].scale * plain.weights["y", 1].scale.reshape(-1)
        largest = LARGEST * scales
    names = [gene.name for gene in made.laboratory.space.genes]
    differs, feed = [], feed_for(onnx.load(path))
    for value in range(made.counts[names.index("r")]):
        genes = tuple(value if name == "r" else 0 for name in names)
        stock, recipe = made.laboratory.stock(genes), made.laboratory.resolved(genes)
        differs.append(stock._cast(stock.planned(recipe), None) is None)
        assert_same(*made.outcomes(genes, feed))
    assert differs[0] is False
    assert any(differs)


# --- a whole model


@pytest.fixture(scope="module")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> World:
    return fashion_world(tmp_path_factory.mktemp("fashion"))


@pytest.fixture(scope="module")
def feed(fashion: World) -> dict[str, Array]:
    session = Session(SAMPLE, RUNTIME)
    return next(iter(batches_of(fashion.source, session))).inputs


@pytest.fixture(scope="module")
def answers(fashion: World, feed: dict[str, Array]) -> dict[tuple[int, ...], Any]:
    """Return what some strategies answer, drafted."""
    found = {}
    for genes in fashion.drawn(np.random.default_rng(5), 5):
        recipe, groups = fashion.laboratory.resolved(genes), fashion.laboratory.space.groups(genes)
        with fashion.drafted(recipe, groups) as session:
            found[genes] = session.run(feed)
    assert len({answer[0].tobytes() for answer in found.values()}) == len(found)
    return found


def shuffled(strategies: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return strategies in an order drawn anew every time."""
    return list(map(tuple, np.random.default_rng().permutation(strategies).tolist()))


def test_a_whole_model_twice_in_any_order(
    fashion: World,
    feed: dict[str, Array],
    answers: dict[tuple[int, ...], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for genes in shuffled(list(answers)):
        assert_same(fashion.laboratory.made(genes).session.run(feed), answers[genes])

    def forbidden(*_: Any) -> None:
        raise AssertionError("something is computed again")

    for name in ("_fresh", "_moved", "_drafted", "rescaled"):
        monkeypatch.setattr(Stock, name, forbidden)
    monkeypatch.setattr(means_module, "means_of", forbidden)
    monkeypatch.setattr(stock_module, "pair_values", forbidden)
    monkeypatch.setattr(parameters, "params_of", forbidden)
    for genes in shuffled(list(answers)):
        assert_same(fashion.laboratory.made(genes).session.run(feed), answers[genes])
        assert len(fashion.laboratory.stock(genes)._forms) <= stock_module.MOULDS


def test_means_are_observed_at_once(
    eager: str, residual: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the recipe alone those it needs, then those of all options."""
    passes: list[int] = []
    real = means_module.means_of

    def counted(model: Any, wanted: Any, *rest: Any) -> Any:
        passes.append(sum(map(len, wanted.values())))
        return real(model, wanted, *rest)

    monkeypatch.setattr(means_module, "means_of", counted)
    made = world(residual, random_data(), Recipe(target=eager), ("ranges",))
    for genes in made.drawn(np.random.default_rng(0), 6):
        assert made.laboratory.made(genes)
    assert len(passes) == 2
    assert passes[0] < passes[1]


def test_several_at_once(
    fashion: World, feed: dict[str, Array], answers: dict[tuple[int, ...], Any]
) -> None:
    wanted = shuffled(3 * list(answers))
    with ThreadPoolExecutor(4) as pool:
        made = pool.map(lambda genes: fashion.laboratory.made(genes).session.run(feed), wanted)
        for genes, found in zip(wanted, made, strict=True):
            assert_same(found, answers[genes])


def test_what_was_run_is_the_file(fashion: World, tmp_path: Path) -> None:
    """Node by node and constant by constant, in order; what it says of itself is the file's."""
    names = [gene.name for gene in fashion.laboratory.space.genes]
    for value in range(4):
        genes = tuple(value * (name == "rescale") for name in names)
        recipe, stock = fashion.laboratory.resolved(genes), fashion.laboratory.stock(genes)
        cast: list[onnx.ModelProto] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stock_module, "Session", lambda proto, _, cast=cast: cast.append(proto))
            stock.made(recipe)
        table = completed(SAMPLE, fashion.table, recipe, fashion.source, RUNTIME)
        Emission.of(draft(SAMPLE, table, recipe, runtime=RUNTIME), tmp_path / "model.onnx")
        written = onnx.load(tmp_path / "model.onnx").graph
        assert list(cast[0].graph.node) == list(written.node)
        assert (
            initializers(cast[0]).keys() == initializers(onnx.load(tmp_path / "model.onnx")).keys()
        )


def disturbed(made: World, gene: Gene) -> Array:
    stock = made.laboratory.stock((0,) * len(made.counts))
    specs = [option.spec for option in gene.options if option.spec is not None]
    return stock.disturbances(gene.name, specs, place=gene.place)


def test_disturbances_are_noise_over_signal(fashion: World) -> None:
    """Of weights exactly; of activations about, from the histogram of what was seen."""
    space = fashion.laboratory.space
    floats = initializers(onnx.load(SAMPLE))
    numbers = [*space.of_kind("activation")[1:3], *space.of_kind("weight")[:2]]
    session = Session(SAMPLE, RUNTIME)
    batches = list(batches_of(fashion.source, session))
    (name,) = batches[0].inputs
    inputs = {name: np.concatenate([batch.inputs[name] for batch in batches])}
    inside = [space.genes[n].name for n in numbers[:2]]
    seen = dict(zip(inside, run(onnx.load(SAMPLE), inputs, names=inside), strict=True))
    for number in numbers:
        gene, expected = space.genes[number], []
        values = {**floats, **seen}[gene.name].astype(np.float64)
        for value in range(0, len(gene.options), 3):
            genes = tuple(value if n == number else 0 for n in range(len(fashion.counts)))
            recipe = fashion.laboratory.resolved(genes)
            made = draft(SAMPLE, fashion.table, recipe, runtime=RUNTIME)
            params = made.weights[gene.place] if gene.place else made.activations[gene.name]
            after = fake_quantize(values, params)
            expected.append(np.square(after - values).sum() / np.square(values).sum())
        near = 1e-6 if gene.place else 0.05
        np.testing.assert_allclose(disturbed(fashion, gene)[::3], expected, rtol=near)
