"""Look up in a calibration table what a plan needs."""

from collections.abc import Mapping
from functools import reduce

from onnxq.errors import CalibrationError
from onnxq.graph.io import Model
from onnxq.numerics.histogram import merge
from onnxq.plan import Plan
from onnxq.table import CalibrationTable
from onnxq.types import TensorStats, Tile


def statistics(table: CalibrationTable, model: Model, plan: Plan) -> dict[str, TensorStats]:
    """Look up what the table saw of every activation of a plan.

    Returns:
        Activation name to the statistics of the first of its sources that the table has, merged
        with those of its group.

    Raises:
        CalibrationError: The table is not of this model, or lacks a tensor.
    """
    if table.model_sha256 != model.sha256:
        raise CalibrationError(
            f"the calibration table belongs to another model than {model.path}: calibrate this one"
        )
    found: dict[str, TensorStats] = {}
    missing = []
    for name, activation in plan.activations.items():
        held = table.channels if activation.spec.tile else table.tensors
        there = [source for source in activation.sources if source in held]
        if there:
            found[name] = held[there[0]]
            _check_axis(name, activation.spec.tile, found[name])
        elif activation.spec.tile:
            raise CalibrationError(
                f"the calibration table lacks the channels of {name!r}: calibrate with "
                "--activation-granularity channel"
            )
        else:
            missing.append(name)
    if missing:
        cure = "calibrate again with this recipe"
        if plan.recipe.rescales:
            cure = "what was rescaled is observed again if you give the calibration data, --data"
        raise CalibrationError(
            f"the calibration table lacks tensor {missing[0]!r} ({len(missing)} in all): {cure}"
        )
    groups = {name: [name, *plan.activations[name].group] for name in found}
    return {name: reduce(merge, (found[each] for each in group)) for name, group in groups.items()}


def _check_axis(name: str, tile: Tile, stats: TensorStats) -> None:
    """Refuse statistics of the channels of another axis than a plan asks for.

    Raises:
        CalibrationError: They are.
    """
    if not tile or not stats.lo.size:
        return
    others = [size for size, step in zip(stats.lo.shape, tile, strict=False) if not step]
    if stats.lo.ndim != len(tile) or any(size > 1 for size in others):
        raise CalibrationError(
            f"the calibration table holds channels of {name!r} along another axis than "
            f"{tile.index(1)}: calibrate with --activation-granularity channel:{tile.index(1)}"
        )


def mixed(plan: Plan, stats: Mapping[str, TensorStats]) -> dict[str, str]:
    """Return the activations that shall have channels and had no fixed ones, with the reason.

    Args:
        plan: What becomes of the activations.
        stats: What was seen of them.
    """
    return {
        activation.shares: "it has no fixed number of channels on the calibration data"
        for name, activation in plan.activations.items()
        if activation.spec.tile and not stats[name].lo.size
    }


def unfit(stats: Mapping[str, TensorStats]) -> dict[str, str]:
    """Return the activations that integers cannot hold, each with the reason.

    An infinite or huge value says "never" or "no limit" to what reads it; the nearest code of a
    range would say something else.

    Args:
        stats: What was seen of every activation of a plan.
    """
    reasons = {}
    for name, seen in stats.items():
        if seen.infinite:
            reasons[name] = "holds infinite or huge values, which integers would cut off"
        elif seen.nan:
            reasons[name] = "holds NaN on the calibration data"
        elif not seen.count.any():
            reasons[name] = "was empty in all calibration data"
    return reasons
