"""Slow, obvious answers to compare the fast code with: loops over raw values, no histogram."""

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from onnxq.types import Array, IntType, QuantParams, Tile

SMALLEST = 2.0**-126


def tile_members(
    shape: tuple[int, ...], tile: Tile
) -> dict[tuple[int, ...], list[tuple[int, ...]]]:
    """Return the indices that lie in each tile, by walking over all elements."""
    members: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for index in itertools.product(*map(range, shape)):
        where = tuple(i // step if step else 0 for i, step in zip(index, tile, strict=False))
        members.setdefault(where, []).append(index)
    return members


def quantize(real: Array, params: QuantParams) -> Array:
    """Return ``clamp(round(x/s) + z)`` element by element; `round` is half to even."""
    codes = np.zeros(real.shape, np.int64)
    for where, members in tile_members(real.shape, params.tile).items():
        scale, zero_point = params.scale[where], int(params.zero_point[where])
        for index in members:
            with np.errstate(over="ignore"):
                quotient = float(np.float32(real[index]) / scale)
            quotient = min(max(quotient, -(2.0**40)), 2.0**40)
            code = round(quotient) + zero_point
            codes[index] = min(max(code, params.dtype.qmin), params.dtype.qmax)
    return codes


def layer_matrix(
    op: str, weight: Array, groups: int, *, kernel_major: bool, outputs_first: bool = False
) -> Array:
    """Return the matrices ``(G, n, m)`` of a layer, weight by weight.

    Args:
        op: Conv, ConvTranspose, or anything else for a matrix or a stack of them.
        weight: The weight as the operator reads it.
        groups: Of a convolution.
        kernel_major: Count the rows of a convolution by place in the kernel first.
        outputs_first: A matrix is (outputs, inputs).
    """
    if op not in ("Conv", "ConvTranspose"):
        wide = weight.reshape(-1, 1) if weight.ndim == 1 else weight
        stack = wide.reshape(-1, *wide.shape[-2:])
        return np.array([part.T if outputs_first and weight.ndim > 1 else part for part in stack])
    places = list(np.ndindex(weight.shape[2:]))
    first, second = weight.shape[0] // groups, weight.shape[1]
    inputs, outputs = (second, first) if op == "Conv" else (first, second)
    found = np.zeros((groups, inputs * len(places), outputs), weight.dtype)
    for group, i, j in itertools.product(range(groups), range(inputs), range(outputs)):
        for number, place in enumerate(places):
            row = number * inputs + i if kernel_major else i * len(places) + number
            axes = (group * first + j, i) if op == "Conv" else (group * first + i, j)
            found[group, row, j] = weight[(*axes, *place)]
    return found


def stored(stack: Array, rows: Sequence[int], columns: Sequence[int]) -> Array:
    """Return matrices as they are stored, weight by weight; empty orders are natural."""
    found = np.zeros_like(stack)
    for g, i, j in np.ndindex(stack.shape):
        column = columns[g * stack.shape[2] + j] - g * stack.shape[2] if columns else j
        found[g, i, j] = stack[g, rows[i] if rows else i, column]
    return found


def tiled_codes(stack: Array, size: tuple[int, int], bits: int) -> tuple[Array, Array]:
    """Return codes and scales of matrices, tile by tile and weight by weight."""
    rows, columns = size
    codes = np.zeros(stack.shape, np.int64)
    scales = np.zeros(
        (len(stack), -(-stack.shape[1] // rows), -(-stack.shape[2] // columns)), np.float32
    )
    for group, top, left in itertools.product(*map(range, scales.shape)):
        down = range(top * rows, min((top + 1) * rows, stack.shape[1]))
        right = range(left * columns, min((left + 1) * columns, stack.shape[2]))
        largest = max(abs(float(stack[group, i, j])) for i in down for j in right)
        scale = np.float32(largest / (2 ** (bits - 1) - 1)) if largest else np.float32(1)
        scales[group, top, left] = scale
        for i, j in itertools.product(down, right):
            code = round(float(stack[group, i, j] / scale))
            codes[group, i, j] = min(max(code, -(2 ** (bits - 1))), 2 ** (bits - 1) - 1)
    return codes, scales


def seen(values: Iterable[float]) -> tuple[int, float, float, int, int]:
    """Return count, lo, hi, NaN count and infinite-or-huge count of float32 values.

    What is smaller than the smallest normal value counts as zero.
    """
    count, lo, hi, nan, infinite = 0, math.inf, -math.inf, 0, 0
    for value in values:
        count += 1
        if math.isnan(value):
            nan += 1
        elif abs(value) >= float(np.float32(1e30)):
            infinite += 1
        else:
            flushed = value if abs(value) >= SMALLEST else 0.0
            lo, hi = min(lo, flushed), max(hi, flushed)
    return count, lo, hi, nan, infinite


def percentile(values: Array, share: float, *, symmetric: bool) -> tuple[float, float]:
    """Return the ends that keep ``share`` per cent of the raw values at each end."""
    least, most = min(0.0, float(values.min())), max(0.0, float(values.max()))
    if symmetric:
        limit = _smallest_covering(np.abs(values), share)
        return max(-limit, least), min(limit, most)
    lo, hi = -_smallest_covering(-values, share), _smallest_covering(values, share)
    return min(0.0, lo), max(0.0, hi)


def _smallest_covering(values: Array, share: float) -> float:
    """Return the smallest value that ``share`` per cent of the values do not exceed."""
    wanted = share / 100 * values.size
    for covered, value in enumerate(sorted(values.tolist()), 1):
        if covered >= wanted:
            return float(value)
    raise AssertionError("no share above 100 per cent")


def squared_error(values: Array, lo: float, hi: float, dtype: IntType, *, symmetric: bool) -> float:
    """Return the summed squared error of quantizing raw values with a range, in float64."""
    if symmetric:
        half = (dtype.qmax - dtype.qmin) // 2
        scale, zero_point = max(-lo, hi) / half, dtype.qmin + half + 1
    else:
        scale = (hi - lo) / (dtype.qmax - dtype.qmin)
        zero_point = round(dtype.qmin - lo / scale)
    codes = np.clip(np.rint(values / scale) + zero_point, dtype.qmin, dtype.qmax)
    return float((((codes - zero_point) * scale - values) ** 2).sum())


def least_squared_error(values: Array, dtype: IntType, *, symmetric: bool) -> float:
    """Return the least error of a search over raw values: both ends by one factor, then each."""
    lo, hi = min(0.0, float(values.min())), max(0.0, float(values.max()))
    factors = np.linspace(1, 0.1, 100).tolist()

    def best(tried: list[tuple[float, float]]) -> tuple[float, tuple[float, float]]:
        return min(
            (squared_error(values, low, high, dtype, symmetric=symmetric), (low, high))
            for low, high in tried
        )

    error, (lo, hi) = best([(f * lo, f * hi) for f in factors])
    if not symmetric and lo < 0 < hi:
        error, (lo, hi) = best([(f * lo, hi) for f in factors])
        error, (lo, hi) = best([(lo, f * hi) for f in factors])
    return error


def largest(values: Array, count: int) -> list[float]:
    """Return the largest values, descending."""
    return sorted(values.tolist(), reverse=True)[:count]


def divergences(values: Array, codes: int) -> dict[int, float]:
    """Return KL(P‖Q) by the number of 2048 bins of |x| kept, from raw values, zeros left out."""
    magnitudes = np.abs(values[values != 0].astype(np.float64))
    counts = np.histogram(magnitudes, 2048, (0, magnitudes.max()))[0].astype(np.float64)
    found = {}
    for kept in range(2048, codes - 1, -1):
        p, q = counts[:kept].copy(), np.zeros(kept)
        p[-1] += counts[kept:].sum()
        code = np.arange(kept) * codes // kept
        there = counts[:kept] > 0
        mass, occupied = np.bincount(code, counts[:kept]), np.bincount(code, there)
        q[there] = (mass / np.maximum(occupied, 1))[code][there]
        found[kept] = divergence(p, q)
    return found


def divergence(p: Array, q: Array) -> float:
    """Return ``Σ P log(P/Q)`` of two histograms."""
    if ((p > 0) & (q == 0)).any():
        return math.inf
    p, q = p[p > 0] / p.sum(), q[p > 0] / q.sum()
    return float((p * np.log(p / q)).sum())


def weight_curve(centres: Array, mass: Array, bits: int) -> list[float]:
    """The weights of adaptive KL, bin by bin."""
    order = sorted(range(len(centres)), key=lambda i: abs(centres[i]))
    total, reach, index = 0.0, 0.0, 0
    while total < 0.5 - 1e-12:
        reach = abs(centres[order[index]])
        while index < len(order) and abs(centres[order[index]]) <= reach * (1 + 1e-12):
            total += mass[order[index]]
            index += 1
    rms = math.sqrt(sum(m * c * c for c, m in zip(centres, mass, strict=True)))
    near = sum(m for c, m in zip(centres, mass, strict=True) if abs(c) <= rms * (1 + 1e-12))
    curve = [1 - math.exp(-bits * near * (c / reach) ** 2) for c in centres]
    weighted = sum(y * m for y, m in zip(curve, mass, strict=True))
    return curve if weighted > 0 else [1.0] * len(curve)


def position_divergence(
    centres: Array, mass: Array, position: int, bits: int, curve: Sequence[float]
) -> float:
    """The divergence of one position, code by code."""
    half = 2 ** (bits - 1)
    members: dict[int, list[int]] = {}
    for i in (i for i, m in enumerate(mass) if m > 0):
        members.setdefault(round(centres[i] * 2.0**position), []).append(i)
    q = [0.0] * len(mass)
    for code, inside in members.items():
        for i in inside:
            fits = -half <= code < half
            q[i] = sum(mass[j] for j in inside) / len(inside) if fits else 1e-9
    p = [y * m for y, m in zip(curve, mass, strict=True)]
    q = [y * m for y, m in zip(curve, q, strict=True)]
    pairs = zip(p, q, strict=True)
    return sum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in pairs if a > 0)
