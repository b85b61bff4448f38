"""Move one parameter to where the metric is best: stage 2 of the adaptive-KL method.

The neighbours of the present choice are tried first. A direction counts if it improves the metric
by more than a threshold; where both do, the better. Then every choice left in that direction is
tried, and the best of them stays, of equals the one of least cost.
"""

from collections.abc import Callable
from dataclasses import dataclass

EQUAL = 1e-12  # scores nearer than this are equal


@dataclass(frozen=True, kw_only=True)
class Line:
    """The choices there are for one parameter, in order.

    Attributes:
        count: How many choices.
        start: The present one.
        score: What the present one scores, higher is better.
        ask: Scores a choice, or gives None once it is clear that it does not exceed the second
            argument.
        cost: Decides between choices of equal score, lower is better.
    """

    count: int
    start: int
    score: float
    ask: Callable[[int, float], float | None]
    cost: Callable[[int], float]


def refine(line: Line, threshold: float) -> int:
    """Find the best choice.

    Args:
        line: The choices.
        threshold: What a direction must gain to count.

    Returns:
        The choice; the present one where no direction counts.

    Source:
        The published method, except that it names the lowest KL divergence of those tried in one
        sentence, which would undo the search; its claims need the best metric.
    """
    bar = line.score + threshold
    sides = _asked(line, [line.start - 1, line.start + 1], bar)
    sides = {choice: score for choice, score in sides.items() if score > bar}
    if not sides:
        return line.start
    first = _best(line, sides)
    step, found = first - line.start, {first: sides[first]}
    onward = range(first + step, line.count if step > 0 else -1, step)
    for choice in onward:
        found |= _asked(line, [choice], max(found.values()) - EQUAL)
    return _best(line, found)


def _asked(line: Line, choices: list[int], bar: float) -> dict[int, float]:
    """Score choices; those that are none or do not reach the bar are left out."""
    asked = ((choice, line.ask(choice, bar)) for choice in choices if 0 <= choice < line.count)
    return {choice: score for choice, score in asked if score is not None}


def _best(line: Line, found: dict[int, float]) -> int:
    """Return the choice of the highest score, of equals that of least cost, then the first."""
    top = max(found.values())
    equal = [choice for choice, score in found.items() if top - score <= EQUAL]
    return equal[0] if len(equal) == 1 else min(equal, key=line.cost)
