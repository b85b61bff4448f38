"""KL divergence between a histogram and its clipped, merged self, compiled.

Apart from the range algorithms because only they need the compiler loaded, and only when used.

``KL(P‖Q) = Σ P log(P/Q)`` with Q constant on the bins of a code needs no pass over the bins: with
the prefix sums of n, of [n > 0] and of n·log n, a candidate costs one logarithm a code.
"""

import math

import numpy as np
from numba import njit

from onnxq.types import Array


def divergences(counts: Array, kept: Array, codes: Array) -> Array:
    """Return the divergence of every candidate range.

    A histogram may have two sides, each with its own bins from zero outwards; P and Q are then
    distributions over both together. P is the kept bins with what was clipped added to the last
    kept one of its side. Q is the kept bins, without what was clipped, merged into a side's
    codes — bin j into code ``⌊j·codes/kept⌋`` — and spread over those of them that are not empty.

    Args:
        counts: Values by bin, shape ``(sides, bins)``, not all of them 0.
        kept: Bins a candidate keeps of each side, at least 1, shape ``(candidates, sides)``.
        codes: Codes it has for each side, at least 1, same shape.

    Returns:
        Divergences in nats, float64, shape ``(candidates,)``; infinite where values were clipped
        to a bin that is empty itself.
    """
    n = counts.astype(np.float64)
    terms = np.stack([n, n > 0, n * np.log(np.maximum(n, 1.0))], axis=1)
    sums = np.zeros((*terms.shape[:2], n.shape[1] + 1))
    np.cumsum(terms, axis=2, out=sums[:, :, 1:])
    found: Array = _divergences(sums, kept.astype(np.int64), codes.astype(np.int64))
    return found


@njit(cache=True, nogil=True)
def _divergences(sums: Array, kept: Array, codes: Array) -> Array:
    """Return the divergences from the prefix sums, shape ``(sides, 3, bins + 1)``."""
    found = np.full(kept.shape[0], np.inf)
    total = 0.0
    for side in range(sums.shape[0]):
        total += sums[side, 0, -1]
    for candidate in range(kept.shape[0]):
        lost, inside = 0.0, 0.0
        for side in range(sums.shape[0]):
            lost += _lost(sums[side], kept[candidate, side], codes[candidate, side])
            inside += sums[side, 0, kept[candidate, side]]
        if lost < np.inf:
            found[candidate] = lost / total - math.log(total / inside)
    return found


@njit(cache=True, nogil=True)
def _lost(sums: Array, kept: int, codes: int) -> float:
    """Return ``Σ p log(p/q)`` over one side, p and q being counts, not shares."""
    masses, occupied = sums[0], sums[1]
    clipped = masses[-1] - masses[kept]
    edge = masses[kept] - masses[kept - 1]
    if clipped > 0 and edge == 0:
        return np.inf
    lost: float = sums[2, kept]
    level = 0.0
    step, rest = kept // codes, kept % codes
    floor, over, begin = 0, 0, 0
    for _ in range(codes):
        floor += step
        over += rest
        if over >= codes:
            over -= codes
            floor += 1
        end = floor + (1 if over > 0 else 0)  # of this code's bins: ⌈(code + 1)·kept/codes⌉
        mass = masses[end] - masses[begin]
        if mass > 0:
            level = math.log(mass / (occupied[end] - occupied[begin]))
            lost -= mass * level
        begin = end
    if clipped > 0:
        lost += (edge + clipped) * math.log(edge + clipped) - edge * math.log(edge)
        lost -= clipped * level
    return lost
