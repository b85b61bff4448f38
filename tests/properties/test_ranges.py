"""What every choice of a range keeps, on drawn and on odd data."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxq.numerics.errors import squared_errors
from onnxq.numerics.observe import observe
from onnxq.ranges.entropy import Entropy
from onnxq.ranges.minmax import MinMax
from onnxq.ranges.mse import Mse
from onnxq.ranges.outlier_var import OutlierVar
from onnxq.ranges.percentile import Percentile
from onnxq.testing import statistics
from onnxq.types import Array, IntType, QuantSpec, RangeAlgorithm
from tests import oracles, strategies
from tests.strategies import Drawn

INT8, UINT8 = IntType(8, signed=True), IntType(8, signed=False)
AFFINE = QuantSpec(dtype=UINT8, symmetric=False, range=MinMax())
SHARES = st.floats(50.1, 100) | st.sampled_from([99.0, 99.9, 99.99, 100.0])
ALGORITHMS = st.sampled_from(
    [MinMax(), Percentile(percentile=99), Percentile(), Mse(), Entropy(), OutlierVar(k1=0.2, k2=9)]
)
MIRRORED = [MinMax(), Percentile(percentile=99), OutlierVar(k1=0.1, k2=0.1, alpha=3, beta=3)]


def ends(algorithm: RangeAlgorithm, values: Array, spec: QuantSpec) -> tuple[float, float]:
    chosen = algorithm(statistics(values), spec)
    return float(chosen.lo), float(chosen.hi)


def test_percentile_of_one_to_a_hundred() -> None:
    values = np.arange(1, 101, dtype=np.float32)
    for share, expected in ((90, 90), (90.5, 91), (99, 99), (99.01, 100), (100, 100)):
        lo, hi = ends(Percentile(percentile=share), values, AFFINE)
        assert lo == 0
        assert hi == pytest.approx(expected, rel=2**-10)


@given(strategies.rows(), SHARES, SHARES, strategies.specs())
def test_percentile_is_monotone(values: Array, a: float, b: float, spec: QuantSpec) -> None:
    narrow = ends(Percentile(percentile=min(a, b)), values, spec)
    wide = ends(Percentile(percentile=max(a, b)), values, spec)
    assert wide[0] <= narrow[0] <= 0 <= narrow[1] <= wide[1]


@given(strategies.rows(), strategies.specs())
def test_percentile_100_is_minmax(values: Array, spec: QuantSpec) -> None:
    assert ends(Percentile(percentile=100), values, spec) == ends(MinMax(), values, spec)


@given(strategies.drawn(), SHARES, strategies.specs())
def test_percentile_is_near_that_of_the_values(drawn: Drawn, share: float, spec: QuantSpec) -> None:
    values = drawn.values()
    found = ends(Percentile(percentile=share), values, spec)
    expected = oracles.percentile(values, share, symmetric=spec.symmetric)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=0)


@given(hnp.arrays(np.float32, st.integers(1, 40), elements=strategies.ORDINARY), SHARES)
def test_percentile_is_near_on_odd_values(values: Array, share: float) -> None:
    found = ends(Percentile(percentile=share), values, AFFINE)
    expected = oracles.percentile(values, share, symmetric=False)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=strategies.TINY)


@given(strategies.rows(strategies.ORDINARY), strategies.specs())
def test_mse_is_no_worse_than_minmax_on_its_histogram(values: Array, spec: QuantSpec) -> None:
    stats = observe(values)
    lo, hi = ends(MinMax(), values, spec)
    if lo == hi:
        assert ends(Mse(), values, spec) == (0, 0)
        return
    points = stats.histograms[0].points()
    low, high = ends(Mse(), values, spec)
    assert lo <= low <= 0 <= high <= hi
    found, widest = squared_errors(points, np.array([low, lo]), np.array([high, hi]), spec)
    assert found <= widest


@given(strategies.drawn(least=500), strategies.specs(most=8))
def test_mse_is_near_the_best_on_the_values(drawn: Drawn, spec: QuantSpec) -> None:
    values = drawn.values().astype(np.float64)
    dtype, symmetric = spec.dtype, spec.symmetric
    lo, hi = ends(Mse(), drawn.values(), spec)
    widest = ends(MinMax(), drawn.values(), spec)
    found = oracles.squared_error(values, lo, hi, dtype, symmetric=symmetric)
    best = min(
        oracles.squared_error(values, f * widest[0], f * widest[1], dtype, symmetric=symmetric)
        for f in np.linspace(1, 0.1, 12)
    )
    assert found <= best * 1.05


@given(
    hnp.arrays(np.float32, st.integers(1, 40), elements=strategies.MODERATE),
    st.integers(-40, 40),
    ALGORITHMS,
    strategies.specs(),
)
def test_scaling_the_data_scales_the_range(
    values: Array, exponent: int, algorithm: RangeAlgorithm, spec: QuantSpec
) -> None:
    factor = np.float32(2.0**exponent)
    lo, hi = ends(algorithm, values, spec)
    assert ends(algorithm, values * factor, spec) == (lo * float(factor), hi * float(factor))


@given(strategies.rows(), ALGORITHMS, strategies.specs(), st.data())
def test_order_does_not_matter(
    values: Array, algorithm: RangeAlgorithm, spec: QuantSpec, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(values.size)))
    shuffled = values[np.array(order, np.intp)]
    assert ends(algorithm, values, spec) == ends(algorithm, shuffled, spec)


@given(strategies.drawn(), st.sampled_from(MIRRORED), st.booleans())
def test_mirrored_data_mirror_the_range(
    drawn: Drawn, algorithm: RangeAlgorithm, symmetric: bool
) -> None:
    spec = QuantSpec(dtype=INT8, symmetric=symmetric, range=MinMax())
    lo, hi = ends(algorithm, drawn.values(), spec)
    assert ends(algorithm, -drawn.values(), spec) == (-hi, -lo)
