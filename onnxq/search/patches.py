"""From other parameters to the constants of a model that has been emitted already."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from onnxq.emit.biases import fit_biases
from onnxq.emit.constants import Place, Stored, constant_values, pair_values
from onnxq.graph.io import Model, array_of
from onnxq.plan import Plan
from onnxq.types import Array, QuantParams

Params = Mapping[Place, QuantParams]


class Patches:
    """The parameters of a model, and what a change of some of them does to its constants.

    Attributes:
        used: The parameters now: of activations by name, of weights by first output of their
            node and index.
    """

    def __init__(
        self, model: Model, plan: Plan, used: Params, places: Mapping[Place, Stored]
    ) -> None:
        """Begin with what was emitted.

        Args:
            model: The prepared model, before it was emitted.
            plan: What became of it.
            used: The parameters it was emitted with.
            places: Where the emitter put the constants.
        """
        self._model, self._plan, self._places = model, plan, places
        self._nodes = {node.outputs[0].name: node for node in model.graph.nodes if node.outputs}
        self.used = dict(used)

    def constants(self, change: Params) -> dict[str, Array] | None:
        """Return the constants that parameters call for, by name.

        The bias of a node follows the scales of its input and weight, and a weight's scale may
        have to make room for it.

        Args:
            change: What is different from now.

        Returns:
            The constants; None if two nodes that share one would need it differently.
        """
        after = {**self.used, **change}
        found: dict[str, Array] = {}
        for place, params in change.items():
            if isinstance(place, str) and place in self._places:
                stored = self._places[place]
                values = pair_values(params, stored.rounding, packed=self._plan.target.packs())
                found.update(zip(stored.names, values, strict=True))
        touched = {
            output: node
            for output, node in self._plan.nodes.items()
            if node.quantized and self._is_touched(output, change)
        }
        activations = {name: each for name, each in after.items() if isinstance(name, str)}
        weights = {key: each for key, each in after.items() if not isinstance(key, str)}
        fitted = fit_biases(self._model, replace(self._plan, nodes=touched), activations, weights)
        for output, node in touched.items():
            used = {weight.index: fitted.weights[output, weight.index] for weight in node.weights}
            if node.bias is not None:
                used[node.bias] = fitted.biases[output]
            for index, params in used.items():
                array = array_of(self._nodes[output].inputs[index])
                packed = self._plan.target.packs(alone=node.weight_only)
                new = constant_values(array, params, packed=packed)
                for name, value in zip(self._places[output, index].names, new, strict=True):
                    if name in found and not np.array_equal(found[name], value):
                        return None
                    found[name] = value
        return found

    def _is_touched(self, output: str, change: Params) -> bool:
        """Say whether constants of a node depend on what changes."""
        plan = self._plan.nodes[output]
        reads = plan.bias is not None and self._nodes[output].inputs[0].name in change
        return reads or any((output, weight.index) in change for weight in plan.weights)

    def keep(self, change: Params) -> None:
        """Make a change last."""
        self.used.update(change)
