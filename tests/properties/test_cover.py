"""What to take out of a sum: orders, the shortest beginning, and what may go back."""

import itertools
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.numerics.cover import by_weight, by_worth, enough, returned, shortest

AMOUNTS = st.floats(0, 1e6, allow_subnormal=False)
ITEMS = st.lists(st.tuples(AMOUNTS, AMOUNTS), min_size=1, max_size=30)
Order = Callable[[Sequence[float], Sequence[float]], list[int]]
ORDERS: tuple[Order, ...] = (lambda w, _: by_weight(w), by_worth)


def left(weights: Sequence[float], out: Sequence[int]) -> float:
    return sum(weight for i, weight in enumerate(weights) if i not in out)


@pytest.mark.parametrize("order", ORDERS)
@given(items=ITEMS)
def test_an_order_holds_what_weighs_something_once(
    order: Order, items: list[tuple[float, float]]
) -> None:
    weights, costs = ([each[i] for each in items] for i in (0, 1))
    assert sorted(order(weights, costs)) == [i for i, weight in enumerate(weights) if weight > 0]


@given(items=ITEMS)
def test_each_item_is_worth_no_less_than_the_next(items: list[tuple[float, float]]) -> None:
    weights, costs = ([each[i] for each in items] for i in (0, 1))
    order = by_worth(weights, costs)
    for a, b in itertools.pairwise(order):
        assert weights[a] * costs[b] >= weights[b] * costs[a] * (1 - 1e-12)


@pytest.mark.parametrize("order", ORDERS)
@given(items=ITEMS, share=st.floats(0, 1))
def test_a_beginning_is_enough_and_none_shorter_is(
    order: Order, items: list[tuple[float, float]], share: float
) -> None:
    weights, costs = ([each[i] for each in items] for i in (0, 1))
    found, allowed = order(weights, costs), share * sum(weights)
    count = enough(found, weights, allowed)
    slack = 1e-9 * sum(weights)
    assert left(weights, found[:count]) <= allowed + slack
    if count:
        assert left(weights, found[: count - 1]) > allowed - slack


@given(items=ITEMS, shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_tighter_bound_never_takes_fewer(
    items: list[tuple[float, float]], shares: tuple[float, float]
) -> None:
    weights, costs = ([each[i] for each in items] for i in (0, 1))
    order, (tight, loose) = by_worth(weights, costs), sorted(shares)
    assert enough(order, weights, tight * sum(weights)) >= enough(
        order, weights, loose * sum(weights)
    )


def test_no_bound_below_zero_can_be_kept() -> None:
    assert enough([0, 1], [1.0, 2.0], -1.0) == 2
    assert enough([], [0.0], 0.0) == 0


@given(st.integers(1, 200), st.integers(0, 250), st.integers(-3, 300))
def test_the_shortest_that_holds_is_found_with_few_questions(
    count: int, least: int, guess: int
) -> None:
    asked: list[int] = []

    def holds(beginning: Sequence[int]) -> bool:
        asked.append(len(beginning))
        return len(beginning) >= least

    found = shortest(range(count), holds, guess)
    wanted = max(least, 1)
    assert (len(found) if found is not None else None) == (wanted if wanted <= count else None)
    assert len(asked) == len(set(asked)) <= 2 * count.bit_length() + 1
    assert all(1 <= length <= count for length in asked)


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 60))
def test_what_is_found_holds_even_if_longer_ones_do_not(answers: list[bool], guess: int) -> None:
    found = shortest(range(len(answers)), lambda b: answers[len(b) - 1], guess)
    if found is not None:
        assert answers[len(found) - 1]
        assert len(found) == 1 or not answers[len(found) - 2]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=12), st.integers(0, 60))
def test_nothing_is_left_out_that_could_go_back(weights: list[int], needed: int) -> None:
    items = list(range(len(weights)))

    def holds(out: Sequence[int]) -> bool:
        return sum(weights[i] for i in out) >= needed

    out = returned(items, holds)
    if holds(items):
        assert holds(out)
        assert not any(holds([other for other in out if other != each]) for each in out)
    else:
        assert list(out) == items
