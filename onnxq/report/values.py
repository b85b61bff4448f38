"""Values as JSON can hold them."""

import math
from typing import Any

from onnxq.passes import PassReport


def number(value: float) -> float | str | None:
    """Return a number as JSON can hold it: infinities as text, NaN as null."""
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)


def compact(count: int) -> str:
    """Return a count in at most five characters or so, e.g. ``803k``."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= max(0.9995 * size, 10_000):
            return f"{count / size:.3g}{unit}"
    return str(count)


def pass_dict(report: PassReport) -> dict[str, Any]:
    """Return what a pass did."""
    skipped = [{"node": label, "reason": reason} for label, reason in report.skipped]
    found = {"name": report.name, "changed": list(report.changed), "skipped": skipped}
    return {**found, "note": report.note} if report.note else found
