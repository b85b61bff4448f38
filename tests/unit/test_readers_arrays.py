"""Readers of .npz and .npy: what they yield, and one clear line for everything refused."""

import io
import random
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib_readers import _npz, arrays
from calib_readers.arrays import FeedsReader, NpyReader, NpzReader


@dataclass(frozen=True)
class Input:
    name: str
    dtype: str = "float32"
    shape: tuple[int | None, ...] | None = (None, 3)


X = [Input("x")]
XY = [Input("x"), Input("y")]


def ramp(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def joined(reader: Any) -> dict[str, np.ndarray]:
    feeds = list(reader)
    return {key: np.concatenate([feed[key] for feed in feeds]) for key in feeds[0]}


def refusal(make: Any) -> str:
    """The message of the ValueError raised by making or reading; one line, or the test fails."""
    with pytest.raises(ValueError, match=r"\A.+\Z") as caught:
        list(make())
    return str(caught.value)


def npy_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def header_only(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    stream = io.BytesIO()
    header = {"shape": shape, "fortran_order": False, "descr": dtype}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


def zipped(path: Path, method: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for key, data in members.items():
            archive.writestr(f"{key}.npy", data)
    return path


# .npz


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_chunks_join_to_the_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[..., None]
) -> None:
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 64)  # 4 samples of 12 + 4 bytes
    save(tmp_path / "a.npz", x=ramp(10, 3), label_top=np.arange(10, dtype=np.int32))
    reader = NpzReader(tmp_path / "a.npz", X)
    assert [len(feed["x"]) for feed in reader] == [4, 4, 2]
    assert len(reader) == 10
    both = joined(reader)
    np.testing.assert_array_equal(both["x"], ramp(10, 3))
    np.testing.assert_array_equal(both["label_top"], np.arange(10))


def test_npz_keeps_dtypes_and_order_of_bytes_becomes_native(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=ramp(4, 3).astype(">f8"), label=np.array(list("abcd")))
    both = joined(NpzReader(tmp_path / "a.npz", X))
    assert both["x"].dtype == np.dtype("=f8")
    np.testing.assert_array_equal(both["x"], ramp(4, 3))
    assert both["label"].tolist() == list("abcd")


def test_npz_reads_fortran_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 30)
    np.savez(tmp_path / "a.npz", x=np.asfortranarray(ramp(5, 3)))
    reader = NpzReader(tmp_path / "a.npz", X)
    assert [len(feed["x"]) for feed in reader] == [2, 2, 1]
    np.testing.assert_array_equal(joined(reader)["x"], ramp(5, 3))


def test_npz_holds_a_chunk_not_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 1 << 20)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1 << 12, 1 << 11), np.float32))  # 32 MiB
    reader = NpzReader(tmp_path / "a.npz", X)
    tracemalloc.start()
    try:
        assert sum(len(feed["x"]) for feed in reader) == 1 << 12
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_npz_with_an_empty_axis_beside_data(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=ramp(4, 3), y=np.zeros((4, 2, 0), np.float32))
    (feed,) = NpzReader(tmp_path / "a.npz", XY)
    assert feed["y"].shape == (4, 2, 0)


def test_npz_unnamed_array_is_the_only_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", ramp(4, 3), label=np.arange(4))
    assert set(joined(NpzReader(tmp_path / "a.npz", X))) == {"x", "label"}
    assert "no array for input 'x'" in refusal(lambda: NpzReader(tmp_path / "a.npz", XY))


def test_npz_input_may_be_called_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", labels=ramp(4, 3))
    assert set(joined(NpzReader(tmp_path / "a.npz", [Input("labels")]))) == {"labels"}


@pytest.mark.parametrize(
    ("saved", "inputs", "words"),
    [
        ({"inptu": 4}, [Input("input")], ["no array for input 'input'", "'inptu'?"]),
        ({"other": 4}, X, ["no array for input 'x'", "keys: 'other'"]),
        ({"x": 4}, XY, ["no array for input 'y'"]),
        ({"x": 4, "mask": 4}, X, ["'mask' is neither an input ('x')", "label"]),
        ({"x": 4, "y": 5}, XY, ["disagree", "'x' 4, 'y' 5"]),
        ({"x": 4, "label": 3}, X, ["disagree", "'label' 3"]),
        ({"x": 0}, X, ["empty"]),
        ({}, X, ["the archive is empty"]),
    ],
)
def test_npz_refuses_what_does_not_fit(
    tmp_path: Path, saved: dict[str, int], inputs: list[Input], words: list[str]
) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **{key: ramp(rows, 3) for key, rows in saved.items()})
    message = refusal(lambda: NpzReader(path, inputs))
    assert message.startswith(str(path))
    for word in words:
        assert word in message


