"""Text recognition: CTC greedy decoding, exact lines and edit distance."""

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from onnxq.errors import CalibrationError, RecipeError, UsageError
from onnxq.metrics.answers import Answers, label_of, misfit, output_of, share
from onnxq.types import Array

METADATA = "character"  # where exported PaddleOCR models hold their characters, one a line

Line = Sequence[Hashable]


@dataclass(frozen=True, kw_only=True)
class Recognition:
    """Weigh lines read without error against single characters.

    ``weight · exact + (1 − weight) · (1 − edit distance / length of the longer line)`` for each
    sample, after CTC greedy decoding: the best class of each step, repetitions dropped, then
    blanks. Two empty lines are equal. The label ``label`` is a text, ``(samples,)``, or class
    indices of the output, ``(samples, length)``, filled up with −1; the latter need no characters.

    Attributes:
        weight: Share of exact lines, 0 to 1.
        output: Name of the output, ``(samples, steps, classes)``; None for the first.
        characters: File with one character a line, in UTF-8; None for the model's metadata entry
            ``character``. The k-th is the k-th class that is no blank; where the output has one
            class more, that is the space.
        blank: Index of the blank; −1 for the last class.
        spaces: ``keep``; ``strip`` those at both ends; ``ignore`` all, in answer and label.
        steps_first: 1 for an output ``(steps, samples, classes)``.

    Raises:
        ValueError: An option is out of its bounds.
    """

    name: ClassVar[str] = "recognition"
    best: ClassVar[float] = 1.0
    weight: float = 0.5
    output: str | None = None
    characters: str | None = None
    blank: int = 0
    spaces: str = "keep"
    steps_first: int = 0

    def __post_init__(self) -> None:
        """Check the bounds."""
        share("weight", self.weight)
        if self.blank < -1:
            raise ValueError(f"blank must be a class or -1, not {self.blank}")
        if self.spaces not in ("keep", "strip", "ignore"):
            raise ValueError(f"spaces must be keep, strip or ignore, not {self.spaces!r}")

    def evidence(self, answers: Answers) -> Sequence[float]:
        """Return the score of each sample."""
        found = output_of(self.name, answers.outputs, self.output)
        scores = found[1]
        if scores.ndim != 3 or scores.dtype.kind != "f" or not -1 <= self.blank < scores.shape[2]:
            raise misfit(self.name, "an output of shape (samples, steps, classes)", found)
        scores = scores.swapaxes(0, 1) if self.steps_first else scores
        classes = scores.shape[2]
        read = ctc_greedy(scores, self.blank % classes)
        label = label_of(self.name, answers, "label", len(scores))
        if label.dtype.kind in "iu" and label.ndim == 2:
            wanted = [row[row >= 0].tolist() for row in label]
            return [self._weighed(a, b) for a, b in zip(read, wanted, strict=True)]
        table = self._table(answers, classes)
        lines = [self._spaced("".join(table[c] for c in line)) for line in read]
        texts = [self._spaced(text) for text in _texts(label)]
        return [self._weighed(a, b) for a, b in zip(lines, texts, strict=True)]

    def score(self, evidence: Sequence[Any]) -> float:
        """Return the mean."""
        return float(np.mean(evidence))

    def _weighed(self, line: Line, label: Line) -> float:
        """Return the score of one line."""
        return self.weight * (line == label) + (1 - self.weight) * (1 - edit_share(line, label))

    def _spaced(self, text: str) -> str:
        """Treat spaces as asked."""
        if self.spaces == "keep":
            return text
        return text.strip() if self.spaces == "strip" else text.replace(" ", "")

    def _table(self, answers: Answers, classes: int) -> list[str]:
        """Return the character of each class; nothing for the blank."""
        listed = self._listed(answers)
        if len(listed) == classes - 2:
            listed = [*listed, " "]
        if len(listed) != classes - 1:
            raise RecipeError(
                f"metric {self.name!r}: {len(listed)} characters for an output of {classes} "
                "classes, one of them blank"
            )
        blank = self.blank % classes
        return [*listed[:blank], "", *listed[blank:]]

    def _listed(self, answers: Answers) -> list[str]:
        """Return the characters as listed."""
        if self.characters is None:
            if METADATA not in answers.metadata:
                raise RecipeError(
                    f"metric {self.name!r}: the model has no metadata entry {METADATA!r}: give a "
                    "file with one character a line as option characters"
                )
            return _lines(answers.metadata[METADATA])
        try:
            return _lines(Path(self.characters).read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"metric {self.name!r}: cannot read characters {self.characters}: {error}"
            ) from error


def ctc_greedy(scores: Array, blank: int) -> list[list[int]]:
    """Decode the outputs of a CTC model.

    Args:
        scores: ``(samples, steps, classes)``.
        blank: Index of the blank class.

    Returns:
        For each sample the best class of each step, repetitions dropped, then blanks.
    """
    best = scores.argmax(axis=2)
    return [[int(c) for c, _ in itertools.groupby(row) if c != blank] for row in best]


def edit_share(line: Line, label: Line) -> float:
    """Return the Levenshtein distance divided by the length of the longer line; 0 for two empty.

    Raises:
        UsageError: rapidfuzz is not installed.
    """
    try:
        from rapidfuzz.distance import Levenshtein  # noqa: PLC0415  an extra
    except ImportError:
        raise UsageError(
            "metric 'recognition' needs rapidfuzz: pip install 'onnxq[metrics]'"
        ) from None
    return float(Levenshtein.normalized_distance(line, label))


def _lines(text: str) -> list[str]:
    """Return the lines of a character table; only a line feed ends one, the last may be open."""
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _texts(label: Array) -> list[str]:
    """Return labels that are texts."""
    if label.dtype.kind not in "UOS" or label.size != len(label):
        raise CalibrationError(
            f"metric {Recognition.name!r}: 'label' is {label.dtype} of shape {label.shape}; texts "
            "(samples,) or class indices (samples, length) are wanted"
        )
    return [t.decode("utf-8") if isinstance(t, bytes) else str(t) for t in label.reshape(-1)]
