"""Labels of images: from the folders they lie in, or from a CSV or JSON file."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calib_readers._common import one_line, quoted

Label = npt.NDArray[Any]

FOLDERS = "folders"


def labels_of(
    labels: str, files: Sequence[Path], source: Path
) -> tuple[list[Label], tuple[str, ...]]:
    """Find the label of each image.

    In a file each name is the image's path below the source, with forward slashes, or the last
    part of it. Labels that are all whole numbers are class indices, lists of whole numbers are
    filled up with -1 to one length, everything else is text.

    Args:
        labels: ``folders``, or a .csv file of two columns, or a .json file with one object.
        files: The images.
        source: The directory they were looked for in, or the one image.

    Returns:
        One array a file, first axis 1; and what there is to say.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not of its form, or an image has no label or two.
    """
    root = source if source.is_dir() else source.parent
    if labels == FOLDERS:
        return _from_folders(files, root)
    path = Path(labels)
    table = _read(path)
    names = [file.relative_to(root).as_posix() for file in files]
    found, used = [], set()
    for name in names:
        key = _key(name, table, path)
        used.add(key)
        found.append(table[key])
    unused = len(table) - len(used)
    said = (f"images: {path}: {unused} labels without an image",) if unused else ()
    return _arrays(found, path), said


def _from_folders(files: Sequence[Path], root: Path) -> tuple[list[Label], tuple[str, ...]]:
    """Number the class folders in the order of their names; numbers name themselves."""
    parts = [file.relative_to(root).parts for file in files]
    if any(len(part) < 2 for part in parts):
        raise ValueError(f"{root}: labels=folders, but there are images that lie in no folder")
    classes = sorted({part[0] for part in parts})
    if all(name.isdecimal() for name in classes):
        numbers = {name: int(name) for name in classes}
    else:
        numbers = {name: number for number, name in enumerate(classes)}
    first, last = classes[0], classes[-1]
    said = f"images: {len(classes)} classes, {first!r} is {numbers[first]}"
    said += f", … {last!r} is {numbers[last]}" if len(classes) > 1 else ""
    return [np.array([numbers[part[0]]], np.int64) for part in parts], (said,)


def _read(path: Path) -> dict[str, Any]:
    """Read a file of labels."""
    readers = {".csv": _csv, ".json": _json}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise ValueError(f"{path}: labels come from a .csv or .json file, or from 'folders'")
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no UTF-8 text: {one_line(error)}") from error
    table = readers[suffix](path, text)
    if not table:
        raise ValueError(f"{path}: no labels in this file")
    return table


def _csv(path: Path, text: str) -> dict[str, Any]:
    """Read rows of file name and label; a first row ``file,label`` or the like is a heading."""
    table: dict[str, Any] = {}
    rows = list(csv.reader(text.splitlines()))
    for line, row in enumerate(rows, 1):
        if not row or (line == 1 and [c.strip().lower() for c in row][1:] == ["label"]):
            continue
        if len(row) != 2:
            raise ValueError(f"{path}: line {line}: {len(row)} columns; file name and label wanted")
        if row[0] in table:
            raise ValueError(f"{path}: line {line}: a second label for {row[0]!r}")
        table[row[0]] = row[1]
    if all(_whole(label) for label in table.values()):
        return {name: int(label) for name, label in table.items()}
    return table


def _whole(text: str) -> bool:
    """Say whether a text spells a class index; 007 is rather a text."""
    return text.isascii() and text.isdecimal() and str(int(text)) == text


def _json(path: Path, text: str) -> dict[str, Any]:
    """Read one object from file name to label."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(table := dict(pairs)) != len(pairs):
            raise ValueError("a name occurs twice")
        return table

    try:
        table = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {one_line(error)}") from error
    if not isinstance(table, dict):
        raise ValueError(f"{path}: one object from file name to label is wanted")  # noqa: TRY004
    return table


def _key(name: str, table: Mapping[str, Any], path: Path) -> str:
    """Return the name under which the table has an image."""
    for key in (name, name.rpartition("/")[2]):
        if key in table:
            return key
    raise ValueError(f"{path}: no label for {name!r}; the file names {quoted(table, 3)}")


def _arrays(labels: Sequence[Any], path: Path) -> list[Label]:
    """Turn labels of one kind into arrays."""
    if all(type(label) is int for label in labels):
        return [np.array([label], np.int64) for label in labels]
    if all(isinstance(label, str) for label in labels):
        return [np.array([label]) for label in labels]
    if not all(isinstance(v, list) and all(type(i) is int for i in v) for v in labels):
        raise ValueError(f"{path}: labels must be all whole numbers, all texts, or all lists")
    longest = max(map(len, labels))
    return [np.array([v + [-1] * (longest - len(v))], np.int64) for v in labels]
