"""Metrics of the benchmark: error rates, neighbours, intervals."""

import numpy as np
import pytest

from benchmarks.metrics import (
    bootstrap_change,
    edit_counts,
    mean_change,
    mean_iou,
    neighbour_hits,
    neighbours,
    overlap_counts,
    ratio,
)


def circle(*degrees: float) -> np.ndarray:
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_character_error_rate_is_a_ratio_of_sums() -> None:
    pytest.importorskip("rapidfuzz")
    counts = edit_counts(["kitten", "", "ab"], ["sitting", "abc", "ab"])
    assert counts.tolist() == [[3, 7], [3, 3], [0, 2]]
    assert ratio(counts.sum(axis=0)) == 6 / 12


def test_no_lines_have_no_errors() -> None:
    pytest.importorskip("rapidfuzz")
    assert edit_counts([], []).shape == (0, 2)
    assert ratio(np.zeros(2)) == 0


def test_a_row_is_not_its_own_neighbour() -> None:
    assert neighbours(circle(0, 10, 30, 70), 2).tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]


def test_finding_neighbours_leaves_the_embeddings_alone() -> None:
    rows = circle(0, 10, 30)
    before = rows.copy()
    neighbours(rows, 1)
    np.testing.assert_array_equal(rows, before)


def test_most_neighbours_decide_on_the_label() -> None:
    rows = circle(0, 1, 2, 3, 4, 5, 90, 91, 92, 93, 94, 95)
    label = np.repeat([7, 3], 6)
    assert neighbour_hits(rows, label).all()
    label[0] = 3  # a stray among sevens
    assert neighbour_hits(rows, label).tolist() == [False] + [True] * 11


def test_the_nearest_label_wins_a_draw() -> None:
    rows = circle(0, 1, 2, 3, 4, 5)
    label = np.array([0, 0, 1, 0, 1, 2])  # seen from the first row: 0 1 0 1 2
    assert neighbour_hits(rows, label)[0]


def test_mean_iou_counts_pixels_of_all_pictures_together() -> None:
    found = np.array([[[0, 1], [1, 1]], [[0, 0], [0, 0]]])
    wanted = np.array([[[0, 1], [0, 1]], [[0, 0], [0, 0]]])
    counts = overlap_counts(found, wanted, 2)
    assert counts.tolist() == [[1, 2, 2, 3], [4, 0, 4, 0]]
    assert mean_iou(counts.sum(axis=0)) == pytest.approx((5 / 6 + 2 / 3) / 2)


def test_the_same_answers_have_an_interval_of_no_width() -> None:
    counts = np.array([[1.0, 4.0], [0.0, 6.0]])
    change = bootstrap_change("CER", counts, counts, ratio, better="lower")
    assert (change.before, change.after, change.low, change.high) == (0.1, 0.1, 0.0, 0.0)
    hits = np.array([True, False])
    change = mean_change("top-1", hits, hits)
    assert (change.before, change.after, change.low, change.high) == (0.5, 0.5, 0.0, 0.0)


def test_bootstrap_and_normal_interval_of_a_mean_agree() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random((2, 1000)) < np.array([[0.9], [0.8]])
    normal = mean_change("top-1", before, after)
    ones = np.ones(1000)
    drawn = bootstrap_change(
        "top-1", np.stack([before, ones], axis=1), np.stack([after, ones], axis=1), ratio
    )
    assert (drawn.before, drawn.after) == (normal.before, normal.after)
    assert drawn.low == pytest.approx(normal.low, abs=0.005)
    assert drawn.high == pytest.approx(normal.high, abs=0.005)


def test_bootstrap_draws_are_paired_and_repeat() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 20, 200).astype(float)
    before = np.stack([rng.integers(0, 5, 200).astype(float), lengths], axis=1)
    after = before.copy()
    after[0, 0] += 1  # one more error in one line
    first = bootstrap_change("CER", before, after, ratio)
    assert first == bootstrap_change("CER", before, after, ratio)
    assert first.low == 0
    assert 0 < first.high < 5 / lengths.sum()
