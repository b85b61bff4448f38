"""When to stop looking at a candidate: once the samples seen show that it cannot win.

Of N samples n were seen. What the candidate gained on them is known; what it gains on the others
is bounded in two ways:

* exactly: no sample can gain more than what it misses of the best score, so that after those the
  present choice gets wrong nothing is left to gain;
* by a paired test: the mean gain of those seen, plus ``Z`` standard errors of the mean of those
  not seen, ``sd·√(1/n + 1/m)``, times the m unseen ones that can gain at all. It asks for at least
  `LEAST` samples, and for half of them to differ: from answers that are right or wrong a few
  samples say nothing about the rare others.

The samples come in random order, those with something to gain first. With Z = 2 a candidate that
would exactly reach the bar is dropped about once in 44 looks; the more it is worth, the less often.
"""

import math

import numpy as np

from onnxq.types import Array

Z = 2.0
LEAST = 16


def is_hopeless(gains: Array, room: Array, wanted: float) -> bool:
    """Say whether a candidate's mean gain will not exceed what is wanted.

    Args:
        gains: Gain of each sample seen, ``(n,)``.
        room: What each sample not seen can gain at most, ``(m,)``; infinite if that is not known.
        wanted: The mean gain over all samples that must be exceeded.
    """
    total = gains.size + room.size
    seen = float(gains.sum())
    if seen + float(room.sum()) <= wanted * total:
        return True
    open_ = int((room > 0).sum())
    if gains.size < LEAST or np.count_nonzero(gains) * 2 < gains.size or not open_:
        return False
    spread = float(gains.std(ddof=1)) * math.sqrt(1 / gains.size + 1 / open_)
    return seen + open_ * (float(gains.mean()) + Z * spread) <= wanted * total
