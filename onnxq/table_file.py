"""Calibration tables on disk: a zip of ``table.json`` and npy arrays, read without pickle."""

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.errors import CalibrationError
from onnxq.files import staged
from onnxq.numerics.histogram import FloatHistogram
from onnxq.readers import Feed
from onnxq.table import CalibrationTable, KeptSamples
from onnxq.types import Array, TensorStats

FORMAT = 1
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


def save(table: CalibrationTable, path: Path) -> None:
    """Write a table; the same table always gives the same bytes.

    Raises:
        OutputError: The file cannot be written.
    """
    arrays: dict[str, Array] = {}
    tensors = {}
    for number, name in enumerate(sorted(table.tensors)):
        tensors[name], arrays[f"t{number}"] = _encode_stats(table.tensors[name])
    feeds = {}
    for number, (key, feed) in enumerate(sorted(table.kept.feeds.items())):
        feeds[key] = {name: f"s{number}.{i}" for i, name in enumerate(sorted(feed))}
        arrays.update({feeds[key][name]: array for name, array in feed.items()})
    meta = {
        "format": FORMAT,
        "model_sha256": table.model_sha256,
        "samples": table.samples,
        "batch_size": table.batch_size,
        "versions": dict(table.versions),
        "tensors": tensors,
        "kept": {
            "limit": table.kept.limit,
            "limit_bytes": table.kept.limit_bytes,
            "cut": table.kept.cut,
            "feeds": feeds,
        },
    }
    with staged(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        _add(archive, "table.json", json.dumps(meta, indent=1, sort_keys=True).encode())
        for name, array in arrays.items():
            stream = io.BytesIO()
            np.lib.format.write_array(stream, array, allow_pickle=False)
            _add(archive, f"{name}.npy", stream.getvalue())


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Add a member without a time stamp."""
    info = zipfile.ZipInfo(name)
    archive.writestr(info, content, zipfile.ZIP_DEFLATED, compresslevel=6)


def _encode_stats(stats: TensorStats) -> tuple[dict[str, Any], Array]:
    """Return what goes to the JSON file, and all counts of all histograms joined."""
    histograms = [
        [h.zeros, h.negative_start, h.negative.size, h.positive_start, h.positive.size]
        for h in stats.histograms
    ]
    meta = {
        "count": stats.count.tolist(),
        "lo": stats.lo.tolist(),
        "hi": stats.hi.tolist(),
        "nan": stats.nan,
        "infinite": stats.infinite,
        "histograms": histograms,
    }
    runs = [run for h in stats.histograms for run in (h.negative, h.positive)]
    return meta, np.concatenate([np.zeros(0, np.int64), *runs])


def _decode_stats(meta: Mapping[str, Any], counts: Array) -> TensorStats:
    """Invert `_encode_stats`."""
    histograms, at = [], 0
    for zeros, low_start, low_size, high_start, high_size in meta["histograms"]:
        middle, end = at + low_size, at + low_size + high_size
        low, high = counts[at:middle], counts[middle:end]
        histograms.append(FloatHistogram(zeros, low_start, low, high_start, high))
        at = end
    return TensorStats(
        count=meta["count"],
        lo=meta["lo"],
        hi=meta["hi"],
        nan=meta["nan"],
        infinite=meta["infinite"],
        histograms=tuple(histograms),
    )


def load(path: Path) -> CalibrationTable:
    """Read a table.

    Raises:
        CalibrationError: The file is missing, damaged, or no calibration table.
    """
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


def _decode(archive: zipfile.ZipFile) -> CalibrationTable:
    """Build the table from an open archive."""
    meta = json.loads(_read(archive, "table.json"))
    if meta["format"] != FORMAT:
        raise CalibrationError(
            f"{archive.filename}: table format {meta['format']} is not known here: calibrate again"
        )
    tensors = {
        name: _decode_stats(stats, _array(archive, f"t{number}"))
        for number, (name, stats) in enumerate(sorted(meta["tensors"].items()))
    }
    kept = meta["kept"]
    feeds: dict[str, Feed] = {
        key: {name: _array(archive, member) for name, member in members.items()}
        for key, members in sorted(kept["feeds"].items())
    }
    return CalibrationTable(
        model_sha256=meta["model_sha256"],
        tensors=tensors,
        samples=meta["samples"],
        batch_size=meta["batch_size"],
        versions=meta["versions"],
        kept=KeptSamples(
            limit=kept["limit"], limit_bytes=kept["limit_bytes"], feeds=feeds, cut=kept["cut"]
        ),
    )


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
