"""Numbers as JSON can hold them."""

import math


def number(value: float) -> float | str | None:
    """Return a number as JSON can hold it: infinities as text, NaN as null."""
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)
