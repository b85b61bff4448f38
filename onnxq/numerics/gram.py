"""Scales of tiles by what they do to the output of their layer, from the products of its inputs.

With ``G = Σ x xᵀ`` over all a layer reads, n × n, the cosine of its outputs with and without
quantizing needs no data any more::

    cos(Y, Ŷ) = Σ_j w_jᵀ G ŵ_j / √(Σ_j w_jᵀ G w_j · Σ_j ŵ_jᵀ G ŵ_j)

and a change Δ of one tile moves its sums by ``(G W) · Δ`` and ``2 (G Ŵ) · Δ + Δᵀ G Δ``, of which
only the rows and columns of the tile matter.
"""

from dataclasses import dataclass

import numpy as np

from onnxq.types import Array, IntType

FACTORS = np.linspace(0.5, 1.2, 71)  # of the scale to begin with; 1.0 is one of them
ROUNDS = 3
GAIN = 1e-9  # less is rounding


def output_cosine(stack: Array, used: Array, gram: Array) -> float:
    """Return the cosine of a layer's output with two sets of weights.

    Args:
        stack: Matrices, ``(G, n, m)``.
        used: Others of the same shape.
        gram: Sums of products of the inputs, ``(G, n, n)``.
    """
    dot = float((stack * (gram @ used)).sum())
    sizes = float((stack * (gram @ stack)).sum()) * float((used * (gram @ used)).sum())
    return dot / float(np.sqrt(sizes)) if sizes > 0 else 0.0


def cosine_scales(
    stack: Array, gram: Array, scale: Array, size: tuple[int, int], dtype: IntType
) -> Array:
    """Move the scale of one tile after another to where the layer's output has the best cosine.

    Args:
        stack: The weights, matrices ``(G, n, m)``.
        gram: Sums of products of the inputs, ``(G, n, n)``.
        scale: One a tile, to begin with.
        size: Rows and columns of a tile.
        dtype: Of the codes, symmetric.

    Returns:
        float32, shape of ``scale``. The cosine is no worse than with the scales given.

    Source:
        Wu et al., "EasyQuant: Post-training Quantization via Scale Optimization", 2020, section 3.
        Differs: one factor a tile and no scales of activations; the cosine comes from the products
        of the inputs and is that of all samples together, without the bias.
    """
    layer = _Layer(stack.astype(np.float64), gram.astype(np.float64), scale.copy(), size, dtype)
    if not layer.length > 0:
        return scale
    for _ in range(ROUNDS):
        if not sum(layer.improve(index) for index in np.ndindex(*scale.shape)):
            break
    return layer.scale


@dataclass
class _Layer:
    """Sums of one layer, kept up to date while the scales move."""

    stack: Array
    gram: Array
    scale: Array
    size: tuple[int, int]
    dtype: IntType

    def __post_init__(self) -> None:
        """Quantize with the scales to begin with."""
        self.begin = self.scale.copy()
        self.used = np.zeros_like(self.stack)
        for index in np.ndindex(*self.scale.shape):
            where = self._where(index)
            self.used[where] = self._rounded(self.stack[where], self.scale[index])
        self.exact, self.made = self.gram @ self.stack, self.gram @ self.used
        self.dot = float((self.exact * self.used).sum())
        self.length = float((self.made * self.used).sum())

    def _where(self, index: tuple[int, ...]) -> tuple[int, slice, slice]:
        """Return the place of a tile."""
        group, *corner = index
        rows, columns = (
            slice(i * step, (i + 1) * step) for i, step in zip(corner, self.size, strict=True)
        )
        return group, rows, columns

    def _rounded(self, part: Array, scale: Array) -> Array:
        """Quantize and dequantize as the written model does, for one scale or several."""
        codes = np.rint(part.astype(np.float32) / scale)
        return np.clip(codes, self.dtype.qmin, self.dtype.qmax) * scale.astype(np.float64)

    def improve(self, index: tuple[int, ...]) -> bool:
        """Move one scale to the best of all; say whether it moved."""
        group, rows, columns = where = self._where(index)
        part = self.stack[where]
        if not part.any():
            return False
        tried = (self.begin[index] * FACTORS).astype(np.float32)
        change = self._rounded(part, tried.reshape(-1, 1, 1)) - self.used[where]
        dots = self.dot + np.tensordot(change, self.exact[where], 2)
        products = self.gram[group, rows, rows] @ change
        lengths = self.length + 2 * np.tensordot(change, self.made[where], 2)
        lengths += (change * products).sum(axis=(1, 2))
        with np.errstate(divide="ignore", invalid="ignore"):
            cosines = np.where(lengths > 0, dots / np.sqrt(lengths), -np.inf)
        best = int(np.argmax(cosines))
        now = self.dot / np.sqrt(self.length)
        if not cosines[best] > now + GAIN * abs(now):
            return False
        self.scale[index] = tried[best]
        self.used[where] += change[best]
        self.made[group][:, columns] += self.gram[group][:, rows] @ change[best]
        self.dot, self.length = float(dots[best]), float(lengths[best])
        return True