def test_npz_refuses_scalars_and_objects(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.float32(1))
    assert "scalar" in refusal(lambda: NpzReader(tmp_path / "a.npz", X))
    np.savez(tmp_path / "b.npz", x=np.array([{}, "a"], dtype=object))
    assert "pickled" in refusal(lambda: NpzReader(tmp_path / "b.npz", X))


def test_npz_refuses_what_is_no_archive_of_arrays(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"hello")
    assert "no .npz archive" in refusal(lambda: NpzReader(tmp_path / "a.npz", X))
    zipped(tmp_path / "b.npz", x=b"not an array at all")
    assert "no .npy array" in refusal(lambda: NpzReader(tmp_path / "b.npz", X))
    assert "a directory" in refusal(lambda: NpzReader(tmp_path, X))


def test_npz_refuses_a_key_that_occurs_twice(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", npy_bytes(ramp(4, 3)))
        archive.writestr("x", npy_bytes(ramp(4, 3)))
    assert "twice" in refusal(lambda: NpzReader(tmp_path / "a.npz", X))


def test_npz_refuses_sizes_that_disagree(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.npz", x=header_only((1 << 40, 3)) + bytes(24))
    message = refusal(lambda: NpzReader(path, X))
    assert "needs 13194139533312 bytes, the archive holds 24" in message


def test_npz_refuses_sizes_deflate_cannot_reach(tmp_path: Path) -> None:
    size = 1 << 30
    header = header_only((size // 12, 3))
    path = zipped(tmp_path / "a.npz", zipfile.ZIP_DEFLATED, x=header + bytes(24))
    data = path.read_bytes()
    true, lie = (
        number.to_bytes(4, "little") for number in (len(header) + 24, len(header) + size // 12 * 12)
    )
    assert data.count(true) == 2
    path.write_bytes(data.replace(true, lie))
    assert "cannot come from" in refusal(lambda: NpzReader(path, X))


def test_npz_refuses_methods_that_hide_bombs(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.npz", zipfile.ZIP_LZMA, x=npy_bytes(ramp(4, 3)))
    assert "as numpy never does" in refusal(lambda: NpzReader(path, X))


def test_npz_refuses_too_much_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_npz, "MAX_BYTES", 50)
    np.savez(tmp_path / "a.npz", x=ramp(5, 3))  # 60 bytes, 12 a sample
    assert len(NpzReader(tmp_path / "a.npz", X)) == 5
    np.savez(tmp_path / "b.npz", x=np.asfortranarray(ramp(5, 3)))
    assert "C order" in refusal(lambda: NpzReader(tmp_path / "b.npz", X))
    np.savez(tmp_path / "c.npz", x=ramp(2, 13))
    assert "52 bytes at once" in refusal(lambda: NpzReader(tmp_path / "c.npz", X))


def test_npz_notices_a_flipped_byte_in_the_data(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=ramp(100, 3))
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    message = refusal(lambda: NpzReader(path, X))
    assert "key 'x'" in message
    assert "CRC" in message


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_damage_is_always_one_line(tmp_path: Path, save: Callable[..., None]) -> None:
    path = tmp_path / "a.npz"
    save(path, x=ramp(20, 3), label=np.arange(20))
    whole = path.read_bytes()
    rng = random.Random(0)
    messages = []
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 5])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
        try:
            list(NpzReader(path, X))
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert [m for m in messages if "\n" in m or not m.startswith(str(path))] == []


# .npy


def test_npy_file_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 24)
    np.save(tmp_path / "a.npy", ramp(5, 3))
    reader = NpyReader(tmp_path / "a.npy", X)
    assert [len(feed["x"]) for feed in reader] == [2, 2, 1]
    assert len(reader) == 5
    np.testing.assert_array_equal(joined(reader)["x"], ramp(5, 3))


def test_npy_feeds_outlive_the_file_and_may_be_written(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ramp(5, 3))
    (feed,) = NpyReader(tmp_path / "a.npy", X)
    assert type(feed["x"]) is np.ndarray
    feed["x"][:] = 0
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), ramp(5, 3))


