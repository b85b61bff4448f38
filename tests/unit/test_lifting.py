"""Bounds, what lifting asks for, and what it costs."""

import math

import numpy as np
import pytest

from onnxq.errors import UnsupportedError, UsageError
from onnxq.graph.io import from_proto
from onnxq.graph.session import Runtime
from onnxq.graph.summary import multiply_adds, observed_types
from onnxq.plan import resolve
from onnxq.recipe import NodeRule, Recipe
from onnxq.search.costs import PER_VALUE, Cost, costs
from onnxq.search.lifting import Bounds, Lifting, lifted_dtype
from onnxq.search.trials import Measured
from onnxq.targets import target
from tests.graphs import build

NET = """g (float[N, T, 32] x, int64[N] n) => (float[N, T, 16] y) {
    a = MatMul(x, w)
    r = Relu(a)
    y = MatMul(r, v)
}"""
WEIGHTS = {"w": (32, 64), "v": (64, 16)}
FEED = {"x": np.zeros((1, 5, 32), np.float32), "n": np.zeros(1, np.int64)}


def found(cosine: float = 1.0, drop: float = math.nan) -> Measured:
    return Measured(cosine=cosine, sqnr=20.0, drop=drop)


@pytest.mark.parametrize(
    ("bounds", "measured", "holds", "strain"),
    [
        (Bounds(min_cosine=0.99), found(0.99), True, 1.0),
        (Bounds(min_cosine=0.99), found(0.98), False, 2.0),
        (Bounds(max_drop=0.01), found(0.5, 0.03), False, 3.0),
        (Bounds(max_drop=0.01), found(0.5, -0.01), True, -1.0),
        (Bounds(min_cosine=0.99, max_drop=0.01), found(0.995, 0.03), False, 3.0),
        (Bounds(min_cosine=0.99, max_drop=0.01), found(0.96, 0.0), False, 4.0),
        (Bounds(min_cosine=0.99), found(math.nan), False, math.inf),
        (Bounds(max_drop=0.0), found(1.0, 0.0), True, 0.0),
    ],
)
def test_bounds(bounds: Bounds, measured: Measured, holds: bool, strain: float) -> None:
    assert bounds.hold(measured) is holds
    assert bounds.strain(measured) == pytest.approx(strain)


def test_what_means_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="a bound is needed"):
        Bounds()
    with pytest.raises(UsageError, match="write float or 16bit"):
        Lifting(bounds=Bounds(min_cosine=0.9), how="bf16")
    with pytest.raises(UsageError, match="give both"):
        Lifting(bounds=Bounds(min_cosine=0.9), how=None, best_effort=True)


@pytest.mark.parametrize(
    ("name", "asked", "wanted"),
    [
        ("generic", "int8", "int16"),
        ("generic", "uint8", "uint16"),
        ("qnn", "uint8", "uint16"),
        ("fixed-point", "int8", "int16"),
    ],
)
def test_16_bits_keep_the_sign(name: str, asked: str, wanted: str) -> None:
    assert lifted_dtype(target(name), "16bit", asked) == wanted


def test_a_target_without_16_bits_refuses_them() -> None:
    with pytest.raises(UnsupportedError, match="--fallback float"):
        lifted_dtype(target("cpu"), "16bit", "uint8")
    assert lifted_dtype(target("cpu"), "float", "uint8") is None


def test_open_shapes_are_what_a_sample_shows() -> None:
    model = from_proto(build(NET, WEIGHTS))
    types = observed_types(model, ["r"], FEED, Runtime())
    assert types["r"].shape == (1, 5, 64)
    assert multiply_adds(model, types) == {"MatMul(a)": 5 * 32 * 64, "MatMul(y)": 5 * 64 * 16}


def test_costs_count_what_is_integer_and_not_lifted() -> None:
    model = from_proto(build(NET, WEIGHTS))
    rule = NodeRule(name=r"^MatMul\(y\)$", quantize=False)
    plain = resolve(model, target("cpu"), Recipe())
    fewer = resolve(model, target("cpu"), Recipe(rules=(rule,)))
    counted = costs(model, plain, FEED, Runtime())
    assert counted.of("MatMul(a)") == Cost(macs=10240, values=320, weight_bytes=4 * 32 * 64)
    assert counted.of("MatMul(a)").work == 10240 + PER_VALUE * 320
    assert counted.macs == counted.integer(plain) == 10240 + 5120
    assert counted.integer(fewer) == counted.integer(plain, frozenset({"MatMul(y)"})) == 10240
    assert counted.share(5120) == pytest.approx(1 / 3)
