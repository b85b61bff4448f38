"""A model whose weights stand on tiles, and what exchanging two channels does to its constants.

The model that is measured computes with the values the tiles round to, as floats: what the written
file computes, but for the last bits. Its biases stay float, and take up the mean error of their
layer anew with every swap, if they shall.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxq.correction import corrected
from onnxq.drafting import Draft
from onnxq.emit.biases import Fitted
from onnxq.emit.qdq import emit_qdq
from onnxq.graph import io
from onnxq.graph.coupling import Axes, Channels, permuted
from onnxq.graph.edit import Names
from onnxq.graph.io import array_of, constant
from onnxq.numerics.affine import fake_quantize, params_of
from onnxq.parameters import weight_stats
from onnxq.plan import Key, WeightPlan
from onnxq.tile_layout import Layout
from onnxq.types import Array


@dataclass(frozen=True, kw_only=True)
class Swap:
    """Two channels that change places, and what that does.

    Attributes:
        family: Number of the family.
        pair: The two places.
        floats: Float constants that change, by name.
        weights: Weights that lie otherwise, by first output of their node and index.
        used: Constants of the measured model that change, by name.
    """

    family: int
    pair: tuple[int, int]
    floats: Mapping[str, Array]
    weights: Mapping[Key, WeightPlan]
    used: Mapping[str, Array]


class Arrangement:
    """Where every channel stands now.

    Attributes:
        layout: What may change places; orders are relative to where the draft has it.
        orders: One a family.
        weights: What is asked of each quantized weight, by first output of its node and index.
        values: Float constants that may change, by name.
        model: The model to measure, in the order of the draft.
        names: What it calls the weights.
        read: The tensors its nodes read.
    """

    def __init__(
        self,
        made: Draft,
        layout: Layout,
        channels: Channels | None,
        means: Mapping[str, tuple[Array, Array]],
    ) -> None:
        """Begin with a draft.

        Args:
            made: The draft, no biases corrected; its model is left alone.
            layout: What may change places in it.
            channels: The channels of its model, if these do.
            means: For biases that shall be corrected, what `onnxq.correction.input_means` says of
                their layers.
        """
        self._nodes = {n.outputs[0].name: n for n in made.prepared.graph.nodes if n.outputs}
        self._means = {output: f"means in front of {output}" for output in means}
        self._biases: dict[str, str] = {}
        if channels is not None:
            followed = {self._means[output]: self._read_by(channels, output) for output in means}
            channels = replace(channels, constants={**channels.constants, **followed})
        self.layout = layout
        self._parts = [_part(channels, number) for number in layout.of] if channels else []
        self.orders = [np.arange(family.channels) for family in layout.families]
        self.weights = {
            (node.output, weight.index): weight
            for node in made.plan.nodes.values()
            for weight in node.weights
        }
        tensors = made.prepared.graph.tensors()
        names = {weight.name for weight in self.weights.values()}
        names |= {self._nodes[output].inputs[2].name for output in means}
        names |= set(channels.constants) if channels else set()
        self.values = {name: array_of(tensors[name]) for name in names if name in tensors}
        self.values |= {self._means[output]: np.stack(both) for output, both in means.items()}
        self.model = io.copied(made.prepared)
        self.names = self._measured(made)
        self.read = {tensor.name for node in self.model.graph.nodes for tensor in node.inputs}

    def _measured(self, made: Draft) -> dict[Key, str]:
        """Turn the model into the one to measure; return the names of its weights."""
        names, found = Names(self.model), {}
        nodes = {node.outputs[0].name: node for node in self.model.graph.nodes if node.outputs}
        for key, weight in self.weights.items():
            found[key] = names.new(f"{weight.name}_used")
            values = rounded(weight, self.values[weight.name])
            nodes[key[0]].inputs[key[1]] = constant(found[key], values)
            if key[0] in self._means:
                bias = nodes[key[0]].inputs[2]
                self._biases[key[0]] = names.new(f"{bias.name}_used")
                values = self._corrected(key[0], weight, values, self.values)
                nodes[key[0]].inputs[2] = constant(self._biases[key[0]], values)
        if made.plan.activations:
            plans = {o: replace(n, weights=(), bias=None) for o, n in made.plan.nodes.items()}
            plan = replace(made.plan, nodes=plans)
            emit_qdq(self.model, plan, made.activations, Fitted(weights={}, biases={}, raised={}))
        return found

    def swap(self, family: int, pair: tuple[int, int]) -> Swap:
        """Return what exchanging two channels does."""
        floats: dict[str, Array] = {}
        weights: dict[Key, WeightPlan] = {}
        if not self._parts:
            weights = self._turned(family, pair)
        else:
            floats = self._moved(family, pair)
            weights = {key: each for key, each in self.weights.items() if each.name in floats}
        used = self.used({**self.weights, **weights}, {**self.values, **floats}, weights)
        others = {name: values for name, values in floats.items() if name in self.read}
        return Swap(
            family=family, pair=pair, floats=floats, weights=weights, used={**others, **used}
        )

    def used(
        self, weights: Mapping[Key, WeightPlan], values: Mapping[str, Array], keys: Iterable[Key]
    ) -> dict[str, Array]:
        """Return the weights of the measured model, and the biases that follow them.

        Args:
            weights: What is asked of each.
            values: Float constants, by name.
            keys: Which.
        """
        found = {}
        for key in keys:
            weight = weights[key]
            found[self.names[key]] = after = rounded(weight, values[weight.name])
            if key[0] in self._means:
                found[self._biases[key[0]]] = self._corrected(key[0], weight, after, values)
        return found

    def _corrected(
        self, output: str, weight: WeightPlan, used: Array, values: Mapping[str, Array]
    ) -> Array:
        """Return the bias of a layer that takes up its mean error."""
        node = self._nodes[output]
        before, after = values[self._means[output]]
        bias = values[node.inputs[2].name]
        return corrected(node, bias, values[weight.name], used, (before, after))

    def _read_by(self, channels: Channels, output: str) -> tuple[Axes]:
        """Return the atoms along what a layer reads, for two values a channel."""
        node = self._nodes[output]
        weight = node.inputs[1]
        shape = (1, weight.shape[1])  # of a Gemm
        if node.op == "Conv":
            shape = (
                node.attrs.get("group", 1),
                1,
                *weight.shape[1:2],
                *[1] * len(weight.shape[2:]),
            )
        atoms = next(a.atoms for a in channels.constants[weight.name] if a.atoms.shape == shape)
        return (Axes(view=(2, atoms.size), atoms=atoms.reshape(1, -1)),)

    def _moved(self, family: int, pair: tuple[int, int]) -> dict[str, Array]:
        """Return the float constants in which two channels of the model have changed places."""
        channels = self._parts[family]
        orders = [np.arange(len(each)) for each in channels.movers.families]
        orders[self.layout.of[family]][list(pair)] = pair[::-1]
        return {
            name: permuted(self.values[name], channels.constants[name][0].view, indices)
            for name, indices in channels.reordered(orders).items()
        }

    def _turned(self, family: int, pair: tuple[int, int]) -> dict[Key, WeightPlan]:
        """Return the one weight of which two rows or columns have changed places."""
        (place,) = self.layout.families[family].places
        key = list(self.layout.weights)[place.matrix]
        weight = self.weights[key]
        view = weight.spec.matrix
        assert view is not None
        name = "row_order" if place.side == "rows" else "column_order"
        size = view.shape[1] if place.side == "rows" else view.shape[0] * view.shape[2]
        order = np.array(getattr(view, name) or range(size))
        lines = place.lines[list(pair), 0]
        order[lines] = order[lines[::-1]]
        view = replace(view, **{name: tuple(order)})
        return {key: replace(weight, spec=replace(weight.spec, matrix=view))}

    def place(self, orders: Sequence[Array]) -> dict[str, Array]:
        """Bring all channels into an order, from that of the draft; return the constants."""
        used: dict[str, Array] = {}
        for number, order in enumerate(orders):
            for position, channel in enumerate(order.tolist()):
                there = int(np.flatnonzero(self.orders[number] == channel)[0])
                if there != position:
                    swap = self.swap(number, (position, there))
                    self.keep(swap)
                    used.update(swap.used)
        return used

    def keep(self, swap: Swap) -> None:
        """Make a swap last."""
        order = self.orders[swap.family]
        order[list(swap.pair)] = order[list(swap.pair[::-1])]
        self.values.update(swap.floats)
        self.weights.update(swap.weights)


def _part(channels: Channels, number: int) -> Channels:
    """Return the channels with those constants alone that one family of movers touches."""
    family = channels.movers.families[number]
    touched = {
        name: axes
        for name, axes in channels.constants.items()
        if any(np.isin(each.atoms, family).any() for each in axes)
    }
    return replace(channels, constants=touched)


def rounded(weight: WeightPlan, values: Array) -> Array:
    """Return the values that the codes of a weight stand for."""
    stats = weight_stats(weight, values)
    return fake_quantize(values, params_of(weight.spec.range(stats, weight.spec), weight.spec))
