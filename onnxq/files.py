"""Write files so that a target is either what it was before or complete."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from onnxq.errors import OutputError


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Give a temporary path beside a target and move it into place when all went well.

    The temporary path has the target's name in a new folder next to it. On leaving without an
    error every file in that folder replaces the one of the same name beside the target, the
    target itself last; on any error before that, Ctrl-C included, the folder is removed and
    nothing beside it has changed.

    Args:
        target: Where the file shall be.

    Yields:
        Where to write it.

    Raises:
        OutputError: The folder does not exist, cannot be written to, or the disk is full.
    """
    folder = None
    try:
        if target.is_dir():
            raise OutputError(f"{target}: is a folder; name a file")
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        yield folder / target.name
        files = sorted(folder.iterdir(), key=lambda path: path.name == target.name)
        for path in files:
            path.replace(target.parent / path.name)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not target.parent.is_dir():
            reason = f"the folder {target.parent} does not exist"
        else:
            reason = error.strerror or str(error)
        raise OutputError(f"{target}: cannot be written: {reason}") from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def check_target(target: Path, inputs: Iterable[Path]) -> None:
    """Refuse a target before any work is done for it.

    Raises:
        OutputError: The target is a folder, its folder does not exist, or it is one of the
            files to be read, under whatever name.
    """
    if target.is_dir():
        raise OutputError(f"{target}: is a folder; name a file")
    if not target.parent.is_dir():
        raise OutputError(f"{target}: the folder {target.parent} does not exist")
    for path in inputs:
        same = path.resolve() == target.resolve()
        if same or (path.exists() and target.exists() and path.samefile(target)):
            raise OutputError(f"{target}: the output would replace the input {path}")
