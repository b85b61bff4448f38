"""Cross-layer equalization: one factor a channel between layers, so that their weights are alike.

Let a layer write y = W₁·x + b and another read f(y), with f(y/s) = f(y)/s for s > 0. Then

    W₁[i]/s_i,  b_i/s_i,  W₂[:, i]·s_i

compute the same, and with one scale for all of a weight the channels are best served where their
share of the largest weight is the same in both layers (Nagel et al. 2019, "Data-Free Quantization
Through Weight Equalization and Bias Correction", section 4.1 and appendix A):

    s_i = √(p₁_i/p₂_i),  p = max |W[i]| / max |W|

The share p is that of the present weights, so pairs of layers that touch are gone through until
nothing changes. Several layers may write or read the same channels: the largest share counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxq.types import Array

SWEEPS = 100
TOLERANCE = 1e-3  # of the logarithm of a factor
FEW = 1 / 16  # of the largest weight; below that 8 of 127 codes are left
WIDEST = 2.0**10  # a factor beyond this only moves what is nearly 0


@dataclass(frozen=True, kw_only=True)
class Weight:
    """The weights of a layer, as far as equalization looks at them.

    Attributes:
        sizes: Largest magnitude between an output and an input; (groups, outputs, inputs).
        reads: Family of its inputs, None if they stay.
        writes: Family of its outputs, None if they stay.
    """

    sizes: Array
    reads: int | None
    writes: int | None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far the factors of a family may go.

    Attributes:
        least: Smallest factor of each channel, (channels,).
        most: Largest factor.
    """

    least: Array
    most: Array


def equalizing(weights: Sequence[Weight], limits: Sequence[Limits]) -> list[Array]:
    """Return one factor a channel for each family: what is written is divided by it.

    Args:
        weights: All layers.
        limits: Of each family.

    Returns:
        Positive float64 arrays (channels,); 1 for channels without weights.
    """
    factors = [np.clip(np.ones_like(each.least), each.least, each.most) for each in limits]
    for _ in range(SWEEPS):
        change = 0.0
        for family, limit in enumerate(limits):
            step = np.sqrt(_ratio(*_shares(weights, factors, family)))
            new = np.clip(factors[family] * step, limit.least, limit.most)
            change = max(change, float(np.abs(np.log(new / factors[family])).max(initial=0)))
            factors[family] = new
        if change < TOLERANCE:
            break
    return factors


def weak(weights: Sequence[Weight], factors: Sequence[Array], family: int) -> float:
    """Return which part of the channels of a family is written by weights with few codes left.

    Args:
        weights: All layers.
        factors: Of each family.
        family: Which one.

    Returns:
        0 … 1, of the layer where it is most; channels without weights do not count.
    """
    shares = [_share(each, factors, 2) for each in weights if each.writes == family]
    return max(float(((each > 0) & (each < FEW)).mean()) for each in shares)


def _shares(
    weights: Sequence[Weight], factors: Sequence[Array], family: int
) -> tuple[Array, Array]:
    """Return the largest share of each channel among the layers that write and that read it."""
    written = [_share(each, factors, 2) for each in weights if each.writes == family]
    read = [_share(each, factors, 1) for each in weights if each.reads == family]
    return np.max(written, axis=0), np.max(read, axis=0)


def _share(weight: Weight, factors: Sequence[Array], over: int) -> Array:
    """Return the largest weight of each channel relative to the largest of the layer."""
    groups, outputs, inputs = weight.sizes.shape
    sizes = weight.sizes
    if weight.reads is not None:
        sizes = sizes * factors[weight.reads].reshape(groups, 1, inputs)
    if weight.writes is not None:
        sizes = sizes / factors[weight.writes].reshape(groups, outputs, 1)
    found: Array = sizes.max(axis=over).ravel()
    return found / max(float(found.max(initial=0)), np.finfo(np.float64).tiny)


def _ratio(one: Array, other: Array) -> Array:
    """Divide where both are more than 0; 1 elsewhere."""
    both = (one > 0) & (other > 0)
    return np.divide(one, other, out=np.ones_like(one), where=both)


def room(seen: Array) -> Array:
    """Return the smallest factors that keep each channel within the largest of all.

    Args:
        seen: Largest magnitude of each channel on data, (channels,).
    """
    most = float(seen.max(initial=0))
    return seen / most if most > 0 else np.zeros_like(seen)


def clip_room(bounds: tuple[Array, Array], clip: tuple[float, float]) -> tuple[Array, Array]:
    """Return the factors with which a Clip does to every channel what it did.

    A Clip cuts channel i at hi, and what is divided by s_i at hi too: that is the same function
    only where the channel provably stays below both hi and s_i·hi, or for s_i = 1. An end at 0 is
    no matter: zero divided by s is zero.

    Args:
        bounds: Provable lowest and highest value of each channel in front of the Clip.
        clip: Where it cuts, low ≤ 0 < high.

    Returns:
        Least and most factor a channel; both 1 where it can reach an end.
    """
    least = np.zeros_like(bounds[0])
    for reached, end in zip(bounds, clip, strict=True):
        if end != 0 and np.isfinite(end):
            least = np.maximum(least, np.maximum(reached / end, 0))
    most = np.where(least <= 1, np.inf, 1.0)
    return np.where(least <= 1, least, 1.0), most
