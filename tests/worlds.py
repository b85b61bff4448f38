"""Models with all it takes to try strategies for them: a table in groups, a space, a laboratory."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

import onnxq
from onnxq.drafting import draft
from onnxq.errors import OnnxqError
from onnxq.graph.session import Runtime, Session
from onnxq.observing import completed
from onnxq.recipe import Recipe
from onnxq.search.laboratory import Laboratory
from onnxq.search.opening import space_of
from onnxq.search.stock import Stock
from onnxq.search.trials import emitted
from onnxq.table import CalibrationTable
from onnxq.types import Array

RUNTIME = Runtime(threads=1)
USUAL = ("samples", "ranges", "repairs", "widths")
SAMPLE = Path("sample_models/fashion_resnet/model.onnx").resolve()
RESIDUAL = """g (float[N, 3, 8, 8] x) => (float[N, 5] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r = Relu(a)
    c = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)
    s = Add(c, r)
    p = GlobalAveragePool(s)
    f = Flatten(p)
    y = Gemm <transB = 1> (f, w3, b3)
}"""
WEIGHTS = {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (6, 6, 3, 3), "b2": (6,), "w3": (5, 6), "b3": (5,)}


@dataclass(frozen=True)
class World:
    """A model, a table of it, and what tries strategies for it."""

    model: Path
    table: CalibrationTable
    source: onnxq.Source
    laboratory: Laboratory

    @property
    def counts(self) -> Array:
        return self.laboratory.space.counts

    def drawn(self, rng: np.random.Generator, count: int) -> list[tuple[int, ...]]:
        """Draw strategies; the first is the recipe alone."""
        size = count - 1, len(self.counts)
        return [(0,) * size[1], *map(tuple, rng.integers(self.counts, size=size).tolist())]

    @contextmanager
    def drafted(self, recipe: Recipe, groups: Sequence[int] | None) -> Iterator[Session]:
        """Quantize from the beginning, as `quantize` does."""
        table = self.table if groups is None else self.table.only(groups)
        table = completed(self.model, table, recipe, self.source, RUNTIME)
        with emitted(draft(self.model, table, recipe, runtime=RUNTIME), RUNTIME) as session:
            yield session

    def outcomes(self, genes: Sequence[int], feed: dict[str, Array]) -> tuple[Any, Any]:
        """Return what a strategy answers, or what kind of error it is: from stock, and drafted."""
        recipe = self.laboratory.resolved(genes)
        groups = self.laboratory.space.groups(genes)
        both: list[Any] = []
        try:
            both.append(self.laboratory.stock(genes).made(recipe, groups).session.run(feed))
        except OnnxqError as error:
            both.append(type(error))
        try:
            with self.drafted(recipe, groups) as session:
                both.append(session.run(feed))
        except OnnxqError as error:
            both.append(type(error))
        return both[0], both[1]


def world(
    model: Path,
    source: onnxq.Source,
    base: Recipe,
    factors: Sequence[str] = USUAL,
    *,
    groups: int = 2,
) -> World:
    collection = onnxq.Collection(groups=groups, workers=1, keep_samples=8)
    table = onnxq.calibrate(model, source, collection=collection, runtime=RUNTIME)
    table = completed(model, table, base, source, RUNTIME)
    stock = Stock(model, table, base, RUNTIME)
    space = space_of(stock.prepared, stock.plan, base, factors, range(groups))
    return World(model, table, source, Laboratory(space, stock, source))


def random_data(samples: int = 8) -> onnxq.Source:
    return onnxq.Source(data="random", cut=onnxq.Cut(samples=samples))


def eager_cpu(folder: Path) -> str:
    """Write the cpu target, but that small layers are worth it; return its path."""
    content = json.loads(files("onnxq.targets").joinpath("cpu.json").read_text())
    del content["worth"]
    path = folder / "eager.json"
    path.write_text(json.dumps(content))
    return str(path)


def fashion_world(folder: Path, factors: Sequence[str] = USUAL) -> World:
    """Return the world of a sample model, with some of its data."""
    path = folder / "data.npz"
    with np.load(SAMPLE.with_name("eval.npz")) as data:
        np.savez(path, **{name: data[name][:48] for name in data.files})
    source = onnxq.Source(data=str(path), cut=onnxq.Cut(batch_size=16))
    return world(SAMPLE, source, Recipe(target="cpu"), factors)
