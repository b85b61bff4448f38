"""A plan's tiles as numbers: the matrices of its layers, and the lines that may change places.

Jointly, channels of the model change places: columns of the layers that write them and rows of all
that read them at once (`onnxq.graph.coupling`). Independently, rows and columns of every layer do,
each layer for itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from onnxq.feeds import Batch
from onnxq.graph.coupling import Axes, Channels
from onnxq.graph.io import Model, Node, array_of
from onnxq.graph.session import Runtime, values_of
from onnxq.numerics.matrices import matrices
from onnxq.numerics.tile_order import Family, Lines, TiledMatrix
from onnxq.plan import Key, Plan, WeightPlan
from onnxq.types import Array, MatrixView

Side = Literal["rows", "columns"]
SIDES: tuple[Side, Side] = ("rows", "columns")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The layers of a plan on tiles.

    Attributes:
        weights: Their weights, by first output of the node and index.
        layers: Their matrices, in the same order.
        families: Lines that may change places.
        of: For each family, jointly, its number among the movers of the model; independently the
            number of the layer it belongs to.
    """

    weights: Mapping[Key, WeightPlan]
    layers: tuple[TiledMatrix, ...]
    families: tuple[Family, ...]
    of: tuple[int, ...]


def tiled(plan: Plan) -> dict[Key, WeightPlan]:
    """Return the weights of a plan that lie on tiles."""
    return {
        (output, weight.index): weight
        for output, node in plan.nodes.items()
        for weight in node.weights
        if weight.spec.matrix is not None
    }


def layers_of(
    model: Model, weights: Mapping[Key, WeightPlan], power: Mapping[Key, Array]
) -> tuple[TiledMatrix, ...]:
    """Return the matrices of weights.

    Args:
        model: The prepared model.
        weights: Those on tiles.
        power: Mean square of what each row reads, ``(G, n)``; all the same where it is unknown.
    """
    tensors = model.graph.tensors()
    found = []
    for key, weight in weights.items():
        values = matrices(array_of(tensors[weight.name]), weight.spec.matrix)
        found.append(
            TiledMatrix(
                values=np.ascontiguousarray(values, np.float32),
                power=power.get(key, np.ones(values.shape[:2])),
                size=(weight.spec.tile[1], weight.spec.tile[2]),
                bits=weight.spec.dtype.bits,
            )
        )
    return tuple(found)


def jointly(
    channels: Channels, weights: Mapping[Key, WeightPlan], layers: Sequence[TiledMatrix]
) -> Layout:
    """Return the layout in which the channels of the model change places.

    Families that no tile would notice are left out.
    """
    place = np.full((channels.count, 3), -1)  # of an atom: family, mover, which of its atoms
    for number, atoms in enumerate(channels.movers.families):
        mover, column = np.indices(atoms.shape)
        place[atoms.ravel()] = np.stack(
            [np.full(atoms.size, number), mover.ravel(), column.ravel()], axis=1
        )
    places: dict[int, list[Lines]] = {}
    for number, weight in enumerate(weights.values()):
        for axes in channels.constants.get(weight.name, ()):
            for family, lines in _lines(axes, weight, number, place):
                places.setdefault(family, []).append(lines)
    of = [
        family
        for family in sorted(places)
        if any(_noticed(layers[lines.matrix], lines.side) for lines in places[family])
    ]
    families = tuple(Family(places=tuple(places[family])) for family in of)
    return Layout(weights=weights, layers=tuple(layers), families=families, of=tuple(of))


def _noticed(layer: TiledMatrix, side: Side) -> bool:
    """Say whether tiles lose another amount with the lines of a layer in another order."""
    axis = SIDES.index(side)
    return 1 < layer.steps[axis] < int(layer.values.shape[axis + 1])


def sides_of(axes: Axes, weight: WeightPlan) -> dict[Side, Array]:
    """Return the atoms of the rows, or of the columns, that some axes of a weight have.

    Channels that are groups have both, a single channel has neither.

    Returns:
        Atoms of the rows ``(G, n)``, of the columns ``(G, m)``.
    """
    view = weight.spec.matrix
    assert view is not None
    atoms = np.broadcast_to(axes.atoms, axes.view).reshape(view.split)
    found: dict[Side, Array] = {}
    for side, axis in zip(SIDES, (view.columns, view.rows), strict=True):
        first = atoms[tuple(slice(0, 1 if i in axis else None) for i in range(atoms.ndim))]
        order = (*view.groups, *view.rows, *view.columns)
        found[side] = first.transpose(order).reshape(view.shape[0], -1)
    along = {side: each for side, each in found.items() if (each != each[:, :1]).any()}
    return along if along or axes.atoms.size == 1 else found