def test_npy_fortran_order_and_foreign_bytes(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(ramp(5, 3).astype(">f4")))
    (feed,) = NpyReader(tmp_path / "a.npy", X)
    assert feed["x"].dtype == np.dtype("=f4")
    assert feed["x"].flags.c_contiguous
    np.testing.assert_array_equal(feed["x"], ramp(5, 3))


def test_npy_directory_mixes_samples_and_batches_sorted_by_name(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", np.full((2, 3), 2, np.float32))
    np.save(tmp_path / "a.npy", np.full(3, 1, np.float32))
    np.save(tmp_path / "c.npy", np.full((1, 3), 3, np.float32))
    (tmp_path / "readme.txt").touch()
    (tmp_path / "._a.npy").touch()
    reader = NpyReader(tmp_path, X)
    assert len(reader) == 4
    assert joined(reader)["x"][:, 0].tolist() == [1, 2, 2, 3]
    assert reader.notes == (f"npy: left aside in {tmp_path}: 1 of other kinds",)


def test_npy_of_unknown_rank_counts_samples_first(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ramp(5, 3))
    assert len(NpyReader(tmp_path / "a.npy", [Input("x", shape=None)])) == 5


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy_bytes(ramp(5, 3))[:-1], "1 bytes of the array are missing"),
        (npy_bytes(ramp(5, 3))[:20], "no .npy array"),
        (npy_bytes(ramp(5, 3)) * 2, "one array a file"),
        (npy_bytes(np.float32(1)), "scalar"),
        (npy_bytes(ramp(0, 3)), "empty"),
        (npy_bytes(np.array([None])), "pickled"),
        (header_only((-5, 3)), "no usable array"),
        (header_only((10**15,), "<U0"), "no usable array"),
        (b"", "no .npy array"),
    ],
)
def test_npy_refuses(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    message = refusal(lambda: NpyReader(tmp_path / "a.npy", X))
    assert words in message
    assert message.startswith(str(tmp_path / "a.npy"))


def test_npy_refuses_models_of_several_inputs_and_empty_directories(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ramp(5, 3))
    assert "'x', 'y'" in refusal(lambda: NpyReader(tmp_path / "a.npy", XY))
    (tmp_path / "empty").mkdir()
    assert "no .npy file" in refusal(lambda: NpyReader(tmp_path / "empty", X))


# feeds


def test_feeds_come_as_they_are_sorted_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "2.npz", x=ramp(7, 3), y=np.float32(2))
    np.savez_compressed(tmp_path / "1.NPZ", x=ramp(2, 0), y=np.float32(1), label=np.arange(9))
    (tmp_path / "1.NPZ.npz").rename(tmp_path / "1.NPZ")
    reader = FeedsReader(tmp_path, XY)
    assert len(reader) == 2
    assert [feed["x"].shape for feed in reader] == [(2, 0), (7, 3)]
    assert [feed["y"].item() for feed in reader] == [1, 2]
    assert reader.stackable is False


def test_feeds_errors_name_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "1.npz", x=ramp(2, 3))
    np.savez(tmp_path / "2.npz", z=ramp(2, 3))
    reader = FeedsReader(tmp_path, X)
    assert refusal(lambda: reader).startswith(str(tmp_path / "2.npz"))
    (tmp_path / "0.npz").write_bytes(b"")
    assert refusal(lambda: FeedsReader(tmp_path, X)).startswith(str(tmp_path / "0.npz"))


def test_feeds_refuse_too_much_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_npz, "MAX_BYTES", 23)
    np.savez(tmp_path / "1.npz", x=ramp(2, 3))
    assert "too large" in refusal(lambda: FeedsReader(tmp_path, X))


def test_feeds_refuse_a_file_and_a_directory_without_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "1.npz", x=ramp(2, 3))
    assert "reader 'npz'" in refusal(lambda: FeedsReader(tmp_path / "1.npz", X))
    (tmp_path / "empty").mkdir()
    assert "no .npz file" in refusal(lambda: FeedsReader(tmp_path / "empty", X))
