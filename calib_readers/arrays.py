"""Readers of numpy files: one .npz, .npy, and directories of either."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from calib_readers import _npz
from calib_readers._common import (
    Feed,
    Input,
    files_in,
    kind_of,
    need_directory,
    need_file,
    only_input,
)
from calib_readers._npy import file_header, mapped, native

CHUNK_BYTES = 16 << 20  # of one feed; one sample when a sample is larger


class NpzReader:
    """Read one .npz: keys are input names or ``label…``, the first axis counts samples.

    Samples are read in chunks of about 16 MiB, also from compressed archives, so the file may be
    larger than memory. Only an array in Fortran order is read whole.

    Attributes:
        notes: Nothing to say here.
    """

    name: ClassVar[str] = "npz"
    stackable = True

    def __init__(self, source: Path, inputs: Sequence[Input]) -> None:
        """Look into the archive; read headers only.

        Args:
            source: The .npz file.
            inputs: The model's inputs.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is damaged, or does not fit the inputs.
        """
        need_file(source, self.name, "reader 'feeds' takes a directory of .npz")
        self.notes: tuple[str, ...] = ()
        self._source = source
        self._members = _npz.members(source, inputs)
        self._rows = _common_rows(source, self._members)
        _check_memory(self._members)

    @staticmethod
    def accepts(path: Path) -> bool:
        """Tell whether this is an .npz file."""
        return kind_of(path) == "npz"

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._rows

    def __iter__(self) -> Iterator[Feed]:
        """Yield chunks of samples from the beginning."""
        sample = sum(member.header.row_nbytes for member in self._members.values())
        step = _step(sample)
        with _npz.opened(self._source) as archive:
            columns = [member.pieces(archive, step) for member in self._members.values()]
            for arrays in zip(*columns, strict=True):
                yield dict(zip(self._members, arrays, strict=True))


class NpyReader:
    """Read .npy for a model of one input: one file, or a directory of them sorted by name.

    The first axis of an array counts samples. An array of one axis less than the input is a
    single sample and gets that axis. Files are mapped, not loaded.

    Attributes:
        notes: Says when a directory holds files that are left aside.
    """

    name: ClassVar[str] = "npy"
    stackable = True

    def __init__(self, source: Path, inputs: Sequence[Input]) -> None:
        """List the files; read no samples.

        Args:
            source: A .npy file, or a directory of them.
            inputs: The model's inputs; there must be one.

        Raises:
            OSError: The source cannot be read.
            ValueError: The model has several inputs, there is no file, or the first is damaged.
        """
        source.stat()
        self.notes: tuple[str, ...] = ()
        self._input = only_input(inputs, self.name)
        self._files = [source]
        if source.is_dir():
            self._files, self.notes = files_in(source, ".npy", self.name)
        self._rows_of(self._files[0])

    @staticmethod
    def accepts(path: Path) -> bool:
        """Tell whether this is a .npy file, or a directory of .npy and neither .npz nor images."""
        return kind_of(path) == "npy"

    def __len__(self) -> int:
        """Return the number of samples; opens every file for its header."""
        return sum(self._rows_of(path) for path in self._files)

    def __iter__(self) -> Iterator[Feed]:
        """Yield chunks of samples, file by file."""
        for path in self._files:
            rows = self._rows_of(path)
            array = mapped(path)
            if self._is_one_sample(array.ndim):
                array = array[None]
            step = _step(array.nbytes // rows)
            for start in range(0, rows, step):
                yield {self._input.name: native(array[start : start + step].copy())}

    def _rows_of(self, path: Path) -> int:
        header = file_header(path)
        if header.nbytes == 0:
            raise ValueError(f"{path}: the array is empty: shape {header.shape}")
        if self._is_one_sample(len(header.shape)):
            return 1
        if not header.shape:
            raise ValueError(f"{path}: a scalar; the first axis must count samples")
        return header.rows

    def _is_one_sample(self, rank: int) -> bool:
        return self._input.shape is not None and rank == len(self._input.shape) - 1


class FeedsReader:
    """Read a directory of .npz sorted by name, each one ready feed of any shapes.

    For models whose inputs cannot be joined along a first axis: states, caches, scalars.

    Attributes:
        notes: Says when the directory holds files that are left aside.
    """

    name: ClassVar[str] = "feeds"
    stackable = False

    def __init__(self, source: Path, inputs: Sequence[Input]) -> None:
        """List the files and look into the first; read no samples.

        Args:
            source: The directory.
            inputs: The model's inputs.

        Raises:
            OSError: The source cannot be read.
            ValueError: There is no .npz, or the first is damaged or does not fit the inputs.
        """
        need_directory(source, self.name, "reader 'npz' takes one .npz")
        self._inputs = inputs
        self._files, self.notes = files_in(source, ".npz", self.name)
        _npz.members(self._files[0], inputs)

    @staticmethod
    def accepts(path: Path) -> bool:
        """Tell whether this is a directory with .npz files."""
        return kind_of(path) == "feeds"

    def __len__(self) -> int:
        """Return the number of feeds."""
        return len(self._files)

    def __iter__(self) -> Iterator[Feed]:
        """Yield one feed a file."""
        for path in self._files:
            members = _npz.members(path, self._inputs)
            total = sum(member.header.nbytes for member in members.values())
            if total > _npz.MAX_BYTES:
                raise ValueError(f"{path}: one feed of {total} bytes is too large to load")
            with _npz.opened(path) as archive:
                yield {name: member.whole(archive) for name, member in members.items()}


def _common_rows(source: Path, members: Mapping[str, _npz.Member]) -> int:
    """Return the number of samples all arrays agree on."""
    for member in members.values():
        if not member.header.shape:
            raise ValueError(
                f"{member.what}: a scalar; the first axis must count samples "
                "(for feeds as they are, give a directory of .npz)"
            )
    rows = {name: member.header.rows for name, member in members.items()}
    if len(set(rows.values())) > 1:
        found = ", ".join(f"{name!r} {count}" for name, count in rows.items())
        raise ValueError(f"{source}: arrays disagree on the number of samples: {found}")
    if not any(member.header.nbytes for member in members.values()):
        raise ValueError(f"{source}: the arrays are empty")
    return next(iter(rows.values()))


def _check_memory(members: Mapping[str, _npz.Member]) -> None:
    """Refuse what cannot be read in pieces of a sane size."""
    for member in members.values():
        header = member.header
        piece = header.nbytes if header.fortran else header.row_nbytes
        if piece > _npz.MAX_BYTES:
            hint = "; save it in C order (np.ascontiguousarray)" if header.fortran else ""
            raise ValueError(f"{member.what}: {piece} bytes at once are too many{hint}")


def _step(sample_bytes: int) -> int:
    """Return how many samples make a chunk."""
    return max(1, CHUNK_BYTES // max(1, sample_bytes))
