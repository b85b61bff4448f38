import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.numerics.ends import Ends, ends
from onnxq.numerics.histogram import EMPTY
from onnxq.numerics.linear import centred, magnitudes, sides
from onnxq.numerics.observe import observe
from onnxq.types import Array
from tests import strategies
from tests.strategies import Drawn


def expected(values: Array, limit: float, bins: int) -> Array:
    counts: Array = np.histogram(values[values != 0], bins, (-limit, limit))[0]
    return counts


@given(strategies.drawn(), st.sampled_from([2, 64, 2048]))
def test_with_all_values_known_it_is_the_histogram(drawn: Drawn, bins: int) -> None:
    values = drawn.values().astype(np.float64)
    limit = float(np.abs(values).max()) or 1.0
    histogram, known = observe(values).histograms[0], ends(values)[0]
    found = magnitudes(histogram, limit, bins, known)
    np.testing.assert_array_equal(
        found, np.histogram(np.abs(values[values != 0]), bins, (0, limit))[0]
    )
    positive = np.histogram(values[values > 0], bins // 2, (0, limit))[0]
    np.testing.assert_array_equal(centred(histogram, limit, bins, known)[bins // 2 :], positive)


@given(strategies.drawn(), st.none() | st.integers(0, 100))
def test_no_value_is_lost_and_none_is_far_off(drawn: Drawn, keep: int | None) -> None:
    values = drawn.values()
    limit = float(np.abs(values).max()) or 1.0
    known = None if keep is None else ends(values, (), keep)[0]
    found = centred(observe(values).histograms[0], limit, 2048, known)
    exact = expected(values.astype(np.float64), limit, 2048)
    assert found.sum() == exact.sum()
    assert found.min() >= 0
    there, placed = (np.repeat(np.arange(2048), counts) for counts in (exact, found))
    assert np.abs(there - placed).max(initial=0) <= 3  # a float-bits bin is two wide at most


def test_it_is_centred_and_leaves_zeros_out() -> None:
    values = np.array([-4, -1, 0, 0, 0, 0.5, 2.5], np.float32)
    histogram, known = observe(values).histograms[0], ends(values)[0]
    np.testing.assert_array_equal(centred(histogram, 4.0, 8, known), [1, 0, 1, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(magnitudes(histogram, 4.0, 4, known), [1, 1, 1, 1])
    np.testing.assert_array_equal(
        sides(histogram, (4.0, 2.5), 5, known), [[0, 1, 0, 0, 1], [0, 1, 0, 0, 1]]
    )


@pytest.mark.parametrize("known", [None, ends(np.array([-4, 1, 3], np.float32))[0]])
def test_what_lies_beyond_the_limit_counts_into_the_last_bin(known: Ends | None) -> None:
    histogram = observe(np.array([-4, 1, 3], np.float32)).histograms[0]
    np.testing.assert_array_equal(sides(histogram, (2.0, 2.0), 2, known), [[0, 1], [0, 2]])


def test_nothing_gives_empty_bins() -> None:
    assert not magnitudes(EMPTY, 1.0, 4).any()
    assert not magnitudes(observe(np.zeros(3)).histograms[0], 0.0, 4).any()
