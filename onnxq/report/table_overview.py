"""A calibration table, and each of its tensors in one row, as lines and plain values."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from onnxq.ranges.outlier_var import Limit
from onnxq.report.values import compact, number
from onnxq.table import CalibrationTable
from onnxq.table_inspection import Overview, Seen

NUMBERS = ("lo", "hi", "mean", "std")


def overview_lines(found: Overview) -> Iterator[str]:
    """Yield what a table holds, then a line for every tensor: the name comes last."""
    yield from _header(found)
    odd = any(seen.stats.nan or seen.stats.infinite for seen in found.tensors)
    yield ""
    heading = f"{'count':>6}" + "".join(f"{name:>10}" for name in NUMBERS)
    extra = f"{'NaN':>7}{'huge':>7}" if odd else ""
    yield f"{heading}{'zeros %':>9}{'r low':>7}{'r high':>7}{extra}  tensor"
    for seen in found.tensors:
        yield _row(seen, odd=odd)
    yield ""
    if not odd:
        yield "no value is NaN, infinite or huge"
    yield "r: how outlier-like the lower and the upper end are, 0 to 1 (outlier-var, its defaults)"


def _header(found: Overview) -> Iterator[str]:
    """Yield how the table was made and what else it holds."""
    table = found.table
    threads = f"{table.threads} thread(s)" if table.threads else "all cores"
    yield f"{found.path}: calibration table of {len(found.tensors)} tensors"
    yield (
        f"{table.samples} samples in batches of {table.batch_size}, {threads}, "
        f"{len(table.groups)} group(s)"
    )
    yield f"of the model with sha256 {table.model_sha256}"
    yield "made by " + ", ".join(f"{tool} {version}" for tool, version in table.versions.items())
    ends = _held(table)
    held = f"{ends} values at each end" if ends else "no ends (--keep-extremes 0)"
    channels = sum(1 for seen in found.tensors if seen.channels is not None)
    yield (
        f"holds {held} of a tensor; channels of {channels} tensors; "
        f"{len(table.kept.feeds)} input samples, {_kept_bytes(table) / 1e6:.2f} MB"
    )


def _held(table: CalibrationTable) -> int:
    """Return how many values are kept at each end of every tensor."""
    return min((e.keep for s in table.tensors.values() for e in s.ends), default=0)


def _kept_bytes(table: CalibrationTable) -> int:
    """Return the size of the samples in the table."""
    return sum(array.nbytes for feed in table.kept.feeds.values() for array in feed.values())


def _row(seen: Seen, *, odd: bool) -> str:
    """Return the row of a tensor."""
    stats, moments = seen.stats, seen.moments
    numbers = (stats.lo.item(), stats.hi.item(), moments.mean, moments.std)
    cells = "".join(f"{value:>10.3g}" if np.isfinite(value) else f"{'-':>10}" for value in numbers)
    tendency = [f"{limit.tendency:.3f}" for limit in seen.limits or ()] or ["-", "-"]
    extra = f"{compact(stats.nan):>7}{compact(stats.infinite):>7}" if odd else ""
    zeros = "-" if np.isnan(moments.zeros) else f"{100 * moments.zeros:.2f}"
    return (
        f"{compact(stats.count.item()):>6}{cells}{zeros:>9}"
        f"{tendency[0]:>7}{tendency[1]:>7}{extra}  {seen.name}"
    )


def overview_dict(found: Overview) -> dict[str, Any]:
    """Return what a table holds as plain values."""
    table = found.table
    return {
        "path": str(found.path),
        "samples": table.samples,
        "batch_size": table.batch_size,
        "threads": table.threads,
        "groups": [group.samples for group in table.groups],
        "versions": dict(table.versions),
        "model_sha256": table.model_sha256,
        "keep_extremes": _held(table),
        "kept_samples": len(table.kept.feeds),
        "kept_bytes": _kept_bytes(table),
        "tensors": [seen_dict(seen) for seen in found.tensors],
    }


def seen_dict(seen: Seen) -> dict[str, Any]:
    """Return what was seen of a tensor as plain values."""
    stats, moments = seen.stats, seen.moments
    low, high = seen.limits or (None, None)
    return {
        "name": seen.name,
        "count": stats.count.item(),
        "lo": number(stats.lo.item()),
        "hi": number(stats.hi.item()),
        "mean": number(moments.mean),
        "std": number(moments.std),
        "zeros": number(moments.zeros),
        "nan": stats.nan,
        "infinite": stats.infinite,
        "channels": None if seen.channels is None else seen.channels.count.size,
        "outlier_var": {"lower": _limit_dict(low), "upper": _limit_dict(high)},
    }


def _limit_dict(limit: Limit | None) -> dict[str, Any] | None:
    """Return how an end would be clipped as plain values."""
    if limit is None:
        return None
    return {
        "k": limit.k,
        "variance": number(limit.variance),
        "tendency": limit.tendency,
        "index": limit.index,
        "limit": limit.value,
    }
