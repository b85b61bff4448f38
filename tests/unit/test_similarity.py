"""Cosine, SQNR and largest difference, by hand and folded."""

import math

import numpy as np
import pytest

from onnxq.metrics.similarity import Similarity, similarity

RNG = np.random.default_rng(0)


def test_equal_outputs() -> None:
    y = RNG.normal(size=(4, 3, 2)).astype(np.float32)
    found = similarity(y, y)
    assert found.samples == 4
    assert found.cosine == pytest.approx(1)
    assert (found.sqnr, found.max_abs, found.unequal) == (math.inf, 0, 0)


def test_by_hand() -> None:
    found = similarity(np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[4.0, 3.0], [0.0, 1.0]]))
    assert found.cosine == pytest.approx((24 / 25 + 0) / 2)
    assert found.cosine_min == 0
    assert found.sqnr == pytest.approx(10 * math.log10(26 / 4))
    assert found.max_abs == 1


def test_opposite() -> None:
    assert similarity(np.array([[1.0, 2.0]]), np.array([[-1.0, -2.0]])).cosine == pytest.approx(-1)


@pytest.mark.parametrize(
    ("y", "z", "cosine", "sqnr"),
    [([0, 0], [0, 0], 1, math.inf), ([0, 0], [1, 0], 0, -math.inf), ([1, 0], [0, 0], 0, 0)],
)
def test_zero_vectors(y: list[float], z: list[float], cosine: float, sqnr: float) -> None:
    found = similarity(np.array([y], np.float32), np.array([z], np.float32))
    assert (found.cosine, found.sqnr) == (cosine, sqnr)


def test_a_cosine_never_exceeds_1() -> None:
    y = np.full((1000, 3), 0.1, np.float32)
    assert similarity(y, y * np.float32(3)).cosine_sum <= 1000


@pytest.mark.parametrize("odd", [np.nan, -np.inf, np.inf])
def test_odd_values_on_both_sides_are_left_out(odd: float) -> None:
    found = similarity(np.array([[odd, 1.0]]), np.array([[odd, 1.0]]))
    assert (found.cosine, found.unequal, found.max_abs) == (1, 0, 0)


@pytest.mark.parametrize(
    ("y", "z"), [(np.nan, 1.0), (1.0, np.nan), (np.inf, -np.inf), (np.nan, np.inf), (2.0, np.inf)]
)
def test_odd_values_on_one_side_count_as_unlike(y: float, z: float) -> None:
    found = similarity(np.array([[y, 1.0], [1.0, 1.0]]), np.array([[z, 1.0], [1.0, 1.0]]))
    assert found.unequal == 1
    assert found.cosine == pytest.approx(0.5)
    assert found.cosine_min == 0


@pytest.mark.parametrize("odd", [np.nan, -np.inf, np.inf])
def test_odd_answers_are_as_far_as_none(odd: float) -> None:
    y = np.array([[3.0, 4.0], [1.0, 0.0]])
    assert similarity(y, np.full((2, 2), odd)).sqnr == 0
    assert similarity(y, np.array([[3.0, odd], [1.0, 0.0]])).noise == 16
    assert similarity(np.array([[3.0, odd]]), np.array([[3.0, 4.0]])).noise == 16


def test_batches_fold_into_the_whole() -> None:
    y, z = RNG.normal(size=(2, 7, 5))
    whole = similarity(y, z)
    parts = similarity(y[:3], z[:3]) + similarity(y[3:], z[3:]) + Similarity()
    assert parts.samples == whole.samples
    assert parts.cosine == pytest.approx(whole.cosine)
    assert parts.sqnr == pytest.approx(whole.sqnr)
    assert parts.cosine_min == pytest.approx(whole.cosine_min)
    assert parts.max_abs == pytest.approx(whole.max_abs)


def test_no_samples() -> None:
    assert math.isnan(Similarity().cosine)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="do not compare"):
        similarity(np.zeros((2, 3)), np.zeros((3, 2)))


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_, np.float16])
def test_other_types(dtype: type[np.generic]) -> None:
    found = similarity(np.array([[0, 1]], dtype), np.array([[1, 1]], dtype))
    assert found.max_abs == 1
    assert found.cosine == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize(("shape", "samples"), [((), 1), ((3, 0), 3), ((0, 6), 0)])
def test_degenerate_shapes(shape: tuple[int, ...], samples: int) -> None:
    found = similarity(np.ones(shape), np.ones(shape))
    assert (found.samples, found.cosine_sum, found.noise) == (samples, samples, 0)
