"""Magika: the type of a file from its bytes.

The model is in the wheel of magika (Apache-2.0). The samples are files of this machine, labelled
by their extensions, so figures differ between machines; the two models of a row see the same files.
"""

import json
import os
import random
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.fetch.ingredients import Ingredients
from benchmarks.fetch.packages import MissingError, wheel

WHEEL = "magika==1.0.3"
MODEL = "magika/models/standard_v3_3"
ROOTS = (Path("/usr"), Path("/etc"), Path("/opt"))
LEAST_BYTES, MOST_BYTES = 64, 20_000_000
BLOCK = 4096  # bytes read at either end
TOKENS = 1024  # bytes kept of a block
PADDING = 256  # the code after the last byte's
PER_LABEL = 60  # files
CALIBRATION = 100  # files
SEED = 0
EXTENSIONS = {
    "py": "python", "c": "c", "cpp": "cpp", "js": "javascript", "html": "html", "json": "json",
    "md": "markdown", "png": "png", "gz": "gzip", "so": "elf", "pyc": "pythonbytecode",
    "ttf": "ttf", "pl": "perl", "pm": "perl", "sh": "shell", "xml": "xml", "css": "css",
    "yaml": "yaml", "yml": "yaml", "rst": "rst", "zip": "zip", "npy": "npy", "npz": "npz",
    "ts": "typescript", "jpg": "jpeg", "svg": "svg", "cmake": "cmake", "csv": "csv",
    "tcl": "tcl", "f": "fortran", "jar": "jar", "pdf": "pdf", "ipynb": "ipynb", "toml": "toml",
    "sql": "sql", "txt": "txt", "php": "php", "onnx": "onnx", "deb": "deb", "m4": "m4",
    "wav": "wav",
}  # fmt: skip


def build(ingredients: Ingredients, target: Path) -> None:
    """Copy the model, and turn files of this machine into samples.

    Raises:
        MissingError: There are not enough files.
    """
    folder = wheel(ingredients.cache, WHEEL) / MODEL
    shutil.copy(folder / "model.onnx", target)
    labels = json.loads((folder / "config.min.json").read_text())["target_labels_space"]
    samples = _samples()
    if len(samples) < 2 * CALIBRATION:
        raise MissingError(f"only {len(samples)} files with a known extension on this machine")
    tokens = np.array([tokens for tokens, _ in samples], np.int32)
    label = np.array([labels.index(name) for _, name in samples])
    np.savez_compressed(target / "calib.npz", bytes=tokens[:CALIBRATION])
    np.savez_compressed(target / "eval.npz", bytes=tokens[CALIBRATION:], label=label[CALIBRATION:])


def _samples() -> list[tuple[tuple[int, ...], str]]:
    """Choose files of each type, no two with the same tokens, in random order."""
    by_label: dict[str, list[Path]] = defaultdict(list)
    for file in _files():
        by_label[EXTENSIONS[file.suffix[1:]]].append(file)
    rng = random.Random(SEED)
    chosen: dict[tuple[int, ...], str] = {}
    for label, files in sorted(by_label.items()):
        rng.shuffle(files)
        most = len(chosen) + PER_LABEL
        for file in files:
            if len(chosen) == most:
                break
            chosen.setdefault(_tokens(file), label)
    samples = list(chosen.items())
    rng.shuffle(samples)
    return samples


def _files() -> Iterator[Path]:
    """Yield readable files with a known extension, in the order of their names."""
    for root in ROOTS:
        for folder, below, names in os.walk(root):
            below.sort()
            for name in sorted(names):
                file = Path(folder, name)
                if file.suffix[1:] in EXTENSIONS and _fit(file):
                    yield file


def _fit(file: Path) -> bool:
    """Say whether a file is real, readable and of a fit size."""
    try:
        size = file.lstat().st_size
    except OSError:
        return False
    whole = not file.is_symlink() and LEAST_BYTES < size < MOST_BYTES
    return whole and os.access(file, os.R_OK)


def _tokens(file: Path) -> tuple[int, ...]:
    """Return what the model sees: the first and the last bytes, white space at the ends cut."""
    size = min(BLOCK, file.stat().st_size)
    with file.open("rb") as opened:
        first = opened.read(size).lstrip()[:TOKENS]
        opened.seek(-size, os.SEEK_END)
        last = opened.read(size).rstrip()[-TOKENS:]
    gaps = [[PADDING] * (TOKENS - len(part)) for part in (first, last)]
    return (*first, *gaps[0], *gaps[1], *last)
