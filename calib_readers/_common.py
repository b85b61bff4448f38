"""What the readers share: the shape of an input, kinds of sources, and wording of errors."""

import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

Feed = dict[str, npt.NDArray[Any]]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})


class Input(Protocol):
    """One input of the model, as onnxq describes it to a reader."""

    @property
    def name(self) -> str:
        """The input's name."""
        ...

    @property
    def dtype(self) -> str:
        """The numpy dtype name, e.g. ``float32``."""
        ...

    @property
    def shape(self) -> tuple[int | None, ...] | None:
        """One entry an axis, None for an open one; None for unknown rank."""
        ...


def kind_of(path: Path) -> str | None:
    """Name the one reader that takes a path without being asked for; None for none.

    A directory with any .npz is ``feeds``, one with .npy is ``npy``, one with images at any
    depth is ``images``. With .npy and images side by side nobody can know: the user says.
    """
    if path.is_dir():
        return _kind_of_directory(path)
    if not path.is_file():
        return None
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "images"
    return {".npz": "npz", ".npy": "npy"}.get(suffix)


def _kind_of_directory(path: Path) -> str | None:
    suffixes = {entry.suffix.lower() for entry in path.iterdir() if is_visible(entry)}
    if ".npz" in suffixes:
        return "feeds"
    if ".npy" in suffixes:
        return None if suffixes & IMAGE_SUFFIXES else "npy"
    found = any(file.suffix.lower() in IMAGE_SUFFIXES for file in walk(path))
    return "images" if found else None


def is_visible(path: Path) -> bool:
    """Tell data from what systems leave behind: ``.DS_Store``, ``._photo.jpg``."""
    return not path.name.startswith(".")


def walk(directory: Path) -> Iterator[Path]:
    """Yield the visible files below a directory in sorted order; links are followed once."""
    seen: set[Path] = set()
    for folder, folders, files in os.walk(directory, onerror=_refuse, followlinks=True):
        real = Path(folder).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from filter(is_visible, (Path(folder, name) for name in sorted(files)))


def _refuse(error: OSError) -> None:
    raise error


def files_in(directory: Path, suffix: str, reader: str) -> tuple[list[Path], tuple[str, ...]]:
    """List a directory's files of one kind, sorted by name.

    Args:
        directory: Where to look, not below.
        suffix: E.g. ``.npz``.
        reader: The reader's name, for the note and the error.

    Returns:
        The files, and a note when other files were left aside.

    Raises:
        ValueError: There is none.
    """
    entries = sorted(filter(is_visible, directory.iterdir()), key=lambda entry: entry.name)
    files = [entry for entry in entries if entry.suffix.lower() == suffix]
    if not files:
        raise ValueError(f"{directory}: no {suffix} file in this directory for reader {reader!r}")
    return files, left_aside(reader, len(entries) - len(files), directory)


def left_aside(reader: str, count: int, directory: Path) -> tuple[str, ...]:
    """Say how many entries of a directory are not read, if any."""
    return (f"{reader}: left aside in {directory}: {count} of other kinds",) if count else ()


def need_file(source: Path, reader: str, instead: str) -> None:
    """Refuse a directory where a reader takes one file.

    Args:
        source: What was given.
        reader: The reader's name.
        instead: What to do about a directory.

    Raises:
        OSError: Nothing is there.
        ValueError: It is a directory.
    """
    source.stat()
    if source.is_dir():
        raise ValueError(f"{source}: a directory, but reader {reader!r} takes one file; {instead}")


def need_directory(source: Path, reader: str, instead: str) -> None:
    """Refuse a file where a reader takes a directory.

    Args:
        source: What was given.
        reader: The reader's name.
        instead: What to do about a file.

    Raises:
        OSError: Nothing is there.
        ValueError: It is no directory.
    """
    source.stat()
    if not source.is_dir():
        raise ValueError(f"{source}: no directory, which reader {reader!r} takes; {instead}")


def only_input(inputs: Sequence[Input], reader: str) -> Input:
    """Return the model's input when it has one only.

    Args:
        inputs: The model's inputs.
        reader: The reader's name.

    Raises:
        ValueError: It has several, or none.
    """
    if len(inputs) != 1:
        names = quoted(item.name for item in inputs)
        raise ValueError(
            f"reader {reader!r} feeds models of one input, this one takes {names}: "
            "save the data as .npz with these keys"
        )
    return inputs[0]


def quoted(names: Iterable[str], most: int = 8) -> str:
    """Join names for a message; a long list is cut."""
    listed = [repr(name) for name in names]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return (", ".join(listed[:most]) or "none") + more


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Offer the nearest known name as the end of a sentence; empty when none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def one_line(error: BaseException, most: int = 200) -> str:
    """Return an exception's message without line breaks and cut, or its type for none."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else f"{text[:most]}…"
