"""PP-OCR: reading a line of text, and telling whether it is upside down.

The models are in the wheel of rapidocr-onnxruntime (Apache-2.0). The lines are rendered from
Debian's fonts; their words are those of this project's LICENSE.
"""

import math
import re
import shutil
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.fetch.ingredients import Ingredients
from benchmarks.fetch.lines import Line, draw_line, wording
from benchmarks.fetch.packages import debian, wheel
from onnxq.types import Array

WHEEL = "rapidocr-onnxruntime==1.4.4"
MODELS = "rapidocr_onnxruntime/models"
READER = "ch_PP-OCRv4_rec_infer.onnx"
FONTS = (
    "fonts-dejavu-core",
    "fonts-liberation2",
    "fonts-freefont-ttf",
    "fonts-lato",
    "fonts-roboto-unhinted",
)
ODD_WEIGHTS = re.compile("Hairline|Thin|Black|Heavy")  # hard to read at this size
LICENSE = Path(__file__).resolve().parents[2] / "LICENSE"
HEIGHT, READ_WIDTH, TURN_WIDTH = 48, 320, 192  # pixels
CALIBRATION, READ_EVALUATION, TURN_EVALUATION = 100, 400, 600  # lines
CALIBRATION_SEED, EVALUATION_SEED = 1, 2


def build_rec(ingredients: Ingredients, target: Path) -> None:
    """Build the reader of lines; labels are the texts."""
    copy_model(ingredients, READER, target)
    draw = _drawer(ingredients)
    calibration = draw(CALIBRATION_SEED, CALIBRATION)
    evaluation = draw(EVALUATION_SEED, READ_EVALUATION)
    np.savez(target / "calib.npz", x=stack(calibration, READ_WIDTH))
    texts = np.array([line.text for line in evaluation])
    np.savez(target / "eval.npz", x=stack(evaluation, READ_WIDTH), label=texts)


def build_cls(ingredients: Ingredients, target: Path) -> None:
    """Build the judge of directions; every other line is turned by 180°, label 1."""
    copy_model(ingredients, "ch_ppocr_mobile_v2.0_cls_infer.onnx", target)
    draw = _drawer(ingredients)
    calibration = _turned(draw(CALIBRATION_SEED, CALIBRATION))
    evaluation = _turned(draw(EVALUATION_SEED, TURN_EVALUATION))
    np.savez(target / "calib.npz", x=stack(calibration, TURN_WIDTH))
    label = np.arange(TURN_EVALUATION) % 2
    np.savez(target / "eval.npz", x=stack(evaluation, TURN_WIDTH), label=label)


def copy_model(ingredients: Ingredients, name: str, target: Path) -> None:
    """Copy a model out of the wheel."""
    folder = wheel(ingredients.cache, WHEEL) / MODELS
    shutil.copy(folder / name, target / "model.onnx")


def font_files(ingredients: Ingredients) -> list[Path]:
    """Return the fonts to write with."""
    return [
        font
        for package in FONTS
        for font in sorted(debian(ingredients.cache, package).rglob("*.ttf"))
        if not ODD_WEIGHTS.search(font.name)
    ]


def _drawer(ingredients: Ingredients) -> Callable[[int, int], list[Line]]:
    """Return a function of seed and number that draws lines short enough for the reader."""
    fonts = font_files(ingredients)
    words = sorted(set(re.findall("[A-Za-z]{3,10}", LICENSE.read_text(encoding="utf-8"))))

    def draw(seed: int, number: int) -> list[Line]:
        rng = np.random.default_rng(seed)
        drawn = (draw_line(wording(words, rng), fonts, rng) for _ in count())
        short = (line for line in drawn if _width(line.pixels) <= READ_WIDTH)
        return list(islice(short, number))

    return draw


def _turned(lines: list[Line]) -> list[Line]:
    """Turn every other line upside down."""
    return [
        Line(text=line.text, pixels=line.pixels[::-1, ::-1] if place % 2 else line.pixels)
        for place, line in enumerate(lines)
    ]


def _width(pixels: Array) -> int:
    """Return the width of a picture scaled to the models' height."""
    height, width = pixels.shape[:2]
    return math.ceil(HEIGHT * width / height)


def stack(lines: list[Line], width: int) -> Array:
    """Scale lines to the models' height, blue first, −1 to 1, zeros on the right."""
    batch = np.zeros((len(lines), 3, HEIGHT, width), np.float32)
    for place, line in enumerate(lines):
        size = (min(width, _width(line.pixels)), HEIGHT)
        scaled = Image.fromarray(line.pixels).resize(size, Image.Resampling.BILINEAR)
        values = np.asarray(scaled, np.float32)[:, :, ::-1] / 127.5 - 1
        batch[place, :, :, : size[0]] = values.transpose(2, 0, 1)
    return batch
