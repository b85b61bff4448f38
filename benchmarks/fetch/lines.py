"""Pictures of short texts as a camera might see them: any font, colour, blur and noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from onnxq.types import Array

BLOTCHED = 0.3  # share of lines on an uneven background
BLURRED = 0.5  # share of lines out of focus


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of text.

    Attributes:
        text: What it says.
        pixels: RGB, uint8, ``(height, width, 3)``.
    """

    text: str
    pixels: Array


def wording(words: Sequence[str], rng: np.random.Generator) -> str:
    """Make up a number, a part number, a date, a word, or two words."""

    def word() -> str:
        return words[int(rng.integers(len(words)))]

    match int(rng.integers(5)):
        case 0:
            return str(rng.integers(10 ** int(rng.integers(3, 9))))
        case 1:
            return f"{word()}-{rng.integers(10, 10_000)}"
        case 2:
            return f"{rng.integers(1, 31)}/{rng.integers(1, 13)}/20{rng.integers(10, 30)}"
        case 3:
            return word()
        case _:
            return f"{word()} {word()}"


def draw_line(text: str, fonts: Sequence[Path], rng: np.random.Generator) -> Line:
    """Render a text.

    Args:
        text: What to write.
        fonts: Font files to choose from.
        rng: Decides on everything else.
    """
    font = ImageFont.truetype(fonts[int(rng.integers(len(fonts)))], int(rng.integers(18, 44)))
    left, top, right, bottom = font.getbbox(text)
    margin = int(rng.integers(3, 9))
    size = (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin)
    picture = _background(size, rng)
    ImageDraw.Draw(picture).text(
        (margin - left, margin - top), text, font=font, fill=_ink(picture, rng)
    )
    edge = tuple(int(value) for value in np.asarray(picture)[0, 0])
    picture = picture.rotate(
        float(rng.uniform(-2, 2)), resample=Image.Resampling.BILINEAR, fillcolor=edge
    )
    if rng.random() < BLURRED:
        picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.5))))
    noise = rng.normal(0, rng.uniform(0, 20), (size[1], size[0], 3))
    pixels = np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8)
    return Line(text=text, pixels=pixels)


def _background(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Draw a bright plain area, or soft blotches of any brightness."""
    if rng.random() >= BLOTCHED:
        bright = tuple(int(value) for value in rng.integers(150, 256, 3))
        return Image.new("RGB", size, bright)
    base, spread = rng.integers(40, 216, 3), rng.integers(-40, 41, (3, 9, 3))
    cells = Image.fromarray((base + spread).astype(np.uint8))
    return cells.resize(size, Image.Resampling.BICUBIC)


def _ink(picture: Image.Image, rng: np.random.Generator) -> tuple[int, ...]:
    """Choose a colour darker than a bright background, or brighter than a dark one."""
    mean = np.asarray(picture).mean()
    contrast = int(rng.integers(65, 195))
    level = mean - contrast if mean > 128 else mean + contrast
    return tuple(int(value) for value in np.clip(level + rng.integers(-25, 25, 3), 0, 255))
