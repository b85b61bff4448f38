"""Options of readers: text from a flag, or numbers and lists from a recipe, to values."""

import math
from collections.abc import Iterable, Sequence

from calib_readers._common import did_you_mean, quoted

Option = str | float | Sequence[float] | None


def integer(option: str, value: Option, *, least: int) -> int:
    """Read a whole number.

    Args:
        option: The option's name, for the message.
        value: ``32`` or ``"32"``.
        least: The smallest value allowed.

    Raises:
        ValueError: It is none, or too small.
    """
    try:
        found = float(value) if isinstance(value, str | int | float) else math.nan
    except (OverflowError, ValueError):
        found = math.nan
    if isinstance(value, bool) or not found.is_integer() or found < least:
        raise ValueError(f"option {option}: {value!r} is no whole number of at least {least}")
    return int(found)


def numbers(option: str, value: Option) -> tuple[float, ...]:
    """Read one or more finite numbers.

    Args:
        option: The option's name, for the message.
        value: ``0.5``, ``"0.485,0.456,0.406"``, ``"1/255"`` or a list.

    Raises:
        ValueError: Something in it is no number.
    """
    try:
        if isinstance(value, str):
            found = tuple(_fraction(part) for part in value.split(","))
        elif isinstance(value, Sequence):
            found = tuple(float(part) for part in value)
        elif isinstance(value, bool) or value is None:
            found = ()
        else:
            found = (float(value),)
    except (OverflowError, TypeError, ValueError, ZeroDivisionError):
        found = ()
    if not found or not all(abs(number) < float("inf") for number in found):
        raise ValueError(f"option {option}: {value!r} is no number or list like 0.5,0.5,0.5")
    return found


def _fraction(text: str) -> float:
    above, _, below = text.partition("/")
    return float(above) / float(below) if below else float(text)


def number(option: str, value: Option) -> float:
    """Read one finite number.

    Args:
        option: The option's name, for the message.
        value: ``0.5``, ``"0.5"`` or ``"1/255"``.

    Raises:
        ValueError: It is none, or several.
    """
    found = numbers(option, value)
    if len(found) != 1:
        raise ValueError(f"option {option}: {value!r} is not one number")
    return found[0]


def choice(option: str, value: Option, known: Iterable[str]) -> str:
    """Read one of the names there are.

    Args:
        option: The option's name, for the message.
        value: A name, in any case.
        known: The names there are.

    Raises:
        ValueError: It is none of them.
    """
    names = list(known)
    text = str(value).strip().lower()
    if text not in names:
        hint = did_you_mean(text, names)
        raise ValueError(f"option {option}: {value!r} is none of {quoted(names)}{hint}")
    return text


def height_width(option: str, value: Option) -> tuple[int, int]:
    """Read a size in pixels.

    Args:
        option: The option's name, for the message.
        value: ``224``, ``"224"``, ``"480x640"`` (height first) or ``[480, 640]``.

    Returns:
        Height and width.

    Raises:
        ValueError: It is none of these.
    """
    parts: Sequence[Option]
    if isinstance(value, str):
        parts = value.lower().split("x")
    elif isinstance(value, Sequence):
        parts = value
    else:
        parts = [value]
    if len(parts) not in (1, 2):
        raise ValueError(f"option {option}: {value!r} is neither a side nor HEIGHTxWIDTH")
    sides = [integer(option, part, least=1) for part in parts]
    return sides[0], sides[-1]
