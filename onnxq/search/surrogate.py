"""What a strategy loses, predicted as a sum over its genes.

    loss(g)  ≈  base + Σ_i effect[i, g_i]

Errors of layers that are small and unrelated add up in the square, so the loss in relative entropy,
or noise over signal, is nearly a sum. The effects start as ``sensitivity_i · error[i, o]``: how
much an option disturbs its tensor is known without running anything, and one measured change a
gene tells how much the outputs mind. Every strategy evaluated since then corrects them, by Bayesian
linear regression: effects are believed to within `BELIEF` of themselves, sums to within `NOISE`.
How far that holds is measured all along, as rank correlation on strategies it did not choose.

Source:
    The regression: Rasmussen, Williams, "Gaussian Processes for Machine Learning", 2006, chapter
    2.1, with one weight an option and a diagonal prior.
"""

import numpy as np

from onnxq.types import Array

BELIEF = 0.5  # standard deviation of an effect, over itself
FLOOR = 0.5  # the same over the typical effect: what is believed to be nothing may be something
UNKNOWN = 0.005  # the same over the loss, where nothing is known of any effect
NOISE = 0.03  # of what a sum leaves out, over the loss


class Surrogate:
    """Predicts losses.

    Attributes:
        base: Loss of the strategy all effects are relative to.
        effects: By gene, one an option.
    """

    def __init__(self, base: float, effects: list[Array]) -> None:
        """Begin with what is believed.

        Args:
            base: Loss of a strategy none of whose effects count.
            effects: By gene, one an option.
        """
        self.base, self._prior = base, effects
        self.effects = effects
        sizes = np.abs(np.concatenate([np.zeros(0), *effects]))
        floor = FLOOR * float(np.median(sizes[sizes > 0])) if sizes.any() else UNKNOWN * abs(base)
        self._spread = [np.maximum(BELIEF * np.abs(each), floor) ** 2 for each in effects]

    def predict(self, population: Array) -> Array:
        """Return the predicted losses, ``(N,)``.

        Args:
            population: ``(N, G)``.
        """
        return self.base + self._sums(self.effects, population)

    def learn(self, population: Array, losses: Array) -> None:
        """Correct the effects by what was measured, from what was believed at first.

        Args:
            population: ``(N, G)``.
            losses: ``(N,)``, finite.
        """
        kernel = np.zeros((len(losses), len(losses)))
        for spread, values in zip(self._spread, population.T, strict=True):
            kernel += spread[values][:, None] * (values[:, None] == values[None])
        believed = self.base + self._sums(self._prior, population)
        scale = np.maximum(np.minimum(np.abs(losses), np.abs(believed)), 1e-12)
        kernel[np.diag_indices(len(losses))] += (NOISE * scale) ** 2
        weights = np.linalg.solve(kernel, losses - believed)
        self.effects = [
            prior + spread * np.bincount(values, weights, minlength=len(prior))
            for prior, spread, values in zip(self._prior, self._spread, population.T, strict=True)
        ]

    @staticmethod
    def _sums(effects: list[Array], population: Array) -> Array:
        """Add up the effects of strategies."""
        found = np.zeros(len(population))
        for effect, values in zip(effects, population.T, strict=True):
            found += effect[values]
        return found
