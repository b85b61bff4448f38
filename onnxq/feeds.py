"""Batches of any reader, checked against what the model takes."""

import difflib
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from onnxq.errors import CalibrationError, EmptyShardError
from onnxq.readers import Feed, InputInfo, Reader
from onnxq.types import Array

log = logging.getLogger(__name__)

HELD_OUT = 5  # every so many samples one is held out
PARTS = ("all", "kept", "held")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One feed, ready for the model.

    Attributes:
        inputs: One array a model input.
        labels: The feed's ``label…`` arrays.
        samples: How many samples it holds: rows where feeds stack, else 1.
        splittable: Whether each row may be run alone.
        number: Which batch of all the data it is, shards counted together.
    """

    inputs: Feed
    labels: Feed
    samples: int
    splittable: bool
    number: int = 0

    def rows(self) -> Iterator[Feed]:
        """Yield its samples as feeds of their own."""
        if not self.splittable:
            yield self.inputs
            return
        for row in range(self.samples):
            yield {name: array[row : row + 1] for name, array in self.inputs.items()}


def rows(batch: Batch, start: int, stop: int) -> Batch:
    """Return some rows of a splittable batch."""
    inputs = {name: array[start:stop] for name, array in batch.inputs.items()}
    return replace(batch, inputs=inputs, samples=min(stop, batch.samples) - start)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Which batches to make of a reader.

    Attributes:
        batch_size: Samples a batch, where the model leaves it open; the last may be smaller.
        samples: Stop after so many samples of the data; None for all.
        shard: (I, N): of the batches only each N-th, beginning with the I-th, 0 ≤ I < N.
        part: Of the samples ``all``, those ``kept`` when each fifth is held out, or those ``held``
            out; batches are filled with those alone.
    """

    batch_size: int = 1
    samples: int | None = None
    shard: tuple[int, int] = (0, 1)
    part: str = "all"

    def __post_init__(self) -> None:
        """Refuse a part that is none.

        Raises:
            ValueError: It is none of those above.
        """
        if self.part not in PARTS:
            raise ValueError(f"part must be one of {', '.join(PARTS)}, not {self.part!r}")

    def takes(self, number: int) -> bool:
        """Say whether a sample is of the part."""
        return self.part == "all" or (number % HELD_OUT == HELD_OUT - 1) == (self.part == "held")


def batches(reader: Reader, inputs: Sequence[InputInfo], cut: Cut) -> Iterator[Batch]:
    """Cut what a reader yields into batches the model takes.

    Args:
        reader: Any reader.
        inputs: What the model takes.
        cut: Batch size, number of samples, shard.

    Yields:
        Batches with arrays of the model's element types.

    Raises:
        CalibrationError: The reader fails or yields nothing, or yields what the model cannot
            take: a missing or unknown name, another rank, size or type, NaN or infinities.
        EmptyShardError: There are fewer batches than shards.
    """
    index, shards = cut.shard
    count = 0
    for feed in _feeds(reader, inputs, cut):
        if count % shards == index:
            yield replace(_batch(feed, inputs, stackable=reader.stackable), number=count)
        count += 1
    if count == 0:
        fixed = _fixed_batch(inputs) if reader.stackable else None
        batch = f"batch of {fixed} samples, the size the model asks for" if fixed else "sample"
        raise CalibrationError(f"the data holds no {batch}")
    if count <= index:
        raise EmptyShardError(
            f"shard {index}/{shards} is empty: the data fills only {count} batches"
        )


def batch_size(reader: Reader, inputs: Sequence[InputInfo], cut: Cut) -> int:
    """Return how many samples a batch holds, the last perhaps not."""
    return (_fixed_batch(inputs) or cut.batch_size) if reader.stackable else 1


def _batch(feed: Feed, inputs: Sequence[InputInfo], *, stackable: bool) -> Batch:
    """Part a feed into inputs and labels."""
    arrays = {info.name: np.asarray(feed[info.name], order="C") for info in inputs}
    labels = {name: array for name, array in feed.items() if name not in arrays}
    splittable = stackable and _fixed_batch(inputs) in (None, 1)
    samples = len(next(iter(arrays.values()))) if stackable and arrays else 1
    return Batch(inputs=arrays, labels=labels, samples=samples, splittable=splittable)


def _feeds(reader: Reader, inputs: Sequence[InputInfo], cut: Cut) -> Iterator[Feed]:
    """Yield feeds of the wanted size, as many samples as wanted."""
    limit = sys.maxsize if cut.samples is None else cut.samples
    checked = (_checked(feed, inputs, number) for number, feed in enumerate(_read(reader)))
    if not reader.stackable:
        first = enumerate(islice(checked, limit))
        yield from (feed for number, feed in first if cut.takes(number))
        return
    fixed = _fixed_batch(inputs)
    size = fixed or cut.batch_size
    limit = limit if cut.part == "all" else sys.maxsize
    rest: Feed = {}
    for feed in _taken(map(_even, checked), cut):
        rest = _join(rest, feed)
        while (step := min(size, limit)) and _length(rest) >= step and limit >= (fixed or 1):
            yield {name: array[:step] for name, array in rest.items()}
            rest = {name: array[step:] for name, array in rest.items()}
            limit -= step
        if limit < (fixed or 1):
            return
    if _length(rest) and fixed:
        log.warning("the last %d samples do not fill a batch of %d: left out", _length(rest), fixed)
    elif _length(rest):
        yield rest


