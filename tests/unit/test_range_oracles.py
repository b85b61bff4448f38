"""Ranges from one table against exact two-pass answers: drawn values, a real model's activations.

The divergence of a histogram is nearly flat around its least value, and jumps with the single
values in its tail, so that two limits many steps apart can be equally good. `entropy` therefore
passes where its limit is within one int8 step of the oracle's, or diverges at most 2 % more on
the exact histogram; and nine in ten must be within the step.
"""

from collections.abc import Iterator
from functools import cache, reduce
from pathlib import Path

import numpy as np
import pytest

from onnxq import collect
from onnxq.graph import io
from onnxq.graph.session import Runtime
from onnxq.numerics.ends import Ends, ends
from onnxq.passes.prepare import prepare
from onnxq.plan import observable
from onnxq.ranges.entropy import Entropy
from onnxq.ranges.minmax import MinMax
from onnxq.ranges.mse import Mse
from onnxq.ranges.percentile import Percentile
from onnxq.targets import target
from onnxq.testing import statistics
from onnxq.types import Array, IntType, QuantSpec, RangeAlgorithm, TensorStats
from tests import oracles
from tests.strategies import KINDS, Drawn

SAMPLE = Path(__file__).parents[2] / "sample_models" / "fashion_resnet"
INT8 = QuantSpec(dtype=IntType(8, signed=True), symmetric=True, range=MinMax())
UINT8 = QuantSpec(dtype=IntType(8, signed=False), symmetric=False, range=MinMax())
SPECS = pytest.mark.parametrize("spec", [INT8, UINT8], ids=["int8", "uint8"])
LAYERS = range(12)
NAMES = [*KINDS, *(f"activation {index}" for index in LAYERS)]
TENSORS = pytest.mark.parametrize("name", NAMES)


@cache
def activations() -> tuple[Array, ...]:
    model = io.load(SAMPLE / "model.onnx")
    prepare(model)
    tensors = observable(model, target("cpu"))
    session = collect.observer(model, tensors, Runtime())
    with np.load(SAMPLE / "calib.npz") as data:
        feed = {port.name: data[port.name][:32] for port in session.inputs}
    found = dict(feed)
    found.update(zip(session.outputs, session.run(feed), strict=True))
    return tuple(np.asarray(found[name], np.float32).reshape(-1) for name in tensors)


@cache
def values_of(name: str) -> Array:
    if name in KINDS:
        return Drawn(kind=name, seed=1, size=50_000, exponent=0).values()
    return activations()[int(name.split()[1])]


@cache
def seen(name: str) -> TensorStats:
    return statistics(values_of(name), keep=4096)


def chosen(algorithm: RangeAlgorithm, name: str, spec: QuantSpec) -> tuple[float, float]:
    found = algorithm(seen(name), spec)
    return float(found.lo), float(found.hi)


def test_the_activations_are_all_there() -> None:
    assert len(activations()) == len(LAYERS)


@SPECS
@TENSORS
def test_percentile_is_within_a_500th(name: str, spec: QuantSpec) -> None:
    for share in (99, 99.9, 99.99):
        found = chosen(Percentile(percentile=share), name, spec)
        expected = oracles.percentile(values_of(name), share, symmetric=spec.symmetric)
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=0)


@SPECS
@TENSORS
def test_mse_is_within_a_hundredth_of_a_decibel(name: str, spec: QuantSpec) -> None:
    values = values_of(name).astype(np.float64)
    dtype, symmetric = spec.dtype, spec.symmetric
    found = oracles.squared_error(values, *chosen(Mse(), name, spec), dtype, symmetric=symmetric)
    least = oracles.least_squared_error(values, dtype, symmetric=symmetric)
    assert 10 * np.log10(found / least) <= 0.01


def entropy_cases() -> Iterator[tuple[str, QuantSpec, int]]:
    for name in NAMES:
        yield name, INT8, 128
        if values_of(name).min() >= 0:
            yield name, UINT8, 256


def test_entropy_is_within_a_step_or_as_good() -> None:
    within = []
    for name, spec, codes in entropy_cases():
        values = values_of(name)
        by_kept = oracles.divergences(values, codes)
        least = min(by_kept.values())
        best = max(kept for kept, found in by_kept.items() if found <= least + 1e-12)
        limit = max(map(abs, chosen(Entropy(), name, spec)))
        kept = round(2048 * limit / float(np.abs(values).max()))
        within.append(abs(kept - best) <= best / (codes - 1))
        assert within[-1] or by_kept[kept] <= 1.02 * least, (name, spec.dtype.name, kept, best)
    assert np.mean(within) >= 0.9


@TENSORS
def test_ends_are_exact(name: str) -> None:
    values, keep = values_of(name), 4096
    merged = reduce(Ends.merge, (ends(part, (), keep)[0] for part in np.array_split(values, 7)))
    assert merged.largest.tolist() == oracles.largest(values, keep)
    assert (-merged.smallest).tolist() == oracles.largest(-values, keep)
    assert (merged.above, merged.below) == ((values > 0).sum(), (values < 0).sum())
