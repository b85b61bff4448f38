"""Fronts, crowding and survival against slow readings of them; offspring within the options."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxq.search.evolution import crowding, offspring, ranks, spearman, survivors
from onnxq.types import Array

FEW = st.integers(0, 4).map(float)  # so that many are equal


@st.composite
def populations(draw: st.DrawFn, *, strained: bool = True) -> tuple[Array, Array]:
    """Draw objectives of 1 to 14 rows, and by how much each breaks a bound."""
    shape = draw(st.tuples(st.integers(1, 14), st.integers(1, 3)))
    elements = draw(st.sampled_from([FEW, st.floats(-1e3, 1e3)]))
    objectives = draw(hnp.arrays(np.float64, shape, elements=elements))
    broken = st.just(0.0) | FEW if strained else st.just(0.0)
    return objectives, draw(hnp.arrays(np.float64, shape[0], elements=broken))


def is_better(one: Sequence[float], other: Sequence[float]) -> bool:
    """Domination: nowhere worse, somewhere better; a smaller violation comes before all else."""
    (*ours, strain), (*theirs, their_strain) = one, other
    if strain != their_strain:
        return strain < their_strain
    return all(a <= b for a, b in zip(ours, theirs, strict=True)) and ours != theirs


def peeled(rows: list[list[float]]) -> list[int]:
    """Fronts, by taking away what nothing left dominates, again and again."""
    found, left, front = dict[int, int](), set(range(len(rows))), 0
    while left:
        now = {i for i in left if not any(is_better(rows[j], rows[i]) for j in left)}
        found |= dict.fromkeys(now, front)
        left, front = left - now, front + 1
    return [found[i] for i in range(len(rows))]


@given(populations())
def test_fronts_are_peeled_off_one_by_one(drawn: tuple[Array, Array]) -> None:
    objectives, violations = drawn
    rows = np.column_stack([objectives, violations]).tolist()
    assert ranks(objectives, violations).tolist() == peeled(rows)


@given(populations(strained=False))
def test_without_violations_all_bounds_hold(drawn: tuple[Array, Array]) -> None:
    objectives, violations = drawn
    np.testing.assert_array_equal(ranks(objectives), ranks(objectives, violations))
    np.testing.assert_array_equal(ranks(objectives), ranks(objectives, violations + 3))


def test_what_breaks_a_bound_less_comes_first_however_bad_it_is() -> None:
    objectives = np.array([[0.0, 0.0], [9.0, 9.0], [8.0, 8.0], [8.0, 9.5], [9.5, 8.0]])
    violations = np.array([0.5, 0.0, 0.1, 0.0, 0.0])
    assert ranks(objectives, violations).tolist() == [2, 0, 1, 0, 0]


def test_equal_rows_share_a_front() -> None:
    assert ranks(np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0]])).tolist() == [0, 0, 1]


@st.composite
def apart(draw: st.DrawFn) -> Array:
    """Draw objectives in each of which no two rows are equal."""
    rows, columns = draw(st.tuples(st.integers(1, 12), st.integers(1, 3)))
    values = st.lists(st.integers(-50, 50).map(float), min_size=rows, max_size=rows, unique=True)
    return np.array([draw(values) for _ in range(columns)]).T


@given(apart())
def test_crowding_is_the_way_between_the_neighbours(objectives: Array) -> None:
    front = ranks(objectives)
    found = crowding(objectives, front)
    for number in set(front.tolist()):
        rows = [i for i in range(len(front)) if front[i] == number]
        for i in rows:
            expected = 0.0
            for column in objectives.T:
                below = [column[j] for j in rows if column[j] < column[i]]
                above = [column[j] for j in rows if column[j] > column[i]]
                if not (below and above):
                    expected = math.inf
                    break
                width = max(column[rows]) - min(column[rows])
                expected += (min(above) - max(below)) / width
            assert found[i] == pytest.approx(expected)


@given(apart(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter_to_crowding(objectives: Array, random: object) -> None:
    order = list(range(len(objectives)))
    random.shuffle(order)  # type: ignore[attr-defined]
    front = ranks(objectives)
    shuffled = crowding(objectives[order], front[order])
    np.testing.assert_allclose(shuffled, crowding(objectives, front)[order])


@given(populations())
def test_both_ends_of_every_front_are_infinitely_far_apart(drawn: tuple[Array, Array]) -> None:
    objectives, violations = drawn
    front = ranks(objectives, violations)
    found = crowding(objectives, front)
    assert not np.isnan(found).any()
    assert (found >= 0).all()
    for number in set(front.tolist()):
        rows = np.flatnonzero(front == number)
        for column in objectives[rows].T:
            for end in (column.min(), column.max()):
                assert np.isinf(found[rows][column == end]).any()


@given(populations(), st.integers(0, 16))
def test_survivors_come_front_by_front(drawn: tuple[Array, Array], count: int) -> None:
    objectives, violations = drawn
    kept = survivors(objectives, violations, count)
    front = ranks(objectives, violations)
    assert len(kept) == len(set(kept.tolist())) == min(count, len(front))
    assert (np.diff(front[kept]) >= 0).all()
    left = np.setdiff1d(np.arange(len(front)), kept)
    if kept.size and left.size:
        assert front[kept].max() <= front[left].min()
    np.testing.assert_array_equal(kept, survivors(objectives, violations, count))


@given(populations(), st.integers(1, 16))
def test_within_a_front_the_least_crowded_survive(drawn: tuple[Array, Array], count: int) -> None:
    objectives, violations = drawn
    kept = survivors(objectives, violations, count)
    front = ranks(objectives, violations)
    far = crowding(objectives, front)
    for number in set(front.tolist()):
        stays = [far[i] for i in kept if front[i] == number]
        goes = [far[i] for i in set(range(len(front))) - set(kept) if front[i] == number]
        assert stays == sorted(stays, reverse=True)
        assert not (stays and goes) or min(stays) >= max(goes)


@given(populations())
def test_the_best_in_each_objective_survives(drawn: tuple[Array, Array]) -> None:
    objectives, violations = drawn
    fit = violations == violations.min()
    kept = survivors(objectives, violations, 2 * objectives.shape[1])
    best = objectives[fit].min(axis=0)
    np.testing.assert_array_equal(objectives[kept][fit[kept]].min(axis=0), best)


@given(hnp.arrays(np.float64, st.integers(1, 14), elements=FEW))
def test_one_objective_is_sorted(values: Array) -> None:
    kept = survivors(values[:, None], np.zeros(len(values)), len(values))
    assert values[kept].tolist() == sorted(values)


@st.composite
def families(draw: st.DrawFn) -> tuple[Array, Array]:
    """Draw parents, and how many options each of their genes has."""
    options = np.array(draw(st.lists(st.integers(1, 6), min_size=1, max_size=9)))
    rows = draw(st.lists(st.tuples(*(st.integers(0, n - 1) for n in options)), min_size=1))
    return np.array(rows), options


@given(families(), st.integers(0, 20), st.integers(0, 99), st.floats(0, 9))
def test_offspring_are_strategies(
    family: tuple[Array, Array], count: int, seed: int, rate: float
) -> None:
    parents, options = family
    before = parents.copy()
    children = offspring(parents, count, options, np.random.default_rng(seed), rate)
    assert children.shape == (count, len(options))
    assert np.issubdtype(children.dtype, np.integer)
    assert ((children >= 0) & (children < options)).all()
    again = offspring(parents, count, options, np.random.default_rng(seed), rate)
    np.testing.assert_array_equal(children, again)
    np.testing.assert_array_equal(parents, before)


@given(families(), st.integers(0, 99))
def test_without_mutations_but_the_one_all_comes_from_the_parents(
    family: tuple[Array, Array], seed: int
) -> None:
    parents, options = family
    children = offspring(parents, 30, options, np.random.default_rng(seed), 0.0)
    strange = np.array([[value not in column for value, column in zip(c, parents.T, strict=True)]
                        for c in children])  # fmt: skip
    assert (strange.sum(axis=1) <= 1).all(), "at most the gene that is always drawn anew"


@given(st.integers(1, 5), st.integers(0, 99))
def test_where_nothing_can_change_children_are_their_parents(genes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parents = np.zeros((3, genes), np.int64)
    children = offspring(parents, 8, np.ones(genes, np.int64), rng)
    np.testing.assert_array_equal(children, np.zeros((8, genes)))


def test_every_child_may_differ_even_where_mutations_are_rare() -> None:
    parents, options = np.zeros((1, 20), np.int64), np.full(20, 1000)
    children = offspring(parents, 200, options, np.random.default_rng(0), 0.0)
    changed = (children != 0).sum(axis=1)
    assert changed.max() == 1
    assert (changed == 1).sum() >= 195
    assert len(set(children.argmax(axis=1).tolist())) == 20


def test_about_as_many_genes_change_as_asked() -> None:
    parents, options = np.zeros((1, 200), np.int64), np.full(200, 1000)
    children = offspring(parents, 3000, options, np.random.default_rng(0), 4.0)
    changed = (children != 0).sum(axis=1).mean()
    assert changed == pytest.approx(4 * (0.5 + 1 + 3) / 3, rel=0.1)


def test_better_parents_have_more_children() -> None:
    parents = np.repeat(np.arange(10)[:, None], 50, axis=1)
    children = offspring(parents, 2000, np.full(50, 10), np.random.default_rng(0), 0.0)
    mothers = np.array([np.bincount(row, minlength=10).argmax() for row in children])
    counts = np.bincount(mothers, minlength=10)
    assert counts[0] > counts[4] > counts[9]
    sources = np.array([len(set(row)) for row in children.tolist()])
    assert (sources > 2).any(), "crossed"
    assert (sources <= 2).any(), "of one parent alone, but for a mutation"


def test_two_values_say_nothing_about_rank() -> None:
    assert math.isnan(spearman(np.arange(2.0), np.arange(2.0)))
    assert spearman(np.arange(3.0), np.arange(3.0)) == 1


@given(
    st.integers(0, 12).flatmap(
        lambda size: st.tuples(*[hnp.arrays(np.float64, size, elements=FEW)] * 2)
    )
)
def test_rank_correlation_is_the_librarys(pair: tuple[Array, Array]) -> None:
    one, other = pair
    flat = len(one) < 3 or (one == one[0]).all() or (other == other[0]).all()
    if flat:
        assert math.isnan(spearman(one, other))
        return
    expected = scipy.stats.spearmanr(one, other).statistic
    assert spearman(one, other) == pytest.approx(expected, abs=1e-12)
