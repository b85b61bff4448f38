"""Top-k hits and paired differences."""

import math

import numpy as np
import pytest

from onnxq.metrics.classification import hits, paired


@pytest.mark.parametrize(
    ("label", "k", "expected"),
    [(1, 1, True), (0, 1, False), (0, 2, False), (2, 2, True), (0, 3, True), (0, 9, True)],
)
def test_hits(label: int, k: int, expected: bool) -> None:
    scores = np.array([[0.1, 0.7, 0.2]])
    assert hits(scores, np.array([label]), k).tolist() == [expected]


def test_ties_go_to_the_lower_class() -> None:
    scores = np.array([[1.0, 1.0, 0.0]] * 3)
    assert hits(scores, np.array([0, 1, 2]), 1).tolist() == [True, False, False]
    assert hits(scores, np.array([0, 1, 2]), 2).tolist() == [True, True, False]


def test_many_ties_keep_their_order() -> None:
    scores = np.random.default_rng(0).integers(0, 3, (1, 200)).astype(np.float32)
    ranked = sorted(range(200), key=lambda i: (-scores[0, i], i))
    for k in (1, 5, 20):
        for place in range(30):
            assert hits(scores, np.array([ranked[place]]), k).tolist() == [place < k]


def test_nan_ranks_last() -> None:
    scores = np.array([[np.nan, 0.1, 0.2]])
    assert hits(scores, np.array([2]), 1).tolist() == [True]
    assert hits(scores, np.array([0]), 2).tolist() == [False]


def test_paired_by_hand() -> None:
    found = paired(np.array([1, 1, 0, 1], bool), np.array([1, 0, 0, 0], bool))
    assert (found.before, found.after, found.difference, found.samples) == (0.75, 0.25, -0.5, 4)
    assert found.half_width == pytest.approx(1.96 * math.sqrt(1 / 3) / 2)


@pytest.mark.parametrize("size", [1, 5])
def test_no_difference_has_no_width(size: int) -> None:
    found = paired(np.ones(size), np.ones(size))
    assert (found.difference, found.half_width) == (0, 0)


def test_the_interval_covers_95_per_cent() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        before = rng.random(200) < 0.8
        after = np.where(rng.random(200) < 0.1, rng.random(200) < 0.5, before)
        found = paired(before, after)
        covered += abs(found.difference - (0.1 * (0.5 - 0.8))) <= found.half_width
    assert 0.92 < covered / 400 < 0.98
