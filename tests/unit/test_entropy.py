from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxq.numerics.divergence import divergences
from onnxq.ranges.entropy import Entropy
from onnxq.ranges.minmax import MinMax
from onnxq.testing import statistics
from onnxq.types import Array, IntType, QuantSpec
from tests import oracles

INT8 = QuantSpec(dtype=IntType(8, signed=True), symmetric=True, range=MinMax())
UINT8 = QuantSpec(dtype=IntType(8, signed=False), symmetric=False, range=MinMax())
UINT16 = QuantSpec(dtype=IntType(16, signed=False), symmetric=False, range=MinMax())
COUNTS = hnp.arrays(np.int64, (2, 12), elements=st.integers(0, 5) | st.integers(0, 10**9))


def chosen(values: Array, spec: QuantSpec) -> tuple[float, float]:
    found = Entropy()(statistics(values.astype(np.float32), keep=4096), spec)
    return float(found.lo), float(found.hi)


@given(COUNTS, st.lists(st.tuples(*[st.integers(1, 12)] * 4), min_size=1, max_size=9))
def test_divergences_are_those_of_the_definition(
    counts: Array, asked: list[tuple[int, int, int, int]]
) -> None:
    counts[0, 0] += 1
    kept, codes = np.array(asked)[:, :2], np.array(asked)[:, 2:]
    found = divergences(counts, kept, codes)
    for i, (bins, levels) in enumerate(zip(kept, codes, strict=True)):
        sides = [side_by_loop(*side) for side in zip(counts, bins, levels, strict=True)]
        p, q = (np.concatenate(parts) for parts in zip(*sides, strict=True))
        assert found[i] == pytest.approx(oracles.divergence(p, q), rel=1e-6, abs=1e-9)


def side_by_loop(counts: Array, kept: int, codes: int) -> tuple[Array, Array]:
    p, q = counts[:kept].astype(np.float64), np.zeros(kept)
    p[-1] += counts[kept:].sum()
    for code in range(codes):
        bins = [j for j in range(kept) if j * codes // kept == code and counts[j]]
        for j in bins:
            q[j] = counts[bins].sum() / len(bins)
    return p, q


def test_a_uniform_tensor_keeps_its_range() -> None:
    assert chosen(np.linspace(-3, 5, 100_001), UINT8) == (-3, 5)
    assert chosen(np.linspace(-3, 5, 100_001), INT8) == (-3, 5)
    assert chosen(np.linspace(0, 5, 100_001), UINT8) == (0, 5)


def test_a_heavy_tail_is_clipped_at_its_own_end() -> None:
    rng = np.random.default_rng(0)
    light, heavy = -np.abs(rng.normal(size=100_000)), np.abs(rng.standard_t(3, size=100_000))
    values = np.concatenate([light, heavy])
    lo, hi = chosen(values, UINT8)
    assert 0.8 * values.min() > lo >= values.min()
    assert 3 < hi < 0.5 * values.max()
    lo, hi = chosen(-values, UINT8)
    assert 0.8 * -values.min() < hi <= -values.min()
    assert 3 < -lo < 0.5 * values.max()


def test_zeros_say_nothing() -> None:
    values = np.random.default_rng(0).laplace(size=50_000)
    with_zeros = np.concatenate([values, np.zeros(10**6)])
    for spec in (INT8, UINT8):
        assert chosen(values, spec) == chosen(with_zeros, spec)


def test_without_ends_the_limit_is_near() -> None:
    stats = statistics(np.random.default_rng(0).laplace(size=200_000), keep=4096)
    exact = Entropy()(stats, INT8)
    spread = Entropy()(replace(stats, ends=()), INT8)
    assert float(spread.hi) == pytest.approx(float(exact.hi), rel=0.15)


def test_more_codes_than_bins_is_minmax() -> None:
    values = np.random.default_rng(0).standard_t(3, size=5000).astype(np.float32)
    assert chosen(values, UINT16) == (values.min(), values.max())


def test_codes_are_shared_out_in_proportion() -> None:
    values = np.random.default_rng(0).normal(size=100_000)
    values = np.where(values < 0, values / 100, values)  # two codes at the lower end
    lo, hi = chosen(values, UINT8)
    assert values.min() <= lo < 0
    assert 3 < hi <= values.max()