def _read(reader: Reader) -> Iterator[Mapping[str, Array]]:
    """Iterate over a reader, its errors in our words."""
    try:
        yield from reader
    except (ValueError, OSError) as error:
        raise CalibrationError(str(error)) from error


def _even(feed: Feed) -> Feed:
    """Refuse a feed whose arrays do not all hold the same number of samples."""
    rows = {array.shape[:1] for array in feed.values()}
    if len(rows) > 1 or () in rows:
        found = ", ".join(f"{name!r} {_times(array.shape)}" for name, array in feed.items())
        raise CalibrationError(f"the first axis must count samples in every array, found {found}")
    return feed


def _taken(feeds: Iterable[Feed], cut: Cut) -> Iterator[Feed]:
    """Leave of stacked feeds the rows of a part of the samples."""
    if cut.part == "all":
        yield from feeds
        return
    stop = sys.maxsize if cut.samples is None else cut.samples
    number = 0
    for feed in feeds:
        numbers = range(number, number + _length(feed))
        mask = np.array([cut.takes(i) and i < stop for i in numbers], bool)
        yield {name: array[mask] for name, array in feed.items()}
        number = numbers.stop
        if number >= stop:
            return


def _join(rest: Feed, feed: Feed) -> Feed:
    """Concatenate two feeds along the first axis."""
    if not rest or not _length(rest):
        return feed
    if rest.keys() != feed.keys():
        odd = ", ".join(sorted(rest.keys() ^ feed.keys()))
        raise CalibrationError(f"{odd} is in some of the data only: batches need it everywhere")
    for name in rest:
        one, other = rest[name].shape[1:], feed[name].shape[1:]
        if one != other:
            raise CalibrationError(
                f"{name!r}: samples of shape {_times(one)} and {_times(other)} do not join "
                "into a batch: use a batch size of 1"
            )
    return {name: np.concatenate([rest[name], feed[name]]) for name in rest}


def _length(feed: Feed) -> int:
    """Return the number of rows of a feed."""
    return len(next(iter(feed.values()))) if feed else 0


def _fixed_batch(inputs: Sequence[InputInfo]) -> int | None:
    """Return the batch size the model fixes, or None where it is open."""
    sizes = [info.shape[0] for info in inputs if info.shape]
    return next((size for size in sizes if size is not None), None)


def _checked(feed: Mapping[str, Array], inputs: Sequence[InputInfo], number: int) -> Feed:
    """Check the names of a feed and convert its arrays."""
    names = {info.name for info in inputs}
    for name in feed:
        if name not in names and not name.startswith("label"):
            near = difflib.get_close_matches(name, names, n=1) or sorted(names)
            raise CalibrationError(
                f"the data names an input {name!r} which the model does not have: "
                f"rename it to {near[0]!r}, or to 'label…' if it is a label"
            )
    checked = {}
    for info in inputs:
        if info.name not in feed:
            have = ", ".join(sorted(feed)) or "nothing"
            raise CalibrationError(
                f"input {info.name!r} is missing from the data, which has {have}"
            )
        checked[info.name] = _conform(np.asarray(feed[info.name]), info, number)
    checked.update({name: np.asarray(feed[name]) for name in feed if name not in names})
    return checked


def _conform(array: Array, info: InputInfo, number: int) -> Array:
    """Check one array against its input and convert its element type."""
    where = f"input {info.name!r}, feed {number}"
    if info.shape is not None and not _fits(array.shape, info.shape):
        expected, found = _times(info.shape), _times(array.shape)
        raise CalibrationError(f"{where}: expected shape {expected}, found {found}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise CalibrationError(f"{where}: the data holds NaN or infinite values")
    if info.dtype in (array.dtype.name, "object") and array.dtype.isnative:
        return array
    if not _convertible(array.dtype, info.dtype):
        raise CalibrationError(f"{where}: expected {info.dtype}, found {array.dtype}")
    with np.errstate(over="ignore"):
        converted = array.astype(info.dtype)
    if _lost(array, converted):
        raise CalibrationError(
            f"{where}: expected {info.dtype}, found {array.dtype} with values beyond it"
        )
    if number == 0:
        log.info("input %r: %s converted to %s", info.name, array.dtype, info.dtype)
    return converted


def _times(shape: tuple[int | None, ...]) -> str:
    """Spell a shape."""
    return "×".join("?" if size is None else str(size) for size in shape) or "a scalar"


def _fits(found: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    """Say whether a shape fits; the first axis is cut to size later."""
    return len(found) == len(expected) and all(
        size is None or size == have for size, have in zip(expected[1:], found[1:], strict=True)
    )


def _convertible(found: np.dtype[Any], expected: str) -> bool:
    """Say whether a conversion loses nothing a user would mind."""
    kind = np.dtype(expected).kind if expected != "bfloat16" else "f"
    return found.kind in {"f": "fiub", "i": "iub", "u": "ub", "b": "b"}.get(kind, "")


def _lost(array: Array, converted: Array) -> bool:
    """Say whether values left the type: wrapped integers, floats that became infinite."""
    if converted.dtype.kind in "iu":
        return bool((converted != array).any())
    return not np.isfinite(converted).all()
