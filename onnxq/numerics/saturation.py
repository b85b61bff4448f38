"""Which pairs of weights can overflow the 16 bit sums of CPUs without VNNI.

Their 8-bit multiply-add joins two products ``u·w`` of an unsigned activation and a signed weight in
a saturating int16. With u = 255 a pair of codes is at risk when ``255·(|w1| + |w2|) > 32767``.
"""

import numpy as np

from onnxq.types import Array

LARGEST = 32767 // 255  # |w1| + |w2| up to here is safe


def saturating_pairs(codes: Array, axis: int) -> tuple[int, int]:
    """Count neighbouring weights of a layer that can saturate together.

    Args:
        codes: int8 weights of at least two axes.
        axis: Axis of the output channels; the others are what is summed over.

    Returns:
        Pairs at risk, and pairs in all.
    """
    rows = np.abs(np.moveaxis(codes, axis, 0).reshape(codes.shape[axis], -1).astype(np.int16))
    even = rows.shape[1] // 2 * 2
    pairs = rows[:, 0:even:2] + rows[:, 1:even:2]
    return int((pairs > LARGEST).sum()), pairs.size
