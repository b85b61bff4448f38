"""The .npy format: headers read with care, and files mapped into memory."""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from calib_readers._common import one_line

HEAD_BYTES = 1 << 14  # numpy refuses headers above 10,000 bytes; all it accepts fits in here


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a .npy file says about itself.

    Attributes:
        shape: Axis lengths.
        dtype: Never object, never of size zero.
        fortran: True when the first axis varies fastest.
        offset: Bytes before the data.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int

    @property
    def rows(self) -> int:
        """Length of the first axis; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

    @property
    def nbytes(self) -> int:
        """Size of the data in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def row_nbytes(self) -> int:
        """Size of one sample in bytes."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


def parse_header(head: bytes, what: str) -> Header:
    """Read a .npy header; nothing it says is allocated or executed.

    Args:
        head: The first ``HEAD_BYTES`` of the file, or all of a shorter one.
        what: How the message names the array, e.g. ``cal.npz: key 'x'``.

    Raises:
        ValueError: It is no header of a plain array.
    """
    stream = io.BytesIO(head)
    try:
        version = npy_format.read_magic(stream)
        read = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
        shape, fortran, dtype = read[version](stream)
    except Exception as error:  # numpy evaluates the header; many kinds escape
        raise ValueError(f"{what}: no .npy array, or damaged: {one_line(error)}") from error
    if dtype.hasobject:
        raise ValueError(f"{what}: pickled objects are never loaded; save a plain numeric array")
    if dtype.itemsize == 0 or min(shape, default=0) < 0:
        raise ValueError(f"{what}: no usable array: shape {shape}, dtype {dtype}")
    return Header(shape=shape, dtype=dtype, fortran=fortran, offset=stream.tell())


def file_header(path: Path) -> Header:
    """Read the header of a .npy file and hold it against the file's size.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is no .npy file of one plain array, or is cut short.
    """
    with path.open("rb") as file:
        header = parse_header(file.read(HEAD_BYTES), str(path))
    spare = path.stat().st_size - header.offset - header.nbytes
    if spare < 0:
        raise ValueError(f"{path}: truncated: {-spare} bytes of the array are missing")
    if spare > 0:
        raise ValueError(f"{path}: {spare} bytes follow the array; save one array a file")
    return header


def mapped(path: Path) -> npt.NDArray[Any]:
    """Map a .npy file that is not empty; pages are read when touched.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is no .npy file of one plain array, or is cut short.
    """
    header = file_header(path)
    order = "F" if header.fortran else "C"
    return np.memmap(path, header.dtype, "r", header.offset, header.shape, order)  # type: ignore[call-overload,no-any-return]


def native(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array contiguous and in this machine's byte order; a copy only if needed."""
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
