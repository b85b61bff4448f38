"""Fashion-MNIST, and collages of its garments on a larger canvas.

Shapes:
    ``N`` samples, ``H`` rows, ``W`` columns, ``M`` garments of one collage (`MOST`).
    Pixels are uint8 codes; a network sees them divided by 255 (`as_input`).
"""

import gzip
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PACKAGE = "dataset-fashion-mnist"
INSIDE = "usr/share/datasets/fashion-mnist"
GARMENT = 28  # side of one picture, pixels
CANVAS = 64  # side of one collage, pixels
LEAST, MOST = 2, 4  # garments of one collage
VISIBLE = 24  # a pixel above this code belongs to the garment
SHARED = 0.15  # part of a garment's square that another one may cover
TRIES = 60  # places tried for the garments of one collage


@dataclass(frozen=True, kw_only=True)
class Split:
    """Hold one part of the data set.

    Attributes:
        images: uint8 ``(N, 28, 28)``.
        labels: int64 ``(N,)``, 0 to 9.
    """

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Collages:
    """Hold pictures with several garments and where they are.

    Attributes:
        images: uint8 ``(N, 64, 64)``.
        masks: uint8 ``(N, 64, 64)``: 0 background, 1 + label elsewhere.
        boxes: float32 ``(N, M, 4)``: x0, y0, x1, y1 in pixels, -1 where there is no garment. A
            box encloses the whole garment, also the part another one covers.
        classes: int64 ``(N, M)``: the labels, -1 where there is no garment.
    """

    images: np.ndarray
    masks: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray


@contextmanager
def package_images() -> Iterator[Path]:
    """Download Debian's package of the data and yield its folder while it exists.

    Yields:
        The folder with the four idx ``.gz`` files.
    """
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, check=True)
        (package,) = Path(folder).glob("*.deb")
        subprocess.run(["dpkg", "-x", package.name, "."], cwd=folder, check=True)
        yield Path(folder) / INSIDE


def read_split(folder: Path, prefix: str) -> Split:
    """Read one part of the data set.

    Args:
        folder: Where the idx ``.gz`` files are.
        prefix: ``train`` or ``t10k``.

    Returns:
        The pictures and their labels.
    """
    pixels = gzip.decompress((folder / f"{prefix}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())
    # The headers are 16 and 8 bytes: magic number, count and, for pictures, rows and columns.
    return Split(
        images=np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, GARMENT, GARMENT),
        labels=np.frombuffer(labels, np.uint8, offset=8).astype(np.int64),
    )


def as_input(images: np.ndarray) -> np.ndarray:
    """Turn uint8 ``(N, H, W)`` into float32 ``(N, 1, H, W)`` between 0 and 1."""
    return (images[:, None].astype(np.float32) / np.float32(255)).astype(np.float32)


def draw_background(rng: np.random.Generator) -> np.ndarray:
    """Draw a plain, a striped or a blotched canvas, uint8 ``(64, 64)``."""
    kind = rng.integers(3)
    if kind == 0:
        return np.full((CANVAS, CANVAS), rng.integers(96), np.uint8)
    cell = int(rng.choice([4, 8]))
    cells = rng.integers(96, size=(CANVAS // cell, CANVAS // cell), dtype=np.uint8)
    if kind == 1:
        cells[:] = cells[:1]
    return cells.repeat(cell, 0).repeat(cell, 1)


def draw_places(wanted: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Draw corners (x, y) of two to `wanted` garments that cover each other only a little."""
    places: list[tuple[int, int]] = []
    while len(places) < LEAST:
        places = []
        for x, y in rng.integers(CANVAS - GARMENT + 1, size=(TRIES, 2)).tolist():
            across = [max(0, GARMENT - abs(x - x1)) for x1, _ in places]
            down = [max(0, GARMENT - abs(y - y1)) for _, y1 in places]
            shared = max((a * b for a, b in zip(across, down, strict=True)), default=0)
            if len(places) < wanted and shared <= SHARED * GARMENT**2:
                places.append((x, y))
    return places


def draw_collages(split: Split, count: int, seed: list[int]) -> Collages:
    """Paste garments, some mirrored, on drawn backgrounds.

    Args:
        split: Where the garments come from.
        count: How many collages.
        seed: Of the random numbers; the same seed draws the same collages.

    Returns:
        The collages, each of two to four garments.
    """
    rng = np.random.default_rng(seed)
    images = np.zeros((count, CANVAS, CANVAS), np.uint8)
    masks = np.zeros_like(images)
    boxes = np.full((count, MOST, 4), -1, np.float32)
    classes = np.full((count, MOST), -1, np.int64)
    for n in range(count):
        images[n] = draw_background(rng)
        places = draw_places(int(rng.integers(LEAST, MOST + 1)), rng)
        for m, (x, y) in enumerate(places):
            pick = rng.integers(len(split.images))
            garment = split.images[pick][:, :: 1 if rng.integers(2) else -1]
            seen = garment > VISIBLE
            window = np.s_[n, y : y + GARMENT, x : x + GARMENT]
            images[window][seen] = garment[seen]
            masks[window][seen] = 1 + split.labels[pick]
            rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            corners = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            boxes[n, m] = np.add(corners, [x, y, x, y])
            classes[n, m] = split.labels[pick]
    return Collages(images=images, masks=masks, boxes=boxes, classes=classes)
