"""Ranges around one that was chosen, and the search for the one with the least error.

What the error is of is the caller's: a layer's output, for instance. All is per tensor.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from onnxq.numerics.affine import params_of
from onnxq.types import Array, QuantParams, QuantSpec, Range

COARSE = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.1)  # of both ends; 1 is where the search begins
FINE = (-0.05, 0.05)  # added to the best of these
ONE_END = (0.6, 0.7, 0.8, 0.9, 1.1, 1.25)  # of one end alone, the other where it is best
POWERS = (0.125, 0.25, 0.5, 2.0)  # of both ends, where scales are powers of two
SURE = 2.0  # standard errors by which samples must agree that a candidate is better
BLOCK = 1 << 15  # elements that stay in the cache of a core

Errors = Callable[[QuantParams], Array]  # one error a sample, (n,)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What a search found.

    Attributes:
        params: The best parameters.
        before: Error of those it began with, summed over the samples.
        after: Error of the best, no larger.
        tried: How many were looked at.
    """

    params: QuantParams
    before: float
    after: float
    tried: int

    @property
    def moved(self) -> bool:
        """Whether they are others than it began with."""
        return self.after < self.before


def covered(params: QuantParams, spec: QuantSpec) -> Range:
    """Return the range that parameters stand for: `params_of` makes the same of it, or nearly.

    Args:
        params: One scale for the tensor.
        spec: What was asked.
    """
    scale, zero = params.scale.astype(np.float64), params.zero_point
    low, high = (params.dtype.qmin - zero) * scale, (params.dtype.qmax - zero) * scale
    if spec.symmetric and not spec.power_of_two:
        low = -high  # the code below has no counterpart
    return Range(low, high).within(*spec.bounds)


def scaled(chosen: Range, factors: tuple[float, float], spec: QuantSpec) -> QuantParams:
    """Return the parameters of a range with its lower and upper end scaled, within the bounds.

    Args:
        chosen: One interval.
        factors: For the lower and the upper end, positive.
        spec: What is asked.
    """
    ends = Range(chosen.lo * factors[0], chosen.hi * factors[1])
    return params_of(ends.within(*spec.bounds), spec)


def fit_range(params: QuantParams, spec: QuantSpec, errors: Errors) -> Fit:
    """Search around parameters for those with the least error.

    Both ends are scaled together first, by `COARSE` and then more finely; where values of both
    signs occur and the zero point is free, one end alone after that, the lower first. A candidate
    counts only if the samples agree that it is better than the start, see `agreed`.

    Args:
        params: Where to begin, one scale for the tensor.
        spec: What is asked; no candidate leaves its bounds.
        errors: Says how bad parameters are; what is not finite is never chosen.

    Returns:
        The best; those to begin with where nothing is better.

    Source:
        Nagel et al., "A White Paper on Neural Network Quantization", 2021, section 3.1, and
        Wu et al., "EasyQuant", 2020, section 3: a grid of scales, judged by what is computed
        from the tensor. Differs: squared error of the output, ends on their own, samples must
        agree.
    """
    search = _Search(params, spec, errors)
    if not np.isfinite(search.before) or search.before == 0:
        return Fit(params=params, before=search.before, after=search.before, tried=1)
    if spec.power_of_two:
        search.look((factor, factor) for factor in POWERS)
    else:
        search.look((factor, factor) for factor in COARSE)
        both = search.best[0]
        search.look((both + step, both + step) for step in FINE)
    if not spec.symmetric and search.start.lo < 0 < search.start.hi:
        low, high = search.best
        search.look((low * factor, high) for factor in ONE_END)
        low, high = search.best
        search.look((low, high * factor) for factor in ONE_END)
    return search.found()


class _Search:
    """What was looked at, and the best of it.

    Attributes:
        start: The range to scale.
        before: Error of the parameters to begin with.
        best: Factors of both ends.
    """

    def __init__(self, params: QuantParams, spec: QuantSpec, errors: Errors) -> None:
        self.start, self.best = covered(params, spec), (1.0, 1.0)
        self._first = errors(params)
        self.before = float(self._first.sum())
        self._spec, self._errors = spec, errors
        self._params, self._least = params, self.before
        self._seen = {_key(params)}

    def look(self, factors: Iterator[tuple[float, float]]) -> None:
        """Look at candidates that were not looked at yet."""
        for pair in factors:
            params = scaled(self.start, pair, self._spec)
            if _key(params) in self._seen:
                continue
            self._seen.add(_key(params))
            errors = self._errors(params)
            if errors.sum() < self._least and agreed(self._first, errors):
                self._params, self._least, self.best = params, float(errors.sum()), pair

    def found(self) -> Fit:
        """Return the best."""
        return Fit(
            params=self._params, before=self.before, after=self._least, tried=len(self._seen)
        )


def agreed(before: Array, after: Array) -> bool:
    """Say whether samples agree that an error fell: by two standard errors of the differences.

    Args:
        before: One error a sample, ``(n,)``.
        after: The same of a candidate.

    Returns:
        False where an error is not finite; for one sample, whether it fell.
    """
    gain = before - after
    if not np.isfinite(gain).all():
        return False
    chance = SURE * gain.std(ddof=1) / np.sqrt(gain.size) if gain.size > 1 else 0.0
    return bool(gain.mean() > chance)


def _key(params: QuantParams) -> tuple[bytes, bytes]:
    """Return what tells parameters apart."""
    return params.scale.tobytes(), params.zero_point.tobytes()


def rounding_error(real: Array, params: QuantParams) -> Array:
    """Return ``x̂ − x``, block by block so that no block leaves the cache.

    Args:
        real: float32, any shape.
        params: One scale for the tensor, at most 16 bits.

    Returns:
        float32, shape of ``real``.
    """
    values = np.ascontiguousarray(real, np.float32).reshape(-1)
    error = np.empty_like(values)
    scale, zero = params.scale.reshape(())[()], int(params.zero_point.reshape(())[()])
    low, high = np.float32(params.dtype.qmin - zero), np.float32(params.dtype.qmax - zero)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, values.size, BLOCK):
            block, out = values[start : start + BLOCK], error[start : start + BLOCK]
            np.divide(block, scale, out=out)
            np.rint(out, out=out)
            np.clip(out, low, high, out=out)
            np.multiply(out, scale, out=out)
            np.subtract(out, block, out=out)
    return error.reshape(real.shape)
