"""Which channels of the layers on tiles can change places, and why the others cannot."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxq.graph.coupling import Channels
from onnxq.plan import Plan, WeightPlan
from onnxq.tile_layout import Layout, Side, sides_of

ONE_TILE = "every tile or block would hold the same weights"
SINGLE = "there is only one"
UNKNOWN = "no operator says which they are"


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far the inputs, or the outputs, of a layer can move.

    Attributes:
        moves: How many are in each family of the layout, by its number.
        idle: How many could move, but no tile would notice.
        stays: How many stay, by reason.
    """

    moves: Mapping[int, int] = field(default_factory=dict)
    idle: int = 0
    stays: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LayerReach:
    """How far the channels of a layer on tiles can move.

    Attributes:
        label: The node.
        op: Its operator type.
        weight: The constant on tiles.
        outputs: What it writes.
        inputs: What it reads.
    """

    label: str
    op: str
    weight: str
    outputs: Reach
    inputs: Reach


@dataclass(frozen=True, kw_only=True)
class Movable:
    """What an order can change.

    Attributes:
        families: How many channels, or rows or columns, each family has.
        layers: What each layer can do, where the channels of the model move; else nothing.
        nothing: Why there are no families, or nothing if there are some.
    """

    families: tuple[int, ...]
    layers: tuple[LayerReach, ...] = ()
    nothing: str = ""


def movable(plan: Plan, layout: Layout, channels: Channels | None) -> Movable:
    """Say what an order can change.

    Args:
        plan: What becomes of the model.
        layout: Its tiles.
        channels: The channels of the model, if these change places.
    """
    sizes = tuple(family.channels for family in layout.families)
    if channels is None:
        return Movable(families=sizes, nothing="" if sizes else ONE_TILE)
    layers = tuple(_layers(plan, layout, channels))
    return Movable(families=sizes, layers=layers, nothing="" if sizes else _why(layers))


def _layers(plan: Plan, layout: Layout, channels: Channels) -> Iterator[LayerReach]:
    """Yield what each layer on tiles can do."""
    family = np.full(channels.count, -1)  # of an atom: 0 if no tile would notice
    for number, atoms in enumerate(channels.movers.families):
        family[atoms.ravel()] = layout.of.index(number) + 1 if number in layout.of else 0
    for (output, _), weight in layout.weights.items():
        node = plan.nodes[output]
        yield LayerReach(
            label=node.label,
            op=node.op,
            weight=weight.name,
            outputs=_reach(weight, "columns", channels, family.tolist()),
            inputs=_reach(weight, "rows", channels, family.tolist()),
        )


def _reach(weight: WeightPlan, side: Side, channels: Channels, family: Sequence[int]) -> Reach:
    """Return how far the lines of one side of a weight can move."""
    found = [sides_of(axes, weight) for axes in channels.constants.get(weight.name, ())]
    own = [sides for sides in found if list(sides) == [side]]
    own = own or [sides for sides in found if side in sides]  # channels that are groups
    stays: Counter[str] = Counter()
    moves: Counter[int] = Counter()
    for atom in {each for sides in own for each in sides[side].ravel().tolist()}:
        if family[atom] < 0:
            stays[channels.movers.stays[atom]] += 1
        else:
            moves[family[atom]] += 1
    if not own:
        stays[SINGLE if {} in found else UNKNOWN] = 1
    return Reach(moves={n: moves[n] for n in sorted(moves) if n}, idle=moves[0], stays=stays)


def _why(layers: Sequence[LayerReach]) -> str:
    """Return the most frequent reason why channels stay."""
    reaches = [reach for layer in layers for reach in (layer.outputs, layer.inputs)]
    if any(reach.idle for reach in reaches):
        return ONE_TILE
    reasons: Counter[str] = Counter()
    for reach in reaches:
        reasons.update(reach.stays)
    return reasons.most_common(1)[0][0]
