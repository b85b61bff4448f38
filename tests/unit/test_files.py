"""Staged writing: complete, or as it was."""

import os
import sys
from pathlib import Path

import pytest

from onnxq.errors import OutputError
from onnxq.files import check_target, staged


def listing(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_the_file_appears(tmp_path: Path) -> None:
    with staged(tmp_path / "out.txt") as path:
        path.write_text("new")
        assert not (tmp_path / "out.txt").exists()
    assert listing(tmp_path) == {"out.txt": "new"}


def test_the_file_is_replaced_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")
    with staged(target) as path:
        path.write_text("new")
        assert target.read_text() == "old"
    assert listing(tmp_path) == {"out.txt": "new"}


def test_files_beside_it_come_along(tmp_path: Path) -> None:
    with staged(tmp_path / "out.onnx") as path:
        path.with_name("out.onnx.data").write_text("weights")
        path.write_text("model")
    assert listing(tmp_path) == {"out.onnx": "model", "out.onnx.data": "weights"}


def test_the_target_comes_last(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    target.write_text("old")
    (tmp_path / "out.onnx.data").mkdir()

    def write() -> None:
        with staged(target) as path:
            path.with_name("out.onnx.data").write_text("weights")
            path.write_text("model")

    with pytest.raises(OutputError):
        write()
    assert target.read_text() == "old"


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_everything_as_it_was(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")

    def write() -> None:
        with staged(target) as path:
            path.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert listing(tmp_path) == {"out.txt": "old"}


def test_an_os_error_while_writing_is_an_output_error(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"

    def write() -> None:
        with staged(target):
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError) as caught:
        write()
    assert str(caught.value) == f"{target}: cannot be written: No space left on device"
    assert caught.value.exit_code == 8
    assert not listing(tmp_path)


def attempt(target: Path) -> None:
    with staged(target) as path:
        path.write_text("x")


def test_missing_folder(tmp_path: Path) -> None:
    target = tmp_path / "no" / "out.txt"
    with pytest.raises(OutputError) as caught:
        attempt(target)
    assert str(caught.value) == (
        f"{target}: cannot be written: the folder {target.parent} does not exist"
    )


def test_a_folder_is_no_target(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder; name a file"):
        attempt(tmp_path)
    assert not listing(tmp_path)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        attempt(tmp_path / "file" / "out.txt")
    assert listing(tmp_path) == {"file": "x"}


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="root can write everywhere"
)
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="Permission denied"):
            attempt(tmp_path / "out.txt")
    finally:
        tmp_path.chmod(0o700)


def test_an_input_is_no_target(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_text("x")
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "soft.onnx").symlink_to(model)
    (tmp_path / "hard.onnx").hardlink_to(model)
    for name in ("model.onnx", "soft.onnx", "hard.onnx", "other/../model.onnx"):
        with pytest.raises(OutputError, match="would replace the input"):
            check_target(tmp_path / name, [tmp_path / "elsewhere", model])


def test_another_target_is_fine(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_text("x")
    (tmp_path / "same.onnx").write_text("x")
    check_target(tmp_path / "same.onnx", [model])
    check_target(tmp_path / "new.onnx", [model, tmp_path / "missing.npz"])


def test_the_same_name_is_refused_before_either_exists(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="would replace"):
        check_target(tmp_path / "new.onnx", [tmp_path / "folder" / ".." / "new.onnx"])


def test_targets_refused_before_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        check_target(tmp_path, [])
    with pytest.raises(OutputError, match="does not exist"):
        check_target(tmp_path / "no" / "out.txt", [])
