"""Cosine similarity, SQNR and largest difference, folded batch by batch.

For a float output y and a quantized output ŷ of N samples:
``cosine = mean_n (y_n · ŷ_n)/(|y_n||ŷ_n|)``; ``SQNR = 10 log10(Σ y² / Σ (y − ŷ)²)`` in dB over
all elements of all samples.
"""

import math
from dataclasses import dataclass

import numpy as np

from onnxq.types import Array


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """Running sums over samples; add two to combine them.

    Attributes:
        samples: Number of samples.
        cosine_sum: Sum of the samples' cosines.
        cosine_min: Smallest cosine of a sample.
        signal: Sum of squares of the float output.
        noise: Sum of squares of the difference.
        max_abs: Largest absolute difference.
        unequal: Samples whose finite pattern differs: one side NaN or infinite, the other not.
    """

    samples: int = 0
    cosine_sum: float = 0.0
    cosine_min: float = 1.0
    signal: float = 0.0
    noise: float = 0.0
    max_abs: float = 0.0
    unequal: int = 0

    def __add__(self, other: "Similarity") -> "Similarity":
        """Combine two sets of samples."""
        return Similarity(
            samples=self.samples + other.samples,
            cosine_sum=self.cosine_sum + other.cosine_sum,
            cosine_min=min(self.cosine_min, other.cosine_min),
            signal=self.signal + other.signal,
            noise=self.noise + other.noise,
            max_abs=max(self.max_abs, other.max_abs),
            unequal=self.unequal + other.unequal,
        )

    @property
    def cosine(self) -> float:
        """Mean cosine over the samples; NaN without samples."""
        return self.cosine_sum / self.samples if self.samples else math.nan

    @property
    def sqnr(self) -> float:
        """Signal to quantization noise ratio in dB; infinite when nothing differs."""
        return decibel(self.signal, self.noise)


def decibel(signal: float, noise: float) -> float:
    """Return ``10 log10(signal/noise)``; infinite when there is no noise."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def similarity(reference: Array, got: Array) -> Similarity:
    """Compare one output of a batch.

    Args:
        reference: Output of the float model, shape ``(samples, …)``.
        got: Output of the quantized model, same shape.

    Returns:
        Sums over the batch. Elements equal on both sides (−inf of a mask) are left out where
        they are not finite; where only one side is finite, the other counts as zero, and the
        sample has cosine 0.

    Raises:
        ValueError: The shapes differ.
    """
    if reference.shape != got.shape:
        raise ValueError(f"outputs of shape {reference.shape} and {got.shape} do not compare")
    samples = reference.shape[0] if reference.ndim else 1
    y, z, unequal = _finite(reference, got)
    near = np.where(unequal, 0.0, _cosines(y, z))
    difference = y - z
    return Similarity(
        samples=samples,
        cosine_sum=float(near.sum()),
        cosine_min=float(near.min(initial=1.0)),
        signal=float(np.square(y).sum()),
        noise=float(np.square(difference).sum()),
        max_abs=float(np.abs(difference).max(initial=0.0)),
        unequal=int(unequal.sum()),
    )


def cosines(reference: Array, got: Array) -> Array:
    """Return the cosine of each sample, ``(samples,)``, as `similarity` counts it.

    Args:
        reference: Output of the float model, shape ``(samples, …)``.
        got: Output of the quantized model, same shape.
    """
    y, z, unequal = _finite(reference, got)
    found: Array = np.where(unequal, 0.0, _cosines(y, z))
    return found


def powers(reference: Array, got: Array) -> tuple[list[float], list[float]]:
    """Return the sums of squares of each sample and of its difference, as `similarity` counts them.

    Args:
        reference: Output of the float model, shape ``(samples, …)``.
        got: Output of the quantized model, same shape.
    """
    y, z, _ = _finite(reference, got)
    signal: list[float] = np.square(y).sum(axis=1).tolist()
    noise: list[float] = np.square(y - z).sum(axis=1).tolist()
    return signal, noise


def _finite(reference: Array, got: Array) -> tuple[Array, Array, Array]:
    """Return both as float64 rows, each zero where not finite, and which rows differ in that."""
    flat = reference.shape[0] if reference.ndim else 1, math.prod(reference.shape[1:])
    y = reference.reshape(flat).astype(np.float64)
    z = got.reshape(flat).astype(np.float64)
    odd = ~(np.isfinite(y) & np.isfinite(z))
    unequal = (odd & ~((y == z) | (np.isnan(y) & np.isnan(z)))).any(axis=1)
    return np.where(np.isfinite(y), y, 0.0), np.where(np.isfinite(z), z, 0.0), unequal


def _cosines(y: Array, z: Array) -> Array:
    """Return the cosine of each row; 1 where both are zero, 0 where one is."""
    ny, nz = np.linalg.norm(y, axis=1), np.linalg.norm(z, axis=1)
    product = ny * nz
    cosine = np.einsum("ij,ij->i", y, z) / np.where(product == 0, 1.0, product)
    limited: Array = np.where(
        product == 0, (ny == nz).astype(np.float64), np.clip(cosine, -1.0, 1.0)
    )
    return limited
