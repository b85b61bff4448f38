"""How near the outputs are to the float model's, for data without labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onnxq.errors import RecipeError
from onnxq.metrics.answers import Answers, misfit, output_of
from onnxq.metrics.similarity import cosines, powers
from onnxq.types import Array

SIMPLEX = 1e-3  # how far from 1 the sum of probabilities may be
LEAST = 1e-30  # a probability of 0 is taken as this, or the entropy would be infinite


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Cosine similarity of each sample's output to the float model's; no labels.

    Attributes:
        output: Name of the output; None for all of numbers, their cosines averaged.
    """

    name: ClassVar[str] = "cosine"
    best: ClassVar[float] = 1.0
    smooth: ClassVar[bool] = True
    output: str | None = None

    def evidence(self, answers: Answers) -> Sequence[float]:
        """Return the cosine of each sample; of the batch if an output does not count samples."""
        pairs = _pairs(self.name, answers, self.output, "fiub")
        rows: list[float] = np.mean([cosines(a, b) for _, a, b in pairs], axis=0).tolist()
        return rows

    def score(self, evidence: Sequence[Any]) -> float:
        """Return the mean."""
        return float(np.mean(evidence))


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Minus the noise over the signal of the output where that is largest; no labels.

    ``−Σ(y − ŷ)²/Σy²`` over all samples: SQNR in dB is ``−10·log10`` of it. Errors of layers add up
    in it, and no single sample decides, as it may in relative entropy.

    Attributes:
        output: Name of the output; None for all of numbers.
    """

    name: ClassVar[str] = "noise"
    best: ClassVar[float] = 0.0
    smooth: ClassVar[bool] = True
    output: str | None = None

    def evidence(self, answers: Answers) -> Sequence[tuple[tuple[float, float], ...]]:
        """Return signal and noise of each output, for each sample; of the batch likewise."""
        pairs = _pairs(self.name, answers, self.output, "fiub")
        outputs = [list(zip(*powers(a, b), strict=True)) for _, a, b in pairs]
        return list(zip(*outputs, strict=True))

    def score(self, evidence: Sequence[Any]) -> float:
        """Return minus the largest ratio; an output without a signal counts as 1."""
        sums = np.sum(np.array(evidence, np.float64), axis=0)
        signal, noise = sums[:, 0], sums[:, 1]
        return 0.0 - float((noise / np.where(signal > 0, signal, 1.0)).max())

    def signal(self, evidence: Sequence[Any]) -> Array:
        """Return the mean signal of each output."""
        found: Array = np.array(evidence, np.float64)[..., 0].mean(axis=0)
        return found

    def units(self, evidence: Sequence[Any], signal: Array | None = None) -> list[float]:
        """Return what to compare sample by sample: minus the noise, over the mean signal.

        Args:
            evidence: Of some samples.
            signal: Of all; by default of those.
        """
        signal = self.signal(evidence) if signal is None else signal
        found = np.array(evidence, np.float64)[..., 1] / np.where(signal > 0, signal, 1.0)
        rows: list[float] = (0.0 - found.max(axis=1)).tolist()
        return rows


@dataclass(frozen=True, kw_only=True)
class RelativeEntropy:
    """Minus the mean KL divergence KL(float ‖ quantized) of the outputs, in nats; no labels.

    ``KL = Σ_c p_c (ln p_c − ln q_c)`` along the axis of the classes, averaged over the other
    axes of a sample. p and q are the softmax of the outputs, or the outputs divided by their sum
    where they are distributions already; a probability of 0 in q counts as 1e-30.

    Attributes:
        output: Name of the output; None for all of floats, their entropies averaged.
        axis: Axis of the classes; None for 1 in outputs of four axes, else the last.
        normalize: ``softmax``, ``sum``, or ``auto``: ``sum`` where the float model's values
            are not negative and add up to 1.

    Raises:
        ValueError: ``normalize`` is none of these.
    """

    name: ClassVar[str] = "relative-entropy"
    best: ClassVar[float] = 0.0
    smooth: ClassVar[bool] = True
    output: str | None = None
    axis: int | None = None
    normalize: str = "auto"

    def __post_init__(self) -> None:
        """Check the choice."""
        if self.normalize not in ("auto", "softmax", "sum"):
            raise ValueError(f"normalize must be auto, softmax or sum, not {self.normalize!r}")

    def evidence(self, answers: Answers) -> Sequence[float]:
        """Return minus the divergence of each sample."""
        pairs = _pairs(self.name, answers, self.output, "f")
        found = [self._divergences(name, a, b) for name, a, b in pairs]
        rows: list[float] = (0.0 - np.mean(found, axis=0)).tolist()
        return rows

    def score(self, evidence: Sequence[Any]) -> float:
        """Return the mean."""
        return float(np.mean(evidence))

    def _divergences(self, name: str, reference: Array, got: Array) -> Array:
        """Return the mean divergence of each sample of one output."""
        axis = (1 if reference.ndim == 4 else -1) if self.axis is None else self.axis
        if not -reference.ndim < axis < reference.ndim or axis == 0:
            raise misfit(self.name, f"an output whose axis {axis} is the classes", (name, got))
        p = np.moveaxis(reference, axis, -1).astype(np.float64)
        q = np.moveaxis(got, axis, -1).astype(np.float64)
        log = self._log_softmax if self._softmaxed(p) else self._log_share
        log_p, log_q = log(p), log(q)
        terms = np.where(log_p == -math.inf, 0.0, np.exp(log_p)) * (
            np.where(log_p == -math.inf, 0.0, log_p) - np.maximum(log_q, math.log(LEAST))
        )
        sums: Array = terms.sum(axis=-1).reshape(len(p), -1).mean(axis=1)
        return sums

    def _softmaxed(self, p: Array) -> bool:
        """Say whether the values must go through a softmax."""
        if self.normalize != "auto":
            return self.normalize == "softmax"
        return not bool((p >= 0).all() and (np.abs(p.sum(axis=-1) - 1) <= SIMPLEX).all())

    @staticmethod
    def _log_softmax(x: Array) -> Array:
        """Return the logarithm of the softmax along the last axis."""
        with np.errstate(invalid="ignore"):
            shifted = x - x.max(axis=-1, keepdims=True)
        log: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        return log

    @staticmethod
    def _log_share(x: Array) -> Array:
        """Return the logarithm of the values divided by their sum; negative ones count as 0."""
        x = np.maximum(x, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            log: Array = np.log(x / x.sum(axis=-1, keepdims=True))
        return log


def _pairs(
    metric: str, answers: Answers, name: str | None, kinds: str
) -> list[tuple[str, Array, Array]]:
    """Return name, float and quantized array of the outputs to compare, first axis = samples."""
    names = list(answers.reference) if name is None else [name]
    found = []
    for each in names:
        reference = output_of(metric, answers.reference, each)
        got = output_of(metric, answers.outputs, each)[1]
        if reference[1].dtype.kind not in kinds:
            if name is not None:
                raise misfit(metric, "an output of numbers", reference)
            continue
        if got.shape != reference[1].shape:
            raise misfit(metric, f"the float model's shape {reference[1].shape}", (each, got))
        found.append((each, reference[1], got))
    if not found:
        raise RecipeError(f"metric {metric!r}: no output holds numbers it can compare")
    if all(a.shape[:1] == (answers.samples,) for _, a, _ in found):
        return found
    return [(each, a[None], b[None]) for each, a, b in found]