def _lines(
    axes: Axes, weight: WeightPlan, number: int, place: Array
) -> Iterable[tuple[int, Lines]]:
    """Yield the lines along some axes of a weight that belong to movers, by family."""
    sides = sides_of(axes, weight)
    if len(sides) != 1:  # whole groups, which never share a tile
        return
    ((side, atoms),) = sides.items()
    flat, inside = atoms.ravel(), atoms.shape[1]
    family, mover, column = place[flat].T
    for each in np.unique(family[family >= 0]).tolist():
        own = np.flatnonzero(family == each)
        own = own[np.lexsort((own, column[own], mover[own]))]
        lines = own.reshape(int(mover[own].max()) + 1, -1)
        groups = lines // inside
        if (groups == groups[0]).all():
            yield each, Lines(matrix=number, side=side, lines=lines)


def independently(weights: Mapping[Key, WeightPlan], layers: Sequence[TiledMatrix]) -> Layout:
    """Return the layout in which rows and columns of each layer change places for themselves.

    All groups of a layer have their rows in the same order. Lines that no tile would notice stay.
    """
    families, of = [], []
    for number, layer in enumerate(layers):
        groups, rows, columns = layer.values.shape
        numbers = np.arange(groups * rows).reshape(groups, rows).T
        sides: list[tuple[Side, Array]] = [("rows", numbers)] if _noticed(layer, "rows") else []
        if _noticed(layer, "columns"):
            flat = np.arange(groups * columns).reshape(groups, columns, 1)
            sides += [("columns", each) for each in flat]
        for side, lines in sides:
            families.append(Family(places=(Lines(matrix=number, side=side, lines=lines),)))
            of.append(number)
    return Layout(weights=weights, layers=tuple(layers), families=tuple(families), of=tuple(of))


def with_orders(plan: Plan, layout: Layout, orders: Sequence[Array]) -> Plan:
    """Return the plan with the lines of layers stored in orders of their own.

    Args:
        plan: The plan.
        layout: Of `independently`.
        orders: One a family.
    """
    found: dict[Key, MatrixView] = {}
    keys = list(layout.weights)
    for number, key in enumerate(keys):
        view = layout.weights[key].spec.matrix
        assert view is not None
        groups, rows, columns = view.shape
        row, column = np.arange(rows), np.arange(groups * columns)
        for family, order, of in zip(layout.families, orders, layout.of, strict=True):
            (place,) = family.places
            if of == number and place.side == "rows":
                row = order
            elif of == number:
                column[place.lines[:, 0]] = place.lines[order, 0]
        found[key] = replace(view, row_order=tuple(row), column_order=tuple(column))
    nodes = {
        output: replace(
            node,
            weights=tuple(
                replace(each, spec=replace(each.spec, matrix=found[output, each.index]))
                if (output, each.index) in found
                else each
                for each in node.weights
            ),
        )
        for output, node in plan.nodes.items()
    }
    return replace(plan, nodes=nodes)


def row_power(
    model: Model, weights: Mapping[Key, WeightPlan], samples: Iterable[Batch], runtime: Runtime
) -> dict[Key, Array]:
    """Return the mean square of what each row of each matrix reads, ``(G, n)``, by weight.

    Args:
        model: The prepared model.
        weights: Those on tiles.
        samples: What to run it on.
        runtime: How.
    """
    nodes = {node.outputs[0].name: node for node in model.graph.nodes if node.outputs}
    read = {key: nodes[key[0]].inputs[1 - key[1]].name for key in weights}
    sums: dict[Key, list[Array]] = {key: [] for key in weights}
    feeds = (batch.inputs for batch in samples)
    for values in values_of(model, read.values(), feeds, runtime):
        for key in weights:
            sums[key].append(_squares(values[read[key]], nodes[key[0]], key[1]))
    return {
        key: _by_row(np.mean(found, axis=0), weights[key]) for key, found in sums.items() if found
    }


def _squares(values: Array, node: Node, index: int) -> Array:
    """Return the mean square of each channel a layer reads."""
    axis = -1 if index else -2
    if node.op in ("Conv", "ConvTranspose") or (node.op == "Gemm" and not node.attrs.get("transA")):
        axis = 1
    elif node.op == "Gemm":
        axis = 0
    axis %= values.ndim
    others = tuple(i for i in range(values.ndim) if i != axis)
    squares: Array = np.square(values, dtype=np.float64).mean(axis=others)
    return squares


def _by_row(squares: Array, weight: WeightPlan) -> Array:
    """Give the mean square of a channel to all its rows, as stored."""
    view = weight.spec.matrix
    assert view is not None
    shape = [1] * len(view.split)
    shape[view.names.index("input")] = view.split[view.names.index("input")]
    if "group" in view.names:
        shape[view.names.index("group")] = view.split[view.names.index("group")]
    return matrices(np.broadcast_to(squares.reshape(shape), view.split), view)[:, :, 0]
