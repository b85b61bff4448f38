"""Names to classes: a literal tuple of ours plus the entry points of installed packages."""

from collections.abc import Iterable
from dataclasses import fields
from importlib.metadata import entry_points
from typing import Any

from onnxq.errors import RecipeError, UnknownNameError


def known(kind: str, builtin: Iterable[type] = ()) -> dict[str, Any]:
    """List what is registered under a kind.

    Args:
        kind: The plural used in the entry point group, e.g. ``ranges`` for ``onnxq.ranges``.
        builtin: Classes shipped with onnxq; each has a class attribute ``name``.

    Returns:
        Name to class, or to the entry point, not loaded yet, of a plug-in.
    """
    found: dict[str, Any] = {point.name: point for point in entry_points(group=f"onnxq.{kind}")}
    found.update({cls.name: cls for cls in builtin})  # type: ignore[attr-defined]
    return found


def find(kind: str, name: str, builtin: Iterable[type] = ()) -> Any:
    """Return the class registered under a name.

    Args:
        kind: The plural used in the entry point group, e.g. ``ranges``.
        name: What people type.
        builtin: Classes shipped with onnxq.

    Raises:
        UnknownNameError: Nothing has this name; the message offers the nearest.
    """
    for cls in builtin:  # first: looking through installed packages takes milliseconds
        if cls.name == name:  # type: ignore[attr-defined]
            return cls
    found = known(kind, builtin)
    if name not in found:
        raise UnknownNameError(kind.removesuffix("s"), name, found)
    entry = found[name]
    return entry.load() if hasattr(entry, "load") else entry


def build(cls: type, options: dict[str, Any], what: str) -> Any:
    """Construct a registered dataclass from options a user wrote.

    Args:
        cls: A dataclass; its fields are the options.
        options: Field name to value, values as in YAML or as text from a flag.
        what: How the message names it, e.g. ``range 'percentile'``.

    Raises:
        RecipeError: An option is unknown or its value is refused by the class.
    """
    names = {field.name for field in fields(cls) if field.init}
    for key in options:
        if key not in names:
            raise UnknownNameError(f"option of {what}", key, names)
    try:
        return cls(**{key: parsed(value) for key, value in options.items()})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{what}: {error}") from error


def parsed(value: Any) -> Any:
    """Turn the text of a flag into the number it spells; leave everything else alone."""
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
