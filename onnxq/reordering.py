"""Put channels that suit each other onto the same tiles, before the weights are quantized.

Layout ─┬─ an order by name, or from a file ─┬─ jointly: other constants in the model, checked
        └─ what tiles will lose, predicted   └─ independently: other views of the weights
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxq import comparison
from onnxq.errors import ModelError, RecipeError
from onnxq.feeds import Batch
from onnxq.graph.coupling import Channels, channels_of
from onnxq.graph.io import Model
from onnxq.graph.session import Recorded, Runtime, Session
from onnxq.movable import Movable, movable
from onnxq.numerics.tile_order import (
    Orders,
    permuted,
    random_order,
    sort_order,
    starting_orders,
    total,
)
from onnxq.passes.reorder_channels import reorder_channels
from onnxq.plan import Key, Plan, WeightPlan
from onnxq.recipe import Recipe
from onnxq.tile_layout import (
    Layout,
    independently,
    jointly,
    layers_of,
    row_power,
    tiled,
    with_orders,
)
from onnxq.types import Array

log = logging.getLogger(__name__)

FORMAT = "onnxq order 1"
SAME = 80.0  # dB between the models before and after; sums in another order cost less
JOINT = "joint"


@dataclass(frozen=True, kw_only=True)
class Reordering:
    """What became of a reordering.

    Attributes:
        how: As it was asked for.
        mode: ``joint`` or ``independent``.
        orders: One a family of the layout.
        families: How many families of channels, or of lines, there are.
        channels: How many channels, or lines, are in them.
        before: What tiles would lose in the natural order: noise ÷ signal of the layers'
            outputs, predicted from weights and inputs, summed over the layers.
        after: The same in the order that was chosen.
        moved: The order of every family of channels of the model, as
            `onnxq.passes.reorder_channels` takes them; nothing if it keeps its own.
        refused: Why the model kept its order although channels could move, or nothing.
        nothing: Why nothing can change places, or nothing.
    """

    how: str
    mode: str
    orders: tuple[Array, ...]
    families: int
    channels: int
    before: float
    after: float
    moved: tuple[Array, ...] = ()
    refused: str = ""
    nothing: str = ""


def is_reordered(recipe: Recipe) -> bool:
    """Say whether a recipe asks for another order than the model's own."""
    return recipe.reorder not in (None, "none")


def mode_of(plan: Plan) -> str:
    """Return what changes places: channels of the model, or rows and columns of each layer."""
    return plan.recipe.reorder_mode or JOINT


def layout_of(
    model: Model, plan: Plan, samples: Sequence[Batch], runtime: Runtime
) -> tuple[Layout, Channels | None]:
    """Return the tiles of a plan, and the channels of the model if these change places.

    Raises:
        RecipeError: The plan has no tiles, or scales for channels that would move.
    """
    weights = _on_tiles(plan)
    return _laid_out(model, plan, weights, row_power(model, weights, samples, runtime))


def reach_of(model: Model, plan: Plan) -> Movable:
    """Say what can change places, without data.

    Raises:
        RecipeError: The plan has no tiles, or scales for channels that would move.
    """
    layout, channels = _laid_out(model, plan, _on_tiles(plan), {})
    return movable(plan, layout, channels)


def _on_tiles(plan: Plan) -> dict[Key, WeightPlan]:
    """Return the weights on tiles; refuse a plan without any, or whose scales are of channels."""
    weights, what = tiled(plan), plan.recipe.reorder or "the order of channels"
    if not weights:
        raise RecipeError(
            f"reorder {what}: target {plan.target.name} has no weights on tiles or in blocks here: "
            "use --target crossbar, or --weight-granularity block:N"
        )
    if mode_of(plan) == JOINT and plan.channels:
        raise RecipeError(
            f"reorder {what}: {next(iter(plan.channels))!r} has one scale a channel, calibrated in "
            "the order of the model: use --reorder-mode independent, or one scale a tensor"
        )
    return weights


def _laid_out(
    model: Model, plan: Plan, weights: Mapping[Key, WeightPlan], power: Mapping[Key, Array]
) -> tuple[Layout, Channels | None]:
    """Return the tiles, and the channels of the model if these change places."""
    layers = layers_of(model, weights, power)
    if mode_of(plan) != JOINT:
        return independently(weights, layers), None
    channels = channels_of(model)
    return jointly(channels, weights, layers), channels


