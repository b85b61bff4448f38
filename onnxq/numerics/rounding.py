"""Round weights to the codes that change what their layer writes least.

A layer shall write ``WᵀX`` and writes ``ŴᵀX̂``: its weights are rounded, and it reads what the
layers before it make of it. With ``G = Σ x̂ x̂ᵀ`` and ``B = Σ x̂ xᵀ W`` over all it reads, the squared
error of output j is, but for a constant,

    ŵ_jᵀ G ŵ_j − 2 ŵ_jᵀ b_j

so no data is needed any more. Rounding to the nearest code is best where G is diagonal and nothing
came before; elsewhere the error of one weight can make up for that of another.
"""

from dataclasses import dataclass

import numpy as np

from onnxq.types import Array

DAMPING = 0.2  # of the mean of the diagonal: how much a weight holds on to what it was
BLOCK = 128  # rows between two updates of all others
SWEEPS = 3


@dataclass(frozen=True, kw_only=True)
class Codes:
    """The codes a stack of matrices can have, and what they stand for.

    Attributes:
        scale: Of every weight, float64 ``(G, n, m)``.
        zero_point: The same.
        ends: Least and greatest code.
    """

    scale: Array
    zero_point: Array
    ends: tuple[int, int]

    def rounded(self, values: Array, rows: slice | int = slice(None)) -> Array:
        """Return what the nearest codes stand for, of some rows."""
        scale, zero_point = self.scale[:, rows], self.zero_point[:, rows]
        codes = np.clip(np.rint(values / scale) + zero_point, *self.ends)
        real: Array = (codes - zero_point) * scale
        return real

    def ordered(self, order: Array) -> "Codes":
        """Return those of the same matrices with their rows in another order."""
        scale, zero_point = _taken(self.scale, order), _taken(self.zero_point, order)
        return Codes(scale=scale, zero_point=zero_point, ends=self.ends)


def output_error(used: Array, gram: Array, wanted: Array) -> Array:
    """Return the squared error of every output, less what it is with weights of zero.

    Args:
        used: Weights, ``(G, n, m)``.
        gram: Sums of products of the inputs, ``(G, n, n)``.
        wanted: Sums of products of inputs and outputs, ``(G, n, m)``.

    Returns:
        float64, shape ``(G, m)``.
    """
    error: Array = (used * (gram @ used - 2 * wanted)).sum(axis=1)
    return error


def reconstructed(weights: Array, gram: Array, wanted: Array, codes: Codes) -> Array:
    """Return weights on their grid whose squared error is no larger than that of the nearest.

    Rows are rounded one after the other, the largest diagonal entries first; those not yet rounded
    make up for the error of each. Then single codes move as long as that helps.

    Args:
        weights: G matrices of n inputs × m outputs.
        gram: Sums of products of the inputs, ``(G, n, n)``.
        wanted: Sums of products of inputs and the outputs to have, ``(G, n, m)``: where inputs are
            those of the float model, ``gram @ weights``.
        codes: The grid.

    Returns:
        float64, shape of ``weights``.

    Source:
        Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
        Transformers", 2022, algorithm 1; Behdin et al., "QuantEase: Optimization-based Quantization
        for Language Models", 2023, section 3, for the descent. Differs: inputs may be others than
        those of the float model, which moves the target; an output that neither helps keeps the
        nearest codes.
    """
    diagonal = np.diagonal(gram, axis1=1, axis2=2)
    damping = DAMPING * diagonal.mean(axis=1)[:, np.newaxis] + np.finfo(np.float64).tiny
    order = np.argsort(-diagonal, axis=1, kind="stable")
    grid, exact = codes.ordered(order), _taken(np.asarray(weights, np.float64), order)
    products = _taken(_taken(gram, order).transpose(0, 2, 1), order)
    targets = _taken(wanted, order)
    nearest = grid.rounded(exact)
    damped = products + np.eye(products.shape[1]) * damping[..., np.newaxis]
    held = targets + damping[..., np.newaxis] * exact
    tried = _descended(_compensated(damped, held, grid), damped, held, grid)
    better = output_error(tried, products, targets) < output_error(nearest, products, targets)
    found = np.where(better[:, np.newaxis], tried, nearest)
    return _taken(found, np.argsort(order, axis=1))


def _taken(stack: Array, order: Array) -> Array:
    """Bring the rows of matrices into an order."""
    return np.take_along_axis(stack, order[..., np.newaxis], axis=1)


def _compensated(gram: Array, wanted: Array, grid: Codes) -> Array:
    """Round row by row, later rows making up for the error of earlier ones."""
    factor = _inverse_factor(gram)
    left = np.linalg.solve(gram, wanted)
    used, rows = np.empty_like(left), left.shape[1]
    for start in range(0, rows, BLOCK):
        stop = min(start + BLOCK, rows)
        errors = np.empty_like(left[:, start:stop])
        for row in range(start, stop):
            used[:, row] = grid.rounded(left[:, row], row)
            error = (left[:, row] - used[:, row]) / factor[:, row, row, np.newaxis]
            errors[:, row - start] = error
            behind = factor[:, row, row + 1 : stop, np.newaxis]
            left[:, row + 1 : stop] -= behind * error[:, np.newaxis]
        left[:, stop:] -= factor[:, start:stop, stop:].transpose(0, 2, 1) @ errors
    return used


def _inverse_factor(gram: Array) -> Array:
    """Return the upper triangular U with ``UᵀU = G⁻¹``."""
    flipped = np.linalg.cholesky(gram[:, ::-1, ::-1])[:, ::-1, ::-1]  # upper, R Rᵀ = G
    upper: Array = np.linalg.inv(flipped)
    return upper


def _descended(used: Array, gram: Array, wanted: Array, grid: Codes) -> Array:
    """Move the codes of one row after the other to the best with all others as they are."""
    diagonal = np.diagonal(gram, axis1=1, axis2=2)[..., np.newaxis]
    pull, rows = wanted - gram @ used, used.shape[1]
    for _ in range(SWEEPS):
        moved = False
        for start in range(0, rows, BLOCK):
            block = slice(start, min(start + BLOCK, rows))
            before, near = used[:, block].copy(), pull[:, block].copy()
            for place, row in enumerate(range(rows)[block]):
                best = grid.rounded(used[:, row] + near[:, place] / diagonal[:, row], row)
                change = best - used[:, row]
                if change.any():
                    near -= gram[:, block, row, np.newaxis] * change[:, np.newaxis]
                    used[:, row] = best
            change = used[:, block] - before
            if change.any():
                pull -= gram[:, :, block] @ change
                moved = True
        if not moved:
            break
    return used
