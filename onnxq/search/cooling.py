"""How long and how warm to anneal, and how far it has come."""

from dataclasses import dataclass
from pathlib import Path

from onnxq.errors import UsageError

COLD = 0.01  # of the first temperature, the last


@dataclass(frozen=True, kw_only=True)
class Cooling:
    """How long and how warm.

    Attributes:
        swaps: How many to try.
        seconds: Stop after so long, if that comes first; None for no limit.
        temperature: To begin with, in units of the score; None: what the first swaps
            change, 0.3 of its standard deviation.
        restarts: How often the temperature goes up again, from the best order so far.
        threshold: The published rule: accept what has exp(gain/T) above this, and end at the first
            swap that has not; None for the usual rule.
        drop: Whether to give a swap up once the samples seen show that it will not be accepted.
        seed: Of the swaps and the order of the samples.
        workers: Batches to run at once; 0 for one a core.
        checkpoint: Where to leave what was found so far; None for nowhere.
        resume: Go on from the checkpoint, if there is one.
    """

    swaps: int = 1000
    seconds: float | None = None
    temperature: float | None = None
    restarts: int = 0
    threshold: float | None = None
    drop: bool = True
    seed: int = 0
    workers: int = 0
    checkpoint: Path | None = None
    resume: bool = False

    def at(self, number: int, first: float) -> float:
        """Return the temperature of a swap: geometrically down, once for each restart."""
        share = number * (self.restarts + 1) / self.swaps % 1
        return float(first * COLD**share)

    def restarts_at(self, number: int) -> bool:
        """Say whether the temperature has gone up again with a swap."""
        before, now = (n * (self.restarts + 1) // self.swaps for n in (number - 1, number))
        return number > 0 and now > before


@dataclass(frozen=True, kw_only=True)
class AnnealProgress:
    """How far annealing has come.

    Attributes:
        done: Swaps tried so far.
        total: Swaps in all.
        score: The best score so far.
        name: The score now, and how many swaps were accepted.
    """

    done: int
    total: int
    score: float
    name: str


def threshold_of(accept: str) -> float | None:
    """Read a rule of acceptance, ``metropolis`` or ``threshold:P``.

    Returns:
        The threshold, None for the other rule.

    Raises:
        UsageError: It is none of the two, or P is not between 0 and 1.
    """
    word, _, number = accept.partition(":")
    if accept == "metropolis":
        return None
    try:
        found = float(number) if word == "threshold" else 0.0
    except ValueError:
        found = 0.0
    if not 0 < found <= 1:
        raise UsageError(
            f"--accept {accept!r}: write metropolis, or threshold:P with P between 0 and 1"
        )
    return found