def reordered(
    model: Model, plan: Plan, samples: Sequence[Batch], runtime: Runtime
) -> tuple[Plan, Reordering]:
    """Choose an order as the recipe says and apply it; the model is changed in place.

    Args:
        model: The prepared model.
        plan: What becomes of it.
        samples: What to choose and check on.
        runtime: How to run models.

    Returns:
        The plan, with views of the weights in orders of their own where they have them.

    Raises:
        RecipeError: The plan has no tiles, or the order read from a file is not for them.
    """
    how = plan.recipe.reorder or "none"
    layout, channels = layout_of(model, plan, samples, runtime)
    orders = tuple(chosen(how, layout, model.sha256, mode_of(plan)))
    found = Reordering(
        how=how,
        mode=mode_of(plan),
        orders=orders,
        families=len(layout.families),
        channels=sum(family.channels for family in layout.families),
        before=total(layout.layers),
        after=total(permuted(layout.layers, layout.families, orders)),
        nothing="" if layout.families else movable(plan, layout, channels).nothing,
    )
    if channels is None:
        return with_orders(plan, layout, orders), found
    return plan, _applied(model, channels, layout, found, samples, runtime)


def _applied(
    model: Model,
    channels: Channels,
    layout: Layout,
    found: Reordering,
    samples: Sequence[Batch],
    runtime: Runtime,
) -> Reordering:
    """Reorder the channels of a model, and put them back if it does not compute the same then."""
    orders = [np.arange(len(family)) for family in channels.movers.families]
    natural = list(orders)
    for number, order in zip(layout.of, found.orders, strict=True):
        orders[number] = order
    if all(map(np.array_equal, orders, natural)):
        return found
    before = Recorded(Session(model, runtime), [sample.inputs for sample in samples])
    reorder_channels(model, channels, orders)
    after = Session(model, runtime)
    for output in comparison.compare(before, after, samples).outputs:
        near = output.similarity
        if near.samples and (near.unequal or near.sqnr < SAME):
            reorder_channels(model, channels, [np.argsort(order) for order in orders])
            refused = f"output {output.name!r} changed (SQNR {near.sqnr:.1f} dB)"
            log.warning("the channels keep their order: %s: please report this model", refused)
            kept = tuple(np.arange(len(order)) for order in found.orders)
            return replace(found, orders=kept, after=found.before, refused=refused)
    return replace(found, moved=tuple(orders))


def recorded(found: Reordering) -> str:
    """Return the order of the channels of a model as one line of JSON, for its metadata."""
    return json.dumps([order.tolist() for order in found.moved])


def follow(model: Model, order: str) -> None:
    """Bring a prepared float model into the order that a quantized one recorded.

    Args:
        model: The float model, prepared; changed in place.
        order: What `recorded` returned.

    Raises:
        ModelError: It is not the model that was quantized.
    """
    try:
        orders = [np.array(order, np.int64) for order in json.loads(order)]
        reorder_channels(model, channels_of(model), orders)
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelError(
            f"{model.path}: the quantized model records an order of other channels: {error}"
        ) from error


def chosen(how: str, layout: Layout, sha256: str, mode: str) -> Orders:
    """Return one order a family.

    Args:
        how: ``none``, ``sort``, ``cluster``, ``random``, ``random:SEED`` or a file.
        layout: What may change places.
        sha256: Digest of the float model, which the file must be for.
        mode: What changes places, which the file must agree with.

    Raises:
        RecipeError: The file cannot be read, or is for another model, mode or plan.
    """
    word, _, seed = how.partition(":")
    if word == "none":
        return [np.arange(family.channels) for family in layout.families]
    if word == "random":
        return random_order(layout.families, int(seed or 0))
    if word == "sort":
        return sort_order(layout.layers, layout.families)
    if word == "cluster":
        from onnxq.numerics.tile_search import (  # noqa: PLC0415  the compiler is slow to load
            cluster_order,
        )

        starts = starting_orders(layout.layers, layout.families)
        return cluster_order(layout.layers, layout.families, starts)
    orders = _read(Path(how), sha256, mode)
    sizes = [family.channels for family in layout.families]
    if [len(order) for order in orders] != sizes:
        raise RecipeError(f"{how}: the order is for another plan: other layers, arrays or blocks")
    return orders


def order_dict(mode: str, orders: Sequence[Array], sha256: str) -> dict[str, Any]:
    """Return an order as plain values, as `chosen` reads it from a file."""
    return {
        "format": FORMAT,
        "float_model_sha256": sha256,
        "mode": mode,
        "orders": [order.tolist() for order in orders],
    }


def _read(path: Path, sha256: str, mode: str) -> Orders:
    """Read orders from a file and check that they are for this model."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        orders = [np.array(order) for order in content["orders"]]
        known = all(np.array_equal(np.sort(each), np.arange(each.size)) for each in orders)
        about = [content[key] for key in ("format", "float_model_sha256", "mode")]
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{path}: not an order of onnxq: {error}") from error
    if about[0] != FORMAT or not known:
        raise RecipeError(f"{path}: not an order of onnxq, or of another version")
    if about[1] != sha256:
        raise RecipeError(f"{path}: the order is for another model")
    if about[2] != mode:
        raise RecipeError(f"{path}: the order needs --reorder-mode {about[2]}")
    return [order.astype(np.int64) for order in orders]
