"""Labels of images: folders, CSV and JSON, and what is refused."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from calib_readers.images import ImageReader


@dataclass(frozen=True)
class Input:
    name: str = "x"
    dtype: str = "float32"
    shape: tuple[int | None, ...] | None = (None, 3, 4, 4)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes: cat/0.png, cat/1.png, dog/2.png."""
    for name in ("cat/0.png", "cat/1.png", "dog/2.png"):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    return tmp_path / "pictures"


def read(source: Path, labels: object) -> list[Any]:
    """Return the labels in the order of the images: cat/0, dog/2, cat/1."""
    reader = ImageReader(source, [Input()], labels=str(labels))
    return [feed["label"].tolist() for feed in reader]


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_without_the_option_there_are_no_labels(pictures: Path) -> None:
    assert all(set(feed) == {"x"} for feed in ImageReader(pictures, [Input()]))


def test_folders_are_classes_in_the_order_of_their_names(pictures: Path) -> None:
    assert read(pictures, "folders") == [[0], [1], [0]]
    notes = ImageReader(pictures, [Input()], labels="folders").notes
    assert any("'cat' is 0" in note and "'dog' is 1" in note for note in notes)


def test_folders_that_are_numbers_name_their_class(pictures: Path) -> None:
    (pictures / "cat").rename(pictures / "10")
    (pictures / "dog").rename(pictures / "9")
    assert read(pictures, "folders") == [[10], [9], [10]]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "file,label\ncat/0.png,7\ncat/1.png,8\ndog/2.png,9\n", [[7], [9], [8]]),
        ("a.csv", '0.png,"a, b"\n1.png,\n2.png,c\n', [["a, b"], ["c"], [""]]),
        ("a.csv", "0.png,007\n1.png,1\n2.png,2\n", [["007"], ["2"], ["1"]]),
        ("a.json", '{"0.png": 1, "1.png": 2, "dog/2.png": 3}', [[1], [3], [2]]),
        ("a.json", '{"0.png": "x", "1.png": "y", "2.png": "zz"}', [["x"], ["zz"], ["y"]]),
        ("a.json", '{"0.png": [1], "1.png": [], "2.png": [3, 4]}',
         [[[1, -1]], [[3, 4]], [[-1, -1]]]),
    ],
)  # fmt: skip
def test_files(pictures: Path, tmp_path: Path, name: str, text: str, expected: list[Any]) -> None:
    assert read(pictures, written(tmp_path, name, text)) == expected


def test_a_single_image_has_a_label_too(pictures: Path, tmp_path: Path) -> None:
    labels = written(tmp_path, "a.json", '{"0.png": 3}')
    assert read(pictures / "cat" / "0.png", labels) == [[3]]


def test_arrays_join_into_batches(pictures: Path, tmp_path: Path) -> None:
    labels = written(tmp_path, "a.csv", "0.png,a\n1.png,bcd\n2.png,\n")
    feeds = list(ImageReader(pictures, [Input()], labels=str(labels)))
    assert np.concatenate([feed["label"] for feed in feeds]).tolist() == ["a", "", "bcd"]


def test_labels_without_an_image_are_told(pictures: Path, tmp_path: Path) -> None:
    text = "0.png,1\n1.png,1\n2.png,1\n3.png,1\n"
    labels = written(tmp_path, "a.csv", text)
    notes = ImageReader(pictures, [Input()], labels=str(labels)).notes
    assert any("1 labels without an image" in note for note in notes)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "0.png,1\n1.png,2\n", "no label for 'dog/2.png'"),
        ("a.csv", "0.png,1,2\n", "3 columns"),
        ("a.csv", "0.png,1\n0.png,2\n", "a second label"),
        ("a.csv", "", "no labels"),
        ("a.txt", "0.png,1", ".csv or .json"),
        ("a.json", "[1]", "one object"),
        ("a.json", "{", "a.json"),
        ("a.json", '{"0.png": 1, "0.png": 2}', "twice"),
        ("a.json", '{"0.png": 1, "1.png": "a", "2.png": 3}', "all whole numbers"),
        ("a.json", '{"0.png": [1.5], "1.png": [], "2.png": []}', "all whole numbers"),
    ],
)
def test_refusals(pictures: Path, tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"\A.+\Z") as caught:
        read(pictures, written(tmp_path, name, text))
    assert message in str(caught.value)


def test_images_outside_of_a_folder_have_no_class(pictures: Path) -> None:
    Image.new("RGB", (4, 4)).save(pictures / "stray.png")
    with pytest.raises(ValueError, match="in no folder"):
        read(pictures, "folders")


def test_a_file_that_is_not_there(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"no\.csv"):
        read(pictures, tmp_path / "no.csv")
