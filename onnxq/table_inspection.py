"""Look at a calibration table: what was seen of its tensors, and what can be chosen for one.

Nothing here needs a model or onnxruntime.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxq import table_file
from onnxq.errors import LISTED, CalibrationError, RecipeError, UnknownNameError
from onnxq.metrics.similarity import decibel
from onnxq.numerics.affine import params_of
from onnxq.numerics.moments import Moments, energy, moments, outside, points_of
from onnxq.ranges import RANGES, range_algorithm
from onnxq.ranges.adaptive_kl import AdaptiveKl
from onnxq.ranges.outlier_var import Limit, OutlierVar
from onnxq.ranges.positions import Positions, positions_for
from onnxq.recipe import TensorRule
from onnxq.registry import known
from onnxq.table import CalibrationTable
from onnxq.types import Array, IntType, QuantParams, QuantSpec, Range, RangeAlgorithm, TensorStats


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a table tells of one tensor.

    Attributes:
        name: Its name.
        stats: Its statistics, per tensor.
        moments: Its moments, from the histogram.
        limits: How outlier-var clips the lower and the upper end; None where it cannot.
        channels: Its statistics a channel, where the table has them.
    """

    name: str
    stats: TensorStats
    moments: Moments
    limits: tuple[Limit, Limit] | None
    channels: TensorStats | None

    @property
    def tendency(self) -> float:
        """How outlier-like the worse end is, within [0, 1]; below that where it is unknown."""
        return max(limit.tendency for limit in self.limits) if self.limits else -1.0


@dataclass(frozen=True, kw_only=True)
class Overview:
    """What a table tells of all its tensors.

    Attributes:
        path: Where the table is.
        table: The table.
        tensors: Its tensors, the most outlier-like first.
    """

    path: Path
    table: CalibrationTable
    tensors: tuple[Seen, ...]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a range algorithm chooses for a tensor.

    Attributes:
        spec: What was asked, with the algorithm.
        range: What it chose.
        params: Scale and zero point.
        sqnr: Of quantizing the histogram, in dB.
        clipped: Share of the values that the range leaves out.
    """

    spec: QuantSpec
    range: Range
    params: QuantParams
    sqnr: float
    clipped: float


@dataclass(frozen=True, kw_only=True)
class Closeup:
    """What can be chosen for one tensor.

    Attributes:
        seen: What the table tells of it.
        spec: What is asked, with the algorithm that would be used.
        choices: What every algorithm chooses.
        refused: Name of an algorithm that cannot choose, to the reason.
        positions: The powers of two there are for as many bits; None where that means nothing.
    """

    seen: Seen
    spec: QuantSpec
    choices: tuple[Choice, ...]
    refused: Mapping[str, str]
    positions: Positions | None


def overview(path: Path) -> Overview:
    """Look at all tensors of a table.

    Raises:
        CalibrationError: The file is damaged, or no calibration table.
    """
    table = table_file.load(path)
    tensors = [_see(table, name, OutlierVar()) for name in table.tensors]
    ordered = sorted(tensors, key=lambda seen: (-seen.tendency, seen.name))
    return Overview(path=path, table=table, tensors=tuple(ordered))


def closeup(
    path: Path,
    name: str,
    rule: TensorRule,
    outlier_options: Mapping[str, Any] | None = None,
    *,
    power_of_two: bool = False,
    chip: bool = False,
) -> Closeup:
    """Look at one tensor of a table.

    Args:
        path: The table.
        name: The tensor, or a part of its name that no other has.
        rule: What is asked of activations, without gaps; other algorithms take their defaults.
        outlier_options: Options of outlier-var, over those of the rule.
        power_of_two: Whether the scale is a power of two.
        chip: Whether a power of two has a position from 0 to bits − 1.

    Raises:
        CalibrationError: The file is damaged, or no calibration table.
        UnknownNameError: There is no such tensor, algorithm or option.
        RecipeError: Several tensors are meant, there is no such element type, or an option has a
            bad value.
    """
    table = table_file.load(path)
    options = {str(rule.range): dict(rule.range_options or {})}
    options.setdefault(OutlierVar.name, {}).update(outlier_options or {})
    found = {
        each: range_algorithm(each, **options.get(each, {}))
        for each in (*known("ranges", RANGES), str(rule.range))
    }
    asked = _spec(rule, found[str(rule.range)], power_of_two=power_of_two)
    outliers = found[OutlierVar.name]
    assert isinstance(outliers, OutlierVar)
    seen = _see(table, _full_name(table.tensors, name), outliers)
    choices, refused = [], {}
    for each, algorithm in found.items():
        try:
            choices.append(_choose(seen.stats, replace(asked, range=algorithm)))
        except CalibrationError as error:
            refused[each] = str(error)
    adaptive = found[AdaptiveKl.name]
    assert isinstance(adaptive, AdaptiveKl)
    return Closeup(
        seen=seen,
        spec=asked,
        choices=tuple(choices),
        refused=refused,
        positions=positions_for(seen.stats, asked.dtype.bits, adaptive, chip=chip),
    )


def _full_name(names: Iterable[str], asked: str) -> str:
    """Return the name that was asked for, or the only one it is a part of."""
    names = list(names)
    if asked in names:
        return asked
    matches = [name for name in names if asked in name]
    if not matches:
        raise UnknownNameError("tensor", asked, names)
    if len(matches) > 1:
        listed = ", ".join(matches[:LISTED])
        raise RecipeError(f"{asked!r} is part of {len(matches)} tensor names, write more: {listed}")
    return matches[0]


def _dtype(rule: TensorRule) -> IntType:
    """Return the element type that is asked for."""
    try:
        return IntType.parse(str(rule.dtype))
    except ValueError as error:
        raise RecipeError(f"activations: {error}") from error


def _spec(rule: TensorRule, algorithm: RangeAlgorithm, *, power_of_two: bool) -> QuantSpec:
    """Return what is asked of activations."""
    try:
        return QuantSpec(
            dtype=_dtype(rule),
            symmetric=bool(rule.symmetric),
            range=algorithm,
            power_of_two=power_of_two,
        )
    except ValueError as error:
        raise RecipeError(f"activations: {error}") from error


def _see(table: CalibrationTable, name: str, outliers: OutlierVar) -> Seen:
    """Look at one tensor."""
    stats, channels = table.tensors[name], table.channels.get(name)
    limits = None
    with suppress(CalibrationError):
        limits = outliers.limits(stats)[0]
    return Seen(
        name=name,
        stats=stats,
        moments=moments(points_of(stats)),
        limits=limits,
        channels=channels if channels is not None and channels.count.size else None,
    )


def _choose(stats: TensorStats, spec: QuantSpec) -> Choice:
    """Let an algorithm choose, and measure its choice on the histogram."""
    chosen, points = spec.range(stats, spec), points_of(stats)
    low, high = chosen.lo.item(), chosen.hi.item()
    reach = max(-low, high)
    return Choice(
        spec=spec,
        range=chosen,
        params=params_of(chosen, spec),
        sqnr=decibel(energy(points), _noise(points, chosen, spec)),
        clipped=outside(points, *((-reach, reach) if spec.symmetric else (low, high))),
    )


def _noise(points: tuple[Array, Array], chosen: Range, spec: QuantSpec) -> float:
    """Return the summed squared error; an empty range makes zeros of all values."""
    from onnxq.numerics.errors import squared_errors  # noqa: PLC0415  the compiler is slow to load

    if chosen.lo == chosen.hi:
        return energy(points)
    ends = np.atleast_1d(chosen.lo), np.atleast_1d(chosen.hi)
    return float(squared_errors(points, *ends, spec)[0])
