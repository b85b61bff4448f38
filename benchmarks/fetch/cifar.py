"""A CIFAR-10 classifier, model and pictures by path: no package offers them with a licence.

The pictures are scaled to 0…1 and normalized with the means and deviations usual for ImageNet.
"""

import shutil
from pathlib import Path

import numpy as np

from benchmarks.fetch.ingredients import Ingredients
from benchmarks.fetch.packages import MissingError
from onnxq.types import Array

MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)


def build(ingredients: Ingredients, target: Path) -> None:
    """Take the model as it is and prepare the pictures.

    Args:
        ingredients: ``cifar`` holds ``calib`` and ``test``, uint8 ``(N, 3, 32, 32)``, and
            ``test_label``; also ``calib_label`` for tuning on them.
        target: Where the files go.

    Raises:
        MissingError: One of the two paths is not given.
    """
    if ingredients.cifar is None or ingredients.cifar_model is None:
        raise MissingError("needs --cifar NPZ and --cifar-model ONNX")
    shutil.copyfile(ingredients.cifar_model, target / "model.onnx")
    with np.load(ingredients.cifar) as file:
        labels = {"label": file["calib_label"]} if "calib_label" in file.files else {}
        np.savez(target / "calib.npz", image=_normalized(file["calib"]), **labels)
        np.savez(target / "eval.npz", image=_normalized(file["test"]), label=file["test_label"])


def _normalized(pixels: Array) -> Array:
    """Turn pixels into what the model takes."""
    prepared: Array = (pixels.astype(np.float32) / np.float32(255) - MEAN) / DEVIATION
    return prepared
