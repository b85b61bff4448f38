"""Fixed point: one integer, the position p, says what the codes of a tensor are worth.

``x̂ = clamp(round(x·2^p), −2^(b−1), 2^(b−1) − 1)·2^(−p)`` with b bits; the zero point is 0 and the
full range of codes is used.

A position is chosen among ``p0 … p0 + b − 1``. p0 is the largest one at which nothing clips: a
coarser one can only lose. KL divergence alone cannot see that, being 0 for a constant everywhere.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from onnxq.numerics.ends import Ends
from onnxq.numerics.histogram import FloatHistogram
from onnxq.numerics.linear import centred
from onnxq.types import ANY_POSITION, Array, QuantParams, QuantSpec, Range

BINS = 2048
EPSILON = 1e-9  # share of the mass that a bin beyond the clipping limit gets
TIE = 1e-12  # nats; nearer than this, divergences differ by rounding


def finest(lo: Array, hi: Array, bits: int) -> Array:
    """Return the largest position at which nothing between two ends clips.

    That is ``round(hi·2^p) ≤ 2^(b−1) − 1`` and ``round(lo·2^p) ≥ −2^(b−1)``, halves to even; the
    result is exact. Two ends of 0 give ``b − 1``.

    Args:
        lo: Lower ends, ≤ 0, any shape.
        hi: Upper ends, ≥ 0, same shape.
        bits: Width of the codes, 2 to 16.

    Returns:
        int64, shape of ``lo``, within ``ANY_POSITION``.
    """
    above, above_exponent = np.frexp(np.asarray(hi, np.float64))
    below, below_exponent = np.frexp(-np.asarray(lo, np.float64))
    upper = bits - 1 - above_exponent - (above >= 1 - 2.0**-bits)
    lower = bits - below_exponent - (below > 0.5 + 2.0 ** -(bits + 1))
    there = np.minimum(
        np.where(above > 0, upper, ANY_POSITION[1]), np.where(below > 0, lower, ANY_POSITION[1])
    )
    found = np.where((above == 0) & (below == 0), bits - 1, there)
    return np.clip(found, *ANY_POSITION).astype(np.int64)


def ends_at(position: Array | int, bits: int) -> tuple[Array, Array]:
    """Return the smallest and the largest value a position represents, float64."""
    half = 1 << (bits - 1)
    return np.ldexp(-float(half), -position), np.ldexp(float(half - 1), -position)


def position_of(chosen: Range, spec: QuantSpec) -> Array:
    """Return the positions that represent a range: the finest at which none of it clips.

    The range from the smallest to the largest value of a position gives that position again, and
    so does what is left of it when it is cut at bounds the tensor obeys.

    Args:
        chosen: One interval a tile.
        spec: The width, and the positions there are.

    Returns:
        int64, one a tile.
    """
    return np.clip(finest(chosen.lo, chosen.hi, spec.dtype.bits), *spec.positions)


def positions(params: QuantParams) -> Array:
    """Return the positions of parameters whose scales are powers of two, int64, one a tile."""
    _, exponents = np.frexp(params.scale.astype(np.float64))
    return 1 - exponents.astype(np.int64)


def power_above(scale: Array) -> Array:
    """Return the smallest powers of two that are not below positive scales, float32."""
    mantissa, exponent = np.frexp(scale.astype(np.float64))
    above: Array = np.ldexp(np.float32(1), exponent - (mantissa == 0.5))
    return above


def worst_sums(codes: Array, bits: int, axis: int | None, groups: int = 1) -> Array:
    """Return the largest magnitude a sum of products can have: ``2^(b_x−1)·Σ|q_w|``.

    Args:
        codes: Of the weights.
        bits: Width of what they are multiplied with.
        axis: The axis of the output channels; None for a transposed convolution in groups,
            ``(I, O/groups, …)``.
        groups: How many groups those have.

    Returns:
        int64, one an output channel.
    """
    magnitude = np.abs(codes.astype(np.int64))
    if axis is None:
        outputs = codes.shape[1]
        sums = magnitude.reshape(groups, -1, outputs, *codes.shape[2:])
        sums = np.moveaxis(sums, 2, 1).reshape(groups * outputs, -1).sum(axis=1)
    else:
        sums = np.moveaxis(magnitude, axis, 0).reshape(codes.shape[axis], -1).sum(axis=1)
    worst: Array = sums << (bits - 1)
    return worst


def candidates(lo: float, hi: float, spec: QuantSpec) -> Array:
    """Return the positions to choose among, ascending.

    They are ``p0 … p0 + b − 1`` as far as the chip has them, or else its nearest one.
    """
    bits, (least, most) = spec.dtype.bits, spec.positions
    first = int(finest(np.array(lo), np.array(hi), bits))
    found = np.arange(max(first, least), min(first + bits - 1, most) + 1)
    return found if found.size else np.array([least if first < least else most])


def beyond(chosen: Range, spec: QuantSpec) -> Array:
    """Say which tiles have no candidate among the positions the chip has."""
    bits, (least, most) = spec.dtype.bits, spec.positions
    first = finest(chosen.lo, chosen.hi, bits)
    return (first > most) | (first + bits - 1 < least)


@dataclass(frozen=True, kw_only=True)
class Bins:
    """A tensor on linear bins, exact zeros left out.

    Attributes:
        centres: Middles of the bins in the tensor's units, float64, shape ``(BINS,)``.
        mass: Share of the values in each, same shape; its sum is 1.
    """

    centres: Array
    mass: Array

    @classmethod
    def of(cls, histogram: FloatHistogram, reach: float, ends: Ends | None) -> Self:
        """Resample a histogram that holds more than zeros to bins over ``[−reach, reach]``."""
        counts = centred(histogram, reach, BINS, ends)
        centres = reach * ((np.arange(BINS) + 0.5) / (BINS / 2) - 1)
        return cls(centres=centres, mass=counts / counts.sum())


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The weight of a value, ``y(c) = 1 − exp(−A·(c/B)²)``: 0 at zero, 1 in the tails.

    Attributes:
        reach: B, in the tensor's units, positive.
        sharpness: A, positive.
    """

    reach: float
    sharpness: float

    def __call__(self, values: Array) -> Array:
        """Return y, float64, shape of ``values``."""
        curve: Array = -np.expm1(-self.sharpness * (values / self.reach) ** 2)
        return curve


