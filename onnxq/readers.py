"""Calibration and evaluation data: what a reader offers, and finding the one that fits.

A reader lives outside of onnxq (see the package ``calib_readers``), needs no import from it,
and is found through the entry point group ``onnxq.readers``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy.typing as npt

from onnxq.errors import CalibrationError, UsageError
from onnxq.registry import find, known

Feed = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class InputInfo:
    """One model input, as a reader sees it.

    Attributes:
        name: The input's name.
        dtype: numpy dtype name, e.g. ``float32``.
        shape: One entry an axis; None where the model leaves it open. None for unknown rank.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


@runtime_checkable
class Reader(Protocol):
    """A re-iterable source of feeds: iterating twice gives the same twice.

    Attributes:
        name: What people type after ``--reader``.
        stackable: True when the first axis of every array counts samples, so that feeds may
            be cut and joined; False when a feed must reach the model as it is.

    A reader class is constructed as ``Reader(source, inputs, **options)`` and has a static
    ``accepts(path) -> bool`` which says whether an existing path is its kind of data. Keys of
    a feed that are no model input and start with ``label`` are labels. Readers raise
    ValueError or OSError with one clear line; onnxq adds what to do.
    """

    name: ClassVar[str]
    stackable: bool

    def __init__(self, source: Path, inputs: Sequence[InputInfo], **options: Any) -> None:
        """Open the source; cheap, reads no samples."""
        ...

    def __iter__(self) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
        """Yield feeds from the beginning."""
        ...


def open_reader(
    data: str, inputs: Sequence[InputInfo], name: str | None, options: Mapping[str, Any]
) -> Reader:
    """Open the reader that fits a data source.

    Args:
        data: A path; ``random``; or ``module:Class`` for a reader of one's own. What exists as
            a path is a path.
        inputs: What the model takes.
        name: A registered reader to use, whatever the source looks like; None to choose.
        options: Options of that reader.

    Raises:
        UsageError: The source does not exist.
        CalibrationError: No reader takes this source, or the reader refuses it or an option.
        UnknownNameError: No reader has that name.
    """
    path = Path(data)
    custom = not path.exists() and data != "random" and name is None
    if custom and ":" not in data:
        raise UsageError(f"{data}: no such file or folder")
    try:
        reader: Reader
        if custom:
            reader = find("loaders", "module")(data, inputs, options)
        else:
            cls = _choose(data, path, name)
            _check_options(cls, options)
            reader = cls(path, inputs, **options)
    except (TypeError, ValueError, OSError) as error:
        raise about(data, error) from error
    return reader


def _check_options(cls: Any, options: Mapping[str, Any]) -> None:
    """Refuse what a reader does not take, in the words of the command line.

    Raises:
        ValueError: It has no such option.
    """
    parameters = list(signature(cls).parameters.values())[2:]  # behind source and inputs
    if any(each.kind is Parameter.VAR_KEYWORD for each in parameters):
        return
    takes = [each.name for each in parameters if each.kind is not Parameter.VAR_POSITIONAL]
    for option in options:
        if option == "labels" and option not in takes:
            raise ValueError(
                f"--labels is for images; reader {cls.name!r} takes the arrays of the "
                "data whose names begin with 'label'"
            )
        if option not in takes:
            has = f"its options are {', '.join(takes)}" if takes else "it has none"
            raise ValueError(f"reader {cls.name!r} has no option {option!r}: {has}")


def about(data: str, error: Exception) -> CalibrationError:
    """Return an error that says which data it is about, if it does not say so already."""
    text = str(error)
    kind = type(error) if isinstance(error, CalibrationError) else CalibrationError
    return kind(text if data in text else f"{data}: {text}")


def _choose(data: str, path: Path, name: str | None) -> Any:
    """Return the class to read a path with."""
    if name is not None or data == "random":
        return find("readers", name or data)
    for candidate in sorted(known("readers")):
        cls = find("readers", candidate)
        if cls.accepts(path):
            return cls
    if path.is_dir() and not any(path.iterdir()):
        raise CalibrationError(f"{data}: the folder is empty")
    names = ", ".join(sorted(known("readers")))
    raise CalibrationError(f"{data}: no reader takes this; name one of {names} with --reader")
