"""The .npz format: members checked before they are read, and read in pieces.

Compressed members are decompressed as streams, so that memory holds one chunk, not the file.
Sizes are believed only when three witnesses agree: the zip directory, the array's header, and
what deflate can reach at best (about 1032 to 1).
"""

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from calib_readers._common import Input, did_you_mean, one_line, quoted
from calib_readers._npy import HEAD_BYTES, Header, native, parse_header

MAX_BYTES = 4 << 30  # of one sample, or of an array that cannot be read in pieces
DEFLATE_BEST = 1100  # bytes out of one byte in, rounded up

# OSError is what a seek to a nonsensical place raises.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One array of an archive.

    Attributes:
        what: How messages name it: file and key.
        info: Its entry in the zip directory.
        header: Its .npy header; agrees with the entry about the size.
    """

    what: str
    info: zipfile.ZipInfo
    header: Header

    def whole(self, archive: zipfile.ZipFile) -> npt.NDArray[Any]:
        """Read the array at once."""
        with self._data(archive) as stream:
            return self._read(stream, self.header.shape)

    def pieces(self, archive: zipfile.ZipFile, step: int) -> Iterator[npt.NDArray[Any]]:
        """Yield ``step`` samples at a time, the rest at last."""
        if self.header.fortran:  # samples are interleaved: no piece without the whole
            array = self.whole(archive)
            yield from (array[start : start + step] for start in range(0, len(array), step))
            return
        rows, rest = self.header.rows, self.header.shape[1:]
        with self._data(archive) as stream:
            for start in range(0, rows, step):
                yield self._read(stream, (min(step, rows - start), *rest))

    @contextmanager
    def _data(self, archive: zipfile.ZipFile) -> Iterator[IO[bytes]]:
        try:
            with archive.open(self.info) as stream:
                stream.read(self.header.offset)
                yield stream
        except _DAMAGE as error:
            raise ValueError(f"{self.what}: truncated or damaged: {one_line(error)}") from error

    def _read(self, stream: IO[bytes], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        array = np.empty(shape, self.header.dtype, order="F" if self.header.fortran else "C")
        flat = array.reshape(-1, order="A").view(np.uint8)
        done = 0
        while done < array.nbytes:
            piece = stream.read(min(array.nbytes - done, 1 << 20))
            if not piece:
                raise EOFError("the data end early")
            flat[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
            done += len(piece)
        return native(array)


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive for reading.

    Args:
        path: The .npz file.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is no zip archive.
    """
    with path.open("rb") as file:
        try:
            archive = zipfile.ZipFile(file)
        except _DAMAGE as error:
            raise ValueError(f"{path}: no .npz archive, or damaged: {one_line(error)}") from error
        with archive:
            yield archive


def members(path: Path, inputs: Sequence[Input]) -> dict[str, Member]:
    """Look into an archive: which array is for which input, all sizes checked.

    Args:
        path: The .npz file.
        inputs: The model's inputs.

    Returns:
        Input name or label key to array.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no archive, a key is missing or unknown, or an array is unusable.
    """
    with opened(path) as archive:
        infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if len(infos) != len(archive.infolist()):
            raise ValueError(f"{path}: a key occurs twice in the archive")
        if not infos:
            raise ValueError(f"{path}: the archive is empty")
        names = feed_names(path, list(infos), inputs)
        return {names[key]: _member(archive, path, key, infos[key]) for key in infos}


def feed_names(path: Path, keys: Sequence[str], inputs: Sequence[Input]) -> Mapping[str, str]:
    """Match the keys of an archive to the model's inputs.

    A lone ``arr_0``, numpy's name for an unnamed array, is the input of a one-input model.

    Args:
        path: The file, for the message.
        keys: Its keys.
        inputs: The model's inputs.

    Returns:
        Key to input name; labels to themselves.

    Raises:
        ValueError: An input has no key, or a key is neither input nor label.
    """
    names = [item.name for item in inputs]
    data = [key for key in keys if key in names or not key.startswith("label")]
    if data == ["arr_0"] and len(names) == 1:
        return {key: names[0] if key == "arr_0" else key for key in keys}
    unknown = [key for key in data if key not in names]
    for name in names:
        if name not in keys:
            hint = did_you_mean(name, unknown)
            raise ValueError(f"{path}: no array for input {name!r}; keys: {quoted(keys)}{hint}")
    if unknown:
        raise ValueError(
            f"{path}: key {unknown[0]!r} is neither an input ({quoted(names)}) nor a label "
            "(label…): rename or remove it"
        )
    return {key: key for key in keys}


def _member(archive: zipfile.ZipFile, path: Path, key: str, info: zipfile.ZipInfo) -> Member:
    what = f"{path}: key {key!r}"
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{what}: encrypted or compressed as numpy never does; save it again")
    if info.file_size > HEAD_BYTES + info.compress_size * DEFLATE_BEST:
        raise ValueError(f"{what}: {info.file_size} bytes cannot come from {info.compress_size}")
    try:
        with archive.open(info) as stream:
            head = stream.read(HEAD_BYTES)
    except _DAMAGE as error:
        raise ValueError(f"{what}: truncated or damaged: {one_line(error)}") from error
    header = parse_header(head, what)
    if header.offset + header.nbytes != info.file_size:
        raise ValueError(
            f"{what}: shape {header.shape} of {header.dtype} needs {header.nbytes} bytes, "
            f"the archive holds {info.file_size - header.offset}"
        )
    return Member(what=what, info=info, header=header)