def weight_curve(bins: Bins, bits: int, exponent: float = 1.0) -> Curve:
    """Return the curve that damps the mass around zero of a tensor.

    The reach B is the smallest ``|c_i|`` within which half of the mass lies; the sharpness is
    ``A = b^e·ρ``, ρ the share of the mass within the root mean square.

    Args:
        bins: The tensor.
        bits: Width b of the codes.
        exponent: e.
    """
    away = np.abs(bins.centres)
    near = (bins.mass[BINS // 2 - 1 :: -1] + bins.mass[BINS // 2 :]).cumsum()
    reach = away[BINS // 2 + int(np.argmax(near >= 0.5 - TIE))]
    scaled = away / reach
    rms = np.sqrt((bins.mass * scaled**2).sum())
    share = bins.mass[scaled <= rms * (1 + TIE)].sum()
    return Curve(reach=float(reach), sharpness=float(bits**exponent * share))


def divergences(
    bins: Bins, tried: Array, bits: int, curve: Curve | None, epsilon: float = EPSILON
) -> Array:
    """Return ``KL_p`` in nats of every position tried, float64.

    Args:
        bins: The tensor.
        tried: Positions, shape ``(candidates,)``.
        bits: Width of the codes.
        curve: Weight of the bins; None, or one that leaves no mass, weighs them alike.
        epsilon: Share of the mass that a bin beyond the clipping limit gets.
    """
    weights = np.ones(BINS) if curve is None else curve(bins.centres)
    if not (weights * bins.mass).sum() > 0:
        weights = np.ones(BINS)
    return np.array([divergence(bins, int(p), bits, weights, epsilon) for p in tried])


def best(found: Array) -> int:
    """Return the index of the least divergence; ties go to the smaller one."""
    return int(np.argmax(found <= found.min() + TIE))


def divergence(
    bins: Bins, position: int, bits: int, weights: Array, epsilon: float = EPSILON
) -> float:
    """Return ``KL_p = Σ P' log(P'/Q')`` with ``P' ∝ y·P`` and ``Q' ∝ y·Q_p``.

    Q_p is P pushed through the quantizer, the mass of every code spread evenly over those of its
    bins that are not empty. Bins beyond the clipping limit keep their mass in P and have ε in
    Q_p: folding them into the last code, the common shortcut, picks absurdly small ranges.

    Args:
        bins: The tensor.
        position: The position p.
        bits: Width of the codes.
        weights: Weights y of the bins, shape ``(BINS,)``.
        epsilon: ε, a share of the mass.
    """
    half = 1 << (bits - 1)
    occupied = bins.mass > 0
    mass, weight = bins.mass[occupied], weights[occupied]
    codes = np.rint(np.ldexp(bins.centres[occupied], position))
    inside = (codes >= -half) & (codes < half)
    _, level = np.unique(codes, return_inverse=True)
    spread = (np.bincount(level, mass) / np.bincount(level))[level]
    p, q = weight * mass, weight * np.where(inside, spread, epsilon)
    p, q = p / p.sum(), q / q.sum()
    some = p > 0
    return max(float((p[some] * np.log(p[some] / q[some])).sum()), 0.0)
