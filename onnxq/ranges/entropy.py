"""The range whose codes lose the least information."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxq.errors import CalibrationError
from onnxq.numerics.ends import Ends
from onnxq.numerics.histogram import FloatHistogram
from onnxq.numerics.linear import magnitudes, sides
from onnxq.types import Array, QuantSpec, Range, TensorStats

BINS = 2048
STRIDE = 4  # bins between the candidates of a two-sided search, which has three rounds of them
TIE = 1e-12  # nats; nearer than this, divergences differ by rounding


@dataclass(frozen=True, kw_only=True)
class Entropy:
    """Clip where the histogram and its quantized self diverge least.

    Minimises ``KL(P‖Q) = Σ P log(P/Q)`` over the number i of bins kept of 2048, i from the number
    of codes up. P is the first i bins with what was clipped added to the last of them; Q is the
    first i bins, without what was clipped, merged into the codes and spread evenly over those of
    their bins that are not empty. Clipping to an empty bin diverges. Ties go to the wider range.

    - Symmetric specs search the limit of the magnitudes, with 2^(b−1) codes.
    - Affine specs with values on one side search that end, with all 2^b codes.
    - Affine specs with values on both sides give each side 2048 bins of its own and its share
      ``|end|/(hi − lo)`` of the codes, P and Q being distributions over both sides: first one
      factor for both ends, then the lower end alone, then the upper end alone, every fourth i.

    A type with more codes than there are bins (16 bits) loses nothing and gets minmax.

    Shapes:
        One entry a tile, ``(t0, …)``, in and out.

    Raises:
        CalibrationError: The statistics hold no histogram.

    Source:
        S. Migacz, "8-bit inference with TensorRT", GTC 2017. Differs: the linear bins are
        resampled from the histogram on the float's bits, exact where the statistics hold the
        ends; zeros are left out, since every range represents them; bins are merged in even
        proportion (``⌊j·codes/i⌋``) where the source leaves the remainder of i/128 to the last
        code; the whole range is a candidate too; the source knows symmetric int8 only.
    """

    name: ClassVar[str] = "entropy"
    needs_histogram: ClassVar[bool] = True
    needs_ends: ClassVar[bool] = True  # where they are missing, tails are spread over two bins

    def __call__(self, stats: TensorStats, spec: QuantSpec) -> Range:
        """Return the best range of every tile."""
        if not stats.histograms:
            raise CalibrationError("entropy needs a histogram; calibrate with histograms")
        full = Range.containing_zero(stats.lo, stats.hi)
        known = stats.ends or (None,) * len(stats.histograms)
        tiles = zip(stats.histograms, known, full.lo.flat, full.hi.flat, strict=True)
        ends = [_ends(*tile, spec) for tile in tiles]
        lows, highs = np.array(ends, np.float64).T.reshape(2, *stats.lo.shape)
        return Range(lows, highs)


def _ends(
    histogram: FloatHistogram, known: Ends | None, lo: float, hi: float, spec: QuantSpec
) -> tuple[float, float]:
    """Return the best range for one histogram within its extremes."""
    if histogram.total == histogram.zeros:
        return lo, hi
    if spec.symmetric:
        reach = np.array([max(-lo, hi)])
        counts = magnitudes(histogram, float(reach[0]), BINS, known)[None]
    else:
        reach = np.array([-lo, hi])
        counts = sides(histogram, (-lo, hi), BINS, known)
    limits = _search(counts, reach, 1 << (spec.dtype.bits - spec.symmetric))
    return max(-float(limits[0]), lo), min(float(limits[-1]), hi)


def _search(counts: Array, reach: Array, codes: int) -> Array:
    """Return the best limit of each side.

    Args:
        counts: Linear bins of the magnitudes, shape ``(sides, BINS)``.
        reach: Largest magnitude of each side, shape ``(sides,)``.
        codes: How many there are for all sides together.
    """
    (there,) = np.nonzero(counts.any(axis=1))
    rounds = [there] if there.size == 1 else [there, there[:1], there[1:]]
    falling = np.arange(BINS, 0, -STRIDE if there.size > 1 else -1)
    best = np.full(reach.shape, BINS)
    for searched in rounds:
        candidates = np.repeat(best[None], falling.size, axis=0)
        candidates[:, searched] = falling[:, None]
        best = _best(counts, reach, candidates, codes)
    limits: Array = reach * best / BINS
    return limits


def _best(counts: Array, reach: Array, kept: Array, codes: int) -> Array:
    """Return the candidate that diverges least, the first of those that tie.

    Args:
        counts: Shape ``(sides, BINS)``.
        reach: Shape ``(sides,)``.
        kept: Bins kept by each candidate, widest first, shape ``(candidates, sides)``.
        codes: To be shared out among the sides.
    """
    from onnxq.numerics.divergence import divergences  # noqa: PLC0415  the compiler is slow to load

    width = kept * reach
    share = np.rint(codes * width / width.sum(axis=1, keepdims=True))
    share = np.maximum(share, 1).astype(np.int64)
    fits = np.flatnonzero((share <= kept).all(axis=1))
    if not fits.size:
        return np.full(reach.shape, BINS)
    found = divergences(counts, kept[fits], share[fits])
    best: Array = kept[fits[np.argmax(found <= found.min() + TIE)]]
    return best
