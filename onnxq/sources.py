"""Where data comes from, and how it becomes batches."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onnxq.errors import CalibrationError
from onnxq.feeds import Batch, Cut, batch_size, batches
from onnxq.graph.session import Session
from onnxq.readers import Reader, about, open_reader

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where data comes from.

    Attributes:
        data: A path, ``random``, or ``module:Class``.
        reader: Name of a reader; None to choose by the path.
        options: Options of the reader.
        cut: Batch size, number of samples, shard.
    """

    data: str
    reader: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    cut: Cut = field(default_factory=Cut)


def opened(source: Source, session: Session) -> Reader:
    """Open a source and pass on what its reader wants the user to know."""
    reader = open_reader(source.data, session.inputs, source.reader, source.options)
    for note in getattr(reader, "notes", ()):
        log.warning("%s", note)
    return reader


def expected(reader: Reader, cut: Cut) -> int | None:
    """Return how many samples a cut of a reader will yield, or None if it cannot tell."""
    try:
        there = len(reader)  # type: ignore[arg-type]
    except TypeError:
        return None
    there = min(there, cut.samples or there)
    return sum(map(cut.takes, range(there))) // cut.shard[1]


def expected_batches(reader: Reader, session: Session, cut: Cut) -> int | None:
    """Return how many batches a reader fills at most, or None if it cannot tell."""
    samples = expected(reader, cut)
    size = batch_size(reader, session.inputs, cut)
    return None if samples is None else -(-samples // size)


def batches_of(source: Source, session: Session) -> Iterator[Batch]:
    """Open a source and cut it into batches."""
    return batches_from(source, opened(source, session), session)


def batches_from(source: Source, reader: Reader, session: Session) -> Iterator[Batch]:
    """Cut a reader into batches; errors say which data they are about."""
    try:
        yield from batches(reader, session.inputs, source.cut)
    except CalibrationError as error:
        raise about(source.data, error) from error


def fingerprint(source: Source) -> list[Any]:
    """Return plain values that change when the data does: names, sizes and times of files."""
    path = Path(source.data)
    files = sorted(path.rglob("*")) if path.is_dir() else [path] if path.exists() else []
    stats = [(str(file), file.stat()) for file in files]
    seen = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return [source.data, source.reader, dict(source.options), asdict(source.cut), seen]
