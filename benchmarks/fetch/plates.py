"""Number plates as a camera at the roadside might see them, for the reader of PP-OCR.

They are rendered from Debian's fonts after the patterns of several countries, without the letters
those leave out because they look like digits. Beside ``calib.npz`` and ``eval.npz`` there is
``tune.npz``, labelled too, for choosing what is then measured on ``eval.npz``.
"""

import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from benchmarks.fetch.ingredients import Ingredients
from benchmarks.fetch.lines import Line
from benchmarks.fetch.ppocr import READ_WIDTH, READER, copy_model, font_files, stack
from onnxq.types import Array

PARTS = {"calib": (128, 11), "tune": (256, 12), "eval": (512, 13)}  # plates, seed
PATTERNS = ("AA99AAA", "AA-999-AA", "9999AAA", "A999AA", "9AAA999", "AAA-9999", "AA-99-99")
LETTERS, DIGITS = "ABCDEFGHJKLMNPRSTUVWXYZ", "0123456789"
UPRIGHT = re.compile("Bold|Medium|Regular|Sans|Mono")
SLANTED = re.compile("Italic|Oblique|Light|Serif|Chancery|Gothic")
COLOURS = (  # plate, characters
    ((236, 236, 230), (18, 18, 22)),
    ((240, 196, 30), (20, 18, 14)),
    ((24, 60, 150), (238, 240, 244)),
    ((22, 24, 26), (228, 228, 222)),
    ((40, 140, 80), (240, 244, 238)),
)
HEIGHT = 64  # pixels of a plate before the camera


def build(ingredients: Ingredients, target: Path) -> None:
    """Build the plates; labels are the texts."""
    copy_model(ingredients, READER, target)
    fonts = [font for font in font_files(ingredients) if UPRIGHT.search(font.name)]
    fonts = [font for font in fonts if not SLANTED.search(font.name)]
    for part, (number, seed) in PARTS.items():
        rng = np.random.default_rng(seed)
        plates = [draw_plate(number_of(rng), fonts, rng) for _ in range(number)]
        texts = np.array([plate.text for plate in plates])
        np.savez(target / f"{part}.npz", x=stack(plates, READ_WIDTH), label=texts)


def number_of(rng: np.random.Generator) -> str:
    """Make up the text of a plate."""
    pattern = PATTERNS[int(rng.integers(len(PATTERNS)))]
    kinds = {"A": LETTERS, "9": DIGITS, "-": "-"}
    return "".join(kinds[each][int(rng.integers(len(kinds[each])))] for each in pattern)


def draw_plate(text: str, fonts: Sequence[Path], rng: np.random.Generator) -> Line:
    """Render a plate.

    Args:
        text: What it says.
        fonts: Font files to choose from.
        rng: Decides on everything else.
    """
    picture = _camera(_tilted(_plate(text, fonts, rng), rng), rng)
    return Line(text=text, pixels=np.asarray(picture))


def _plate(text: str, fonts: Sequence[Path], rng: np.random.Generator) -> Image.Image:
    """Draw the plate itself: colours, a frame, characters, screws, dirt."""
    font = ImageFont.truetype(fonts[int(rng.integers(len(fonts)))], int(rng.integers(40, 52)))
    left, top, right, bottom = font.getbbox(text)
    width = int(right - left) + int(rng.integers(16, 40))
    ground, ink = COLOURS[int(rng.integers(len(COLOURS)))]
    picture = Image.new("RGB", (width, HEIGHT), ground)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((1, 1, width - 2, HEIGHT - 2), outline=ink, width=int(rng.integers(1, 3)))
    at = ((width - right - left) / 2, (HEIGHT - bottom - top) / 2 + rng.uniform(-2, 2))
    draw.text(at, text, font=font, fill=ink)
    for _ in range(int(rng.integers(0, 5))):
        x, y, r = rng.uniform(0, width), rng.uniform(0, HEIGHT), rng.uniform(1, 4)
        dirt = tuple(int(value) for value in rng.integers(60, 140, 3))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=dirt)
    return picture


def _tilted(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """See the plate from aside, in front of something grey."""
    width, height = picture.size
    margin = int(rng.integers(2, 7))
    size = (width + 2 * margin, height + 2 * margin)
    corners = np.array([(0, 0), (0, height), (width, height), (width, 0)], np.float64)
    seen = corners + margin + rng.uniform(-6, 6, (4, 2))
    found = perspective(seen, corners)
    behind = tuple(int(value) for value in rng.integers(30, 200, 3))
    tilted = picture.transform(
        size, Image.Transform.PERSPECTIVE, found, Image.Resampling.BILINEAR, fillcolor=behind
    )
    light = np.linspace(*rng.uniform(0.5, 1.1, 2), size[0])[None, :, None]
    return Image.fromarray(np.clip(np.asarray(tilted) * light, 0, 255).astype(np.uint8))


def perspective(seen: Array, corners: Array) -> list[float]:
    """Return a … h with which what is seen maps to the plate: u = (ax + by + c)/(gx + hy + 1)."""
    rows, values = [], []
    for (x, y), (u, v) in zip(seen, corners, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    solved: list[float] = np.linalg.solve(np.array(rows), np.array(values)).tolist()
    return solved


def _camera(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Look at it with a poor camera: few pixels, out of focus, moving, dark, noisy, compressed."""
    height = int(rng.integers(24, 48))
    small = picture.resize((max(round(picture.width * height / picture.height), 1), height))
    small = small.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.8))))
    values = np.asarray(small, np.float64)
    smear = int(rng.integers(1, 4))
    values = np.mean([np.roll(values, shift, axis=1) for shift in range(smear)], axis=0)
    contrast, level = rng.uniform(0.45, 1.0), rng.uniform(60, 180)
    values = level + contrast * (values - values.mean())
    values += rng.normal(0, rng.uniform(2, 14), values.shape)
    poor = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    held = BytesIO()
    poor.save(held, "JPEG", quality=int(rng.integers(35, 90)))
    return Image.open(held).convert("RGB")
