"""Calibration tables on disk: a zip of ``table.json`` and npy arrays, read without pickle."""

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.errors import CalibrationError
from onnxq.files import staged
from onnxq.numerics.ends import Ends
from onnxq.numerics.histogram import FloatHistogram
from onnxq.readers import Feed
from onnxq.table import CalibrationTable, Group, KeptSamples
from onnxq.types import Array, TensorStats

FORMAT = 2
DAMAGE = (  # what reading bytes that are no table can raise
    zipfile.BadZipFile,
    zlib.error,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
LARGEST_MEMBER = 1 << 30  # bytes; a member that claims more is no honest table
ZIP = b"PK"  # how every zip begins, and no model


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What is needed to go on from a table that is not complete.

    Attributes:
        run: Digest of all that the run must have in common with the one that goes on.
        batches: How many batches are in the table.
    """

    run: str
    batches: int


def save(table: CalibrationTable, path: Path, checkpoint: Checkpoint | None = None) -> None:
    """Write a table; the same table always gives the same bytes.

    Args:
        table: The table.
        path: Where to.
        checkpoint: What `resume` needs to know, if the table is not complete yet.

    Raises:
        OutputError: The file cannot be written.
    """
    arrays: dict[str, Array] = {}
    groups = [_encode_group(group, f"g{n}", arrays) for n, group in enumerate(table.groups)]
    feeds = {}
    for number, (key, feed) in enumerate(sorted(table.kept.feeds.items())):
        feeds[key] = {name: f"s{number}.{i}" for i, name in enumerate(sorted(feed))}
        arrays.update({feeds[key][name]: array for name, array in feed.items()})
    meta = {
        "format": FORMAT,
        "model_sha256": table.model_sha256,
        "batch_size": table.batch_size,
        "threads": table.threads,
        "versions": dict(table.versions),
        "groups": groups,
        "kept": {
            "limit": table.kept.limit,
            "limit_bytes": table.kept.limit_bytes,
            "cut": table.kept.cut,
            "feeds": feeds,
        },
        "checkpoint": asdict(checkpoint) if checkpoint else None,
    }
    level = 1 if checkpoint else 6  # a checkpoint is soon gone
    with staged(path) as temporary, zipfile.ZipFile(temporary, "w", compresslevel=level) as archive:
        _add(archive, "table.json", json.dumps(meta, indent=1, sort_keys=True).encode())
        for name, array in arrays.items():
            stream = io.BytesIO()
            np.lib.format.write_array(stream, array, allow_pickle=False)
            _add(archive, f"{name}.npy", stream.getvalue())


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Add a member without a time stamp."""
    info = zipfile.ZipInfo(name)
    archive.writestr(info, content, zipfile.ZIP_DEFLATED, archive.compresslevel)


def _encode_group(group: Group, prefix: str, arrays: dict[str, Array]) -> dict[str, Any]:
    """Return what goes to the JSON file; the arrays are added to ``arrays``."""
    plain: dict[str, Any] = {"samples": group.samples}
    for kind, seen in (("tensors", group.tensors), ("channels", group.channels)):
        plain[kind] = {}
        for number, name in enumerate(sorted(seen)):
            member = f"{prefix}.{kind[0]}{number}"
            plain[kind][name], counts, ends = _encode_stats(seen[name])
            arrays[member] = counts
            arrays[f"{member}e"] = ends
    return plain


def _encode_stats(stats: TensorStats) -> tuple[dict[str, Any], Array, Array]:
    """Return what goes to the JSON file, all counts of all histograms joined, and all ends."""
    histograms = [
        [h.zeros, h.negative_start, h.negative.size, h.positive_start, h.positive.size]
        for h in stats.histograms
    ]
    ends = [[e.keep, e.above, e.below, e.largest.size] for e in stats.ends]
    meta = {
        "count": stats.count.tolist(),
        "lo": stats.lo.tolist(),
        "hi": stats.hi.tolist(),
        "nan": stats.nan,
        "infinite": stats.infinite,
        "histograms": histograms,
        "ends": ends,
    }
    counts = [run for h in stats.histograms for run in (h.negative, h.positive)]
    values = [run for e in stats.ends for run in (e.largest, e.smallest)]
    return (
        meta,
        np.concatenate([np.zeros(0, np.int64), *counts]),
        np.concatenate([np.zeros(0, np.float32), *values]),
    )


def _decode_stats(meta: Mapping[str, Any], counts: Array, values: Array) -> TensorStats:
    """Invert `_encode_stats`."""
    histograms, at = [], 0
    for zeros, low_start, low_size, high_start, high_size in meta["histograms"]:
        middle, end = at + low_size, at + low_size + high_size
        low, high = counts[at:middle], counts[middle:end]
        histograms.append(FloatHistogram(zeros, low_start, low, high_start, high))
        at = end
    ends, at = [], 0
    for keep, above, below, size in meta["ends"]:
        largest, smallest = values[at : at + size], values[at + size : at + 2 * size]
        ends.append(Ends(keep, above, below, largest, smallest))
        at += 2 * size
    return TensorStats(
        count=meta["count"],
        lo=meta["lo"],
        hi=meta["hi"],
        nan=meta["nan"],
        infinite=meta["infinite"],
        histograms=tuple(histograms),
        ends=tuple(ends),
    )


def is_table(path: Path) -> bool:
    """Say whether a file looks like a table, be it damaged, and not like a model."""
    try:
        with path.open("rb") as file:
            return file.read(len(ZIP)) == ZIP
    except OSError:
        return False


def load(path: Path) -> CalibrationTable:
    """Read a table.

    Raises:
        CalibrationError: The file is missing, damaged, or no calibration table.
    """
    return _load(path)[0]


def resume(path: Path, run: str) -> tuple[CalibrationTable, int]:
    """Read a checkpoint.

    Args:
        path: Where it is.
        run: Digest of the run that wants to go on from it.

    Returns:
        The table, and the number of batches in it.

    Raises:
        CalibrationError: The file is missing, damaged, or no checkpoint of this run.
    """
    table, checkpoint = _load(path)
    if checkpoint is None or checkpoint.run != run:
        raise CalibrationError(
            f"{path}: is of another run: other data, model, options or versions of tools; "
            "remove it, or calibrate without --resume"
        )
    return table, checkpoint.batches


def _load(path: Path) -> tuple[CalibrationTable, Checkpoint | None]:
    """Read a table, and what it says as a checkpoint."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _decode(archive)
    except FileNotFoundError:
        raise CalibrationError(f"{path}: no such file") from None
    except OSError as error:
        raise CalibrationError(f"{path}: cannot be read: {error.strerror or error}") from error
    except DAMAGE as error:
        raise CalibrationError(
            f"{path}: not a calibration table, or a damaged one; make one with onnxq calibrate"
        ) from error


def _decode(archive: zipfile.ZipFile) -> tuple[CalibrationTable, Checkpoint | None]:
    """Build the table from an open archive."""
    meta = json.loads(_read(archive, "table.json"))
    if meta["format"] != FORMAT:
        raise CalibrationError(
            f"{archive.filename}: table format {meta['format']} is not known here: calibrate again"
        )
    groups = [_decode_group(archive, f"g{n}", plain) for n, plain in enumerate(meta["groups"])]
    kept = meta["kept"]
    feeds: dict[str, Feed] = {
        key: {name: _array(archive, member) for name, member in members.items()}
        for key, members in sorted(kept["feeds"].items())
    }
    table = CalibrationTable(
        model_sha256=meta["model_sha256"],
        groups=tuple(groups),
        batch_size=meta["batch_size"],
        threads=meta["threads"],
        versions=meta["versions"],
        kept=KeptSamples(
            limit=kept["limit"], limit_bytes=kept["limit_bytes"], feeds=feeds, cut=kept["cut"]
        ),
    )
    return table, Checkpoint(**meta["checkpoint"]) if meta["checkpoint"] else None


def _decode_group(archive: zipfile.ZipFile, prefix: str, plain: Mapping[str, Any]) -> Group:
    """Invert `_encode_group`."""
    seen: dict[str, dict[str, TensorStats]] = {"tensors": {}, "channels": {}}
    for kind, found in seen.items():
        for number, (name, stats) in enumerate(sorted(plain[kind].items())):
            member = f"{prefix}.{kind[0]}{number}"
            arrays = _array(archive, member), _array(archive, f"{member}e")
            found[name] = _decode_stats(stats, *arrays)
    return Group(samples=plain["samples"], **seen)


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read a member of a sane size."""
    if archive.getinfo(name).file_size > LARGEST_MEMBER:
        raise ValueError(f"{name} claims to be larger than {LARGEST_MEMBER} bytes")
    return archive.read(name)


def _array(archive: zipfile.ZipFile, name: str) -> Array:
    """Read one array."""
    stream = io.BytesIO(_read(archive, f"{name}.npy"))
    array: Array = np.lib.format.read_array(stream, allow_pickle=False)
    return array
