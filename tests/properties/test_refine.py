"""Moving one parameter: the rule against a plain reading of it, and giving candidates up."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxq.search.hopeless import LEAST, is_hopeless
from onnxq.search.refine import Line, refine

SCORES = st.lists(st.integers(0, 8).map(lambda n: n / 8), min_size=1, max_size=9)


def plain(scores: Sequence[float], costs: Sequence[float], start: int, threshold: float) -> int:
    """Stage 2 for one tensor, all scores known."""
    sides = [i for i in (start - 1, start + 1) if 0 <= i < len(scores)]
    counting = [i for i in sides if scores[i] > scores[start] + threshold]
    if not counting:
        return start
    first = min(counting, key=lambda i: (-scores[i], costs[i]))
    onward = range(first, len(scores)) if first > start else range(first, -1, -1)
    return min(onward, key=lambda i: (-scores[i], costs[i]))


@given(SCORES, st.data())
def test_the_rule(scores: list[float], data: st.DataObject) -> None:
    costs = data.draw(st.permutations(range(len(scores))))
    start = data.draw(st.integers(0, len(scores) - 1))
    threshold = data.draw(st.sampled_from([0, 0.1, 0.125, 0.3]))
    gives_up = data.draw(st.booleans())
    asked: list[int] = []

    def ask(choice: int, bar: float) -> float | None:
        asked.append(choice)
        return None if gives_up and scores[choice] <= bar else scores[choice]

    line = Line(
        count=len(scores), start=start, score=scores[start], ask=ask, cost=costs.__getitem__
    )
    assert refine(line, threshold) == plain(scores, costs, start, threshold)
    assert len(asked) == len(set(asked)), "nothing is asked twice"
    assert start not in asked


@given(
    st.lists(st.booleans(), min_size=1, max_size=60),
    st.lists(st.booleans(), min_size=1, max_size=60),
    st.floats(0, 0.2),
)
def test_right_or_wrong_answers_are_never_given_up_wrongly(
    before: list[bool], after: list[bool], threshold: float
) -> None:
    size = min(len(before), len(after))
    now, then = np.array(before[:size], float), np.array(after[:size], float)
    order = np.argsort(now, kind="stable")
    gains = (then - now)[order]
    wins = gains.sum() > threshold * size
    for seen in range(size + 1):
        if is_hopeless(gains[:seen], (1 - now)[order][seen:], threshold) and seen < LEAST:
            assert not wins


def test_nothing_left_to_gain_is_seen_at_once() -> None:
    assert is_hopeless(np.zeros(3), np.zeros(997), 0.001)
    assert not is_hopeless(np.zeros(3), np.array([1.0, 1.0]), 0.001)


def test_few_changed_answers_say_nothing_of_the_others() -> None:
    gains = np.zeros(100)
    gains[0] = -1
    assert not is_hopeless(gains, np.ones(100), 0.0)


def test_a_clear_loss_is_given_up_early_and_a_gain_never() -> None:
    rng = np.random.default_rng(0)
    worse = rng.normal(-1, 1, 1000)
    assert is_hopeless(worse[:64], np.full(936, np.inf), 0.0)
    wrongly = 0
    for _ in range(300):
        gains = rng.normal(0.05, 1, 1024)
        looks = range(32, 1024, 32)
        lost = any(is_hopeless(gains[:n], np.full(1024 - n, np.inf), 0.0) for n in looks)
        wrongly += lost and gains.sum() > 0
    assert wrongly <= 30
