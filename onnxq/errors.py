"""What can go wrong, and the exit code the command line gives it.

    OnnxqError
    ├── UsageError          2  bad flags, missing file
    ├── ModelError          3  unreadable, fails the checker
    │   └── NothingToQuantizeError
    ├── CalibrationError    4  reader empty, wrong input, NaN, table of another model
    │   └── EmptyShardError    fewer batches than shards
    ├── RecipeError         5  unknown key, rule that matches nothing
    │   └── UnknownNameError   unknown range algorithm, reader, target, …
    ├── UnsupportedError    6  the target or the emitter cannot express the plan
    ├── QualityError        7  a threshold the user set was missed
    └── OutputError         8  unwritable, disk full, output equals an input

A message is one line: what is wrong, where, and what to do. Anything that is not an
`OnnxqError` is a bug and leaves with its traceback and exit code 1.
"""

import copyreg
import difflib
from collections.abc import Iterable
from typing import Any

LISTED = 10  # names a message lists at most


class OnnxqError(Exception):
    """Base of every error a user can cause or mend."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it travel between processes, whatever its constructor takes."""
        return copyreg.__newobj__, (type(self), *self.args)  # type: ignore[attr-defined]


class UsageError(OnnxqError):
    """The command line asks for something that cannot be started."""

    exit_code = 2


class ModelError(OnnxqError):
    """The model cannot be read, checked or run, or holds nothing to quantize."""

    exit_code = 3


class NothingToQuantizeError(ModelError):
    """The model holds nothing to quantize, or the recipe leaves nothing."""


class CalibrationError(OnnxqError):
    """The calibration data or table does not fit the model."""

    exit_code = 4


class EmptyShardError(CalibrationError):
    """The data has fewer batches than shards, and none for this one."""


class RecipeError(OnnxqError):
    """The recipe holds a key, value or rule that means nothing here."""

    exit_code = 5


class UnknownNameError(RecipeError):
    """A name is not registered; the message offers the nearest one."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        """Build the message from what was asked and what there is.

        Args:
            kind: What the name should have named, e.g. ``range``.
            name: What was asked for.
            known: The names there are.
        """
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        listed = ", ".join(names[:LISTED]) or "none"
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        super().__init__(f"unknown {kind} {name!r}: {hint}known: {listed}{more}")


class UnsupportedError(OnnxqError):
    """The target or the emitter cannot express what was asked."""

    exit_code = 6


class QualityError(OnnxqError):
    """The result misses a threshold the user set."""

    exit_code = 7


class OutputError(OnnxqError):
    """The result cannot be written."""

    exit_code = 8


class Interrupted(KeyboardInterrupt):
    """Ctrl-C was pressed, and what was done so far is kept; the message says where."""
