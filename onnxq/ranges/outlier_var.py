"""The range that the variance of the extreme values chooses."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxq.errors import CalibrationError
from onnxq.numerics.ends import Ends
from onnxq.types import Array, QuantSpec, Range, TensorStats

SHARE = 0.001  # of the values of an end, where k is left open
MANY = 1000  # values; of more, a fixed share may be stray
VARIANCES = ("stray", "relative", "raw")


@dataclass(frozen=True)
class Limit:
    """How one end of one tile was clipped.

    Attributes:
        k: How many extreme values were looked at; 0 where the end is empty.
        variance: Their variance v.
        tendency: How outlier-like they are, r within [0, 1].
        index: Which of them is the limit, counted from the most extreme one.
        value: The limit in the tensor's units; 0 where the end is empty.
    """

    k: int
    variance: float
    tendency: float
    index: int
    value: float


@dataclass(frozen=True, kw_only=True)
class OutlierVar:
    """Clip the ends of a tensor as far as the variance of its extreme values says.

    D are the ``k1`` largest positive values, descending, Q the ``k2`` smallest negative values,
    ascending::

        v(D) = min(var(D)/median(|D|)², κ(D)/min(k1, 1000))   κ(D) = mean((D − mean D)⁴)/var(D)²
        r_D = 1 − exp(−α·v(D))    I_D = min(⌊r_D·k1⌋, k1 − 1)
        hi = D[I_D]               lo = Q[I_Q], likewise with k2 and β

    The variance is that of the population. The kurtosis κ tells who makes it up: m far values
    among k give κ ≈ k/m, and ⌊r·k⌋ reaches past all of them while m is below about √k, or 3 % of
    k above 1000. So a few stray values are clipped, a populated tail, as of a transformer,
    hardly. No spread at an end keeps its extreme, and so does
    α = 0; α → ∞ takes the k-th value. An end without values has limit 0. The variance relative
    to the median makes the range of c·x c times that of x, exactly for powers of two.

    Attributes:
        k1: How many of the largest positive values to look at: a count (a whole number from 1),
            or a share (between 0 and 1) of the positive values of the tile. None takes 0.1 % of
            them, as many as the statistics hold at most.
        k2: The same for the smallest negative values.
        alpha: α, at least 0, may be infinite.
        beta: β, likewise.
        variance: ``stray`` as above; ``relative`` for ``v(D) = var(D)/median(|D|)²``, ``raw`` for
            ``v(D) = var(D)``.
        extremes: ``signed``; or ``all`` for the k largest and smallest values whatever their
            sign, zeros included, shares being those of all values: the published reading.

    Shapes:
        One entry a tile, ``(t0, …)``, in and out.

    Raises:
        ValueError: An option is out of its bounds.
        TypeError: A number is no number.
        CalibrationError: The statistics hold no ends, or fewer values an end than k asks for.

    Source:
        The outlier-variance method for choosing clipping ranges. The form of r is reconstructed:
        the publication gives its properties, not the closed form. Differs: only positive values
        are extreme at the upper end, only negative ones at the lower, since zero is always exact
        and counting it would collapse sparse Relu outputs. The publication knows the variance
        alone, ``raw`` or ``relative``; κ bounds it, since a transformer's populated tail has a
        large variance too and carries the energy. With ``extremes="all"`` k1 + k2 is cut down to
        the number of values, so that the limits never cross, and v is 0 where the median is 0.

    Defaults:
        Chosen on calibration samples that no range was computed from, by the SQNR of all
        activations of eight models (``docs/ranges.md``): k 0.1 % and α 1 were the best of the
        relative form, too; κ took the mean gain over min–max from 0.6 to 0.8 dB, and the worst
        tensor from −11 to −0.6 dB.

    Example:
        >>> from onnxq.numerics.ends import ends
        >>> values = np.array([1, 1, 1, 1, 100], np.float32)
        >>> stats = TensorStats(count=5, lo=1, hi=100, ends=ends(values))
        >>> OutlierVar(k1=5, variance="relative").limits(stats)[0][1]
        Limit(k=5, variance=1568.16, tendency=1.0, index=4, value=1.0)
    """

    name: ClassVar[str] = "outlier-var"
    needs_histogram: ClassVar[bool] = False
    needs_ends: ClassVar[bool] = True
    k1: float | None = None
    k2: float | None = None
    alpha: float = 1.0
    beta: float = 1.0
    variance: str = "stray"
    extremes: str = "signed"

    def __post_init__(self) -> None:
        """Check the bounds."""
        for name in ("k1", "k2"):
            k = getattr(self, name)
            if k is not None and not (0 < k < 1 or (k >= 1 and float(k).is_integer())):
                raise ValueError(f"{name} is a whole number from 1 or between 0 and 1, not {k}")
        for name in ("alpha", "beta"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if self.variance not in VARIANCES:
            raise ValueError(f"variance is {', '.join(VARIANCES)}, not {self.variance!r}")
        if self.extremes not in ("signed", "all"):
            raise ValueError(f"extremes is signed or all, not {self.extremes!r}")

    def __call__(self, stats: TensorStats, spec: QuantSpec) -> Range:  # noqa: ARG002
        """Return the limits of every tile, widened to contain zero."""
        limits = [(low.value, high.value) for low, high in self.limits(stats)]
        lows, highs = np.array(limits, np.float64).T.reshape(2, *stats.lo.shape)
        return Range.containing_zero(lows, highs)

    def limits(self, stats: TensorStats) -> list[tuple[Limit, Limit]]:
        """Return how the lower and the upper end of every tile are clipped, in C order.

        Raises:
            CalibrationError: The statistics hold no ends, or fewer values an end than k asks for.
        """
        if not stats.ends:
            raise CalibrationError("outlier-var needs the ends: calibrate with --keep-extremes")
        flag = "--keep-channel-extremes" if stats.lo.ndim else "--keep-extremes"
        odd = stats.nan + stats.infinite
        found = []
        for ends, count in zip(stats.ends, stats.count.flat, strict=True):
            k1, k2 = self._counts(ends, max(int(count) - odd, ends.largest.size), flag)
            below = _limit(ends.smallest, k2, self.beta, self.variance)
            above = _limit(ends.largest, k1, self.alpha, self.variance)
            found.append((below, above))
        return found

    def _counts(self, ends: Ends, values: int, flag: str) -> tuple[int, int]:
        """Return k1 and k2 as counts.

        Args:
            ends: Those of one tile.
            values: The number of its ordinary values.
            flag: What makes calibration keep more of them.
        """
        signed = self.extremes == "signed"
        above, below = (ends.above, ends.below) if signed else (values, values)
        held = ends.largest.size
        k1, k2 = _count(self.k1, above, held), _count(self.k2, below, held)
        if not signed and k1 + k2 > max(values, 2):
            k1 = max(values * k1 // (k1 + k2), 1)
            k2 = min(k2, values - k1)
        if max(k1, k2) > held:
            which = "k1" if k1 > held else "k2"
            raise CalibrationError(
                f"outlier-var: {which} asks for {max(k1, k2)} values of an end, {held} are held: "
                f"calibrate with {flag} {max(k1, k2)}"
            )
        return k1, k2


def _count(k: float | None, values: int, held: int) -> int:
    """Return how many of the values of an end to look at."""
    if not values:
        return 0
    if k is None:
        return max(min(round(SHARE * values), held), 1)
    return min(int(k), values) if k >= 1 else max(round(k * values), 1)


def _limit(extreme: Array, k: int, sharpness: float, form: str) -> Limit:
    """Return the limit of one end.

    Args:
        extreme: Its values, the most extreme one first, float32.
        k: How many of them count.
        sharpness: α or β.
        form: One of `VARIANCES`.
    """
    if not k:
        return Limit(k=0, variance=0.0, tendency=0.0, index=0, value=0.0)
    values = extreme[:k].astype(np.float64)
    variance = 0.0 if values[0] == values[-1] else _variance(values, form)
    product = sharpness * variance if sharpness and variance else 0.0  # 0·∞ is 0 here
    tendency = -math.expm1(-product)
    index = min(int(tendency * k), k - 1)
    return Limit(k=k, variance=variance, tendency=tendency, index=index, value=float(values[index]))


def _variance(values: Array, form: str) -> float:
    """Return v of values that are not all the same.

    Args:
        values: float64, ``(k,)``.
        form: One of `VARIANCES`.
    """
    variance = float(values.var())
    if form == "raw":
        return variance
    median = float(np.median(np.abs(values)))
    relative = variance / median**2 if median else 0.0
    if form == "relative":
        return relative
    kurtosis = float(((values - values.mean()) ** 4).mean()) / variance**2
    return min(relative, kurtosis / min(values.size, MANY))
