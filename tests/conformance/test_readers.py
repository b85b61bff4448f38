"""The same questions to every reader: ours, and those of other installed packages."""

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from calib_readers.arrays import FeedsReader, NpyReader, NpzReader
from calib_readers.images import ImageReader
from calib_readers.random import RandomReader
from onnxq.readers import InputInfo, Reader

INPUTS = (InputInfo("x", "float32", (None, 3, 8, 8)),)
OURS = (NpzReader, NpyReader, FeedsReader, ImageReader, RandomReader)


def every_reader() -> list[Any]:
    found = {cls.name: cls for cls in OURS}
    for point in entry_points(group="onnxq.readers"):
        found.setdefault(point.name, point.load())
    return [pytest.param(cls, id=name) for name, cls in sorted(found.items())]


def batch(seed: int, rows: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 3, 8, 8)).astype(np.float32)


def picture(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def npz_file(folder: Path) -> Path:
    np.savez(folder / "a.npz", x=batch(0, 5), label=np.arange(5))
    return folder / "a.npz"


def npy_file(folder: Path) -> Path:
    np.save(folder / "a.npy", batch(0, 5))
    return folder / "a.npy"


def npz_folder(folder: Path) -> Path:
    for seed in range(3):
        np.savez(folder / f"{seed}.npz", x=batch(seed, seed + 1))
    np.save(folder / "more.npy", batch(0, 5))
    return folder


def npy_folder(folder: Path) -> Path:
    for seed in range(3):
        np.save(folder / f"{seed}.npy", batch(seed, seed + 1))
    return folder


def image_file(folder: Path) -> Path:
    picture(folder / "a.JPG", 0)
    return folder / "a.JPG"


def image_folder(folder: Path) -> Path:
    for seed in range(3):
        picture(folder / f"class{seed % 2}" / f"{seed}.png", seed)
    return folder


def unclear_folder(folder: Path) -> Path:
    np.save(folder / "mean.npy", batch(0, 1))
    picture(folder / "a.png", 0)
    return folder


def text_file(folder: Path) -> Path:
    (folder / "a.txt").write_text("x")
    return folder / "a.txt"


SOURCES: dict[Callable[[Path], Path], str | None] = {
    npz_file: "npz",
    npy_file: "npy",
    npz_folder: "feeds",
    npy_folder: "npy",
    image_file: "images",
    image_folder: "images",
    unclear_folder: None,
    text_file: None,
    lambda folder: folder: None,
    lambda folder: folder / "missing": None,
}


def sources(cls: type[Reader], folder: Path) -> Iterator[Path]:
    """What a reader takes; a reader that takes nothing by itself gets a name."""
    some = False
    for number, make in enumerate(SOURCES):
        (folder / str(number)).mkdir()
        path = make(folder / str(number))
        if cls.accepts(path):
            some = True
            yield path
    if not some:
        yield Path(cls.name)


def assert_same(one: Mapping[str, np.ndarray], two: Mapping[str, np.ndarray]) -> None:
    assert list(one) == list(two)
    for key in one:
        assert one[key].dtype == two[key].dtype
        np.testing.assert_array_equal(one[key], two[key])


@pytest.mark.parametrize("cls", every_reader())
def test_iterates_twice_alike(cls: Any, tmp_path: Path) -> None:
    for source in sources(cls, tmp_path):
        reader = cls(source, INPUTS)
        next(iter(reader))  # a pass given up does not count
        first, second = list(reader), list(reader)
        assert first
        assert len(first) == len(second)
        for one, two in zip(first, second, strict=True):
            assert_same(one, two)
        for one, again in zip(first, cls(source, INPUTS), strict=True):
            assert_same(one, again)


@pytest.mark.parametrize("cls", every_reader())
def test_feeds_are_not_shared(cls: Any, tmp_path: Path) -> None:
    for source in sources(cls, tmp_path):
        reader = cls(source, INPUTS)
        before = next(iter(reader))["x"].copy()
        for feed in reader:
            feed["x"][...] = -1
        np.testing.assert_array_equal(next(iter(reader))["x"], before)


@pytest.mark.parametrize("cls", every_reader())
def test_feeds_hold_the_inputs_and_labels(cls: Any, tmp_path: Path) -> None:
    for source in sources(cls, tmp_path):
        for feed in cls(source, INPUTS):
            assert "x" in feed
            assert all(key == "x" or key.startswith("label") for key in feed)
            assert all(type(array) is np.ndarray for array in feed.values())
            assert feed["x"].shape[1:] == (3, 8, 8)
            assert feed["x"].dtype == np.float32


@pytest.mark.parametrize("cls", every_reader())
def test_length_counts_samples_or_feeds(cls: Any, tmp_path: Path) -> None:
    for source in sources(cls, tmp_path):
        reader = cls(source, INPUTS)
        feeds = list(reader)
        assert len(reader) == sum(len(feed["x"]) if reader.stackable else 1 for feed in feeds)


@pytest.mark.parametrize("cls", every_reader())
def test_keeps_the_protocol(cls: Any, tmp_path: Path) -> None:
    for source in sources(cls, tmp_path):
        reader = cls(source, INPUTS)
        assert isinstance(reader, Reader)
        assert isinstance(cls.name, str)
        assert isinstance(reader.stackable, bool)
        assert isinstance(reader.notes, tuple)
        for note in reader.notes:
            assert isinstance(note, str)
            assert "\n" not in note


@pytest.mark.parametrize("cls", every_reader())
def test_unknown_options_are_refused(cls: Any, tmp_path: Path) -> None:
    for source in sources(cls, tmp_path):
        with pytest.raises(TypeError, match="no_such_option"):
            cls(source, INPUTS, no_such_option=1)


@pytest.mark.parametrize("cls", [p for p in every_reader() if p.values[0] is not RandomReader])
def test_missing_source_is_one_line(cls: Any, tmp_path: Path) -> None:
    with pytest.raises((OSError, ValueError)) as caught:
        list(cls(tmp_path / "missing", INPUTS))
    assert "missing" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("make", "expected"), SOURCES.items())
def test_every_source_has_at_most_one_reader(
    make: Callable[[Path], Path], expected: str | None, tmp_path: Path
) -> None:
    path = make(tmp_path)
    takers = [param.values[0].name for param in every_reader() if param.values[0].accepts(path)]
    assert takers == ([expected] if expected else [])


def test_entry_points_are_the_classes_here() -> None:
    installed = {
        point.name: point.load()
        for point in entry_points(group="onnxq.readers")
        if point.value.startswith("calib_readers.")
    }
    if not installed:
        pytest.skip("onnxq is not installed")
    assert installed == {cls.name: cls for cls in OURS}
