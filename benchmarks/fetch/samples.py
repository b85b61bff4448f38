"""The four sample models of the repository, on data they were not trained on."""

import shutil
from pathlib import Path

from benchmarks.fetch.ingredients import Ingredients

FOLDER = Path(__file__).resolve().parents[2] / "sample_models"
NAMES = ("fashion_resnet", "fashion_mobilenet", "fashion_segment", "fashion_detect")


def build(name: str, _: Ingredients, target: Path) -> None:
    """Copy a sample model and its data."""
    for file in (FOLDER / name).iterdir():
        shutil.copy(file, target)
