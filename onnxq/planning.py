"""Load, prepare and plan a model at the operator set its plan needs."""

import logging
from pathlib import Path

from onnxq import calibration
from onnxq.emit.qdq import required_opset
from onnxq.errors import RecipeError, UnsupportedError
from onnxq.graph import io
from onnxq.graph.io import Model
from onnxq.graph.opset import raise_opset
from onnxq.graph.session import Runtime
from onnxq.passes import PassReport
from onnxq.passes.prepare import prepare
from onnxq.plan import Plan, resolve
from onnxq.recipe import Recipe
from onnxq.rescaling import rescaled
from onnxq.table import CalibrationTable
from onnxq.targets import Target, target

log = logging.getLogger(__name__)

WITHOUT = {  # what needs a newer operator set, to the flag that does without
    "per-channel weights": "--per-tensor",
    "per-channel activations": "--activation-granularity tensor",
    "blocks of weights": "--per-channel",
}


def target_of(recipe: Recipe | None) -> Target:
    """Return the target of a recipe, cpu by default."""
    return target((recipe.target if recipe else None) or "cpu")


def check_size(recipe: Recipe) -> None:
    """Refuse crossbar arrays of no size; calibration alone does without.

    Raises:
        RecipeError: The target has arrays, and the recipe does not say how large they are.
    """
    hardware = target_of(recipe)
    if hardware.tiled and recipe.crossbar is None:
        raise RecipeError(
            f"target {hardware.name} needs the size of its arrays, e.g. --crossbar 128x128"
        )


def plan_model(
    model: Path,
    recipe: Recipe,
    table: CalibrationTable,
    max_opset: int | None,
    runtime: Runtime | None = None,
) -> tuple[Model, Plan, list[PassReport], int]:
    """Load, prepare and plan, at the operator set the plan needs; return that of the file too."""
    check_size(recipe)
    prepared = io.load(model)
    before = prepared.opset
    fixed = io.overridable(prepared)
    if fixed:
        log.warning(
            "weights that are inputs too: %r, %d in all: they are taken for constants, and can no "
            "longer be given at run time where they were quantized or folded",
            fixed[0],
            len(fixed),
        )
    passes = prepare(prepared)
    if recipe.rescales:
        passes += rescaled(prepared, recipe, table.kept.fit, runtime or Runtime())
    plan = resolve(prepared, target_of(recipe), recipe)
    needed, feature = required_opset(plan)
    if max_opset is not None and max(needed, before) > max_opset:
        what = f"{feature} need opset {needed}" if needed > before else f"the model is at {before}"
        raise UnsupportedError(f"{model}: {what}, above the {max_opset} allowed")
    unfit: dict[str, str] = {}
    if before < needed:
        known = set(prepared.graph.tensors())
        prepared = _raised(prepared, needed, feature)
        plan = resolve(prepared, target_of(recipe), recipe)
        unfit = {
            name: "was not there to be observed: raising the operator set made it"
            for name, activation in plan.activations.items()
            if not known & set(activation.sources)
        }
        if unfit:
            plan = resolve(prepared, target_of(recipe), recipe, unfit)
    return prepared, _fitting(prepared, plan, table, unfit), passes, before


def replanned(model: Model, recipe: Recipe, table: CalibrationTable) -> Plan:
    """Plan a model that is prepared already, by another recipe for the same operator set.

    Args:
        model: The model of `plan_model`.
        recipe: What is asked.
        table: Its calibration table.

    Raises:
        CalibrationError: The table lacks a tensor.
        RecipeError: The recipe means nothing here.
        UnsupportedError: The target cannot express the recipe.
        NothingToQuantizeError: Nothing can be quantized.
    """
    return _fitting(model, resolve(model, target_of(recipe), recipe), table, {})


def _fitting(model: Model, plan: Plan, table: CalibrationTable, unfit: dict[str, str]) -> Plan:
    """Plan again until all that was seen fits: tensors for integers, and channels for scales."""
    whole: dict[str, str] = {}
    while True:
        stats = calibration.statistics(table, model, plan)
        mixed = calibration.mixed(plan, stats)
        new = {} if mixed else calibration.unfit(stats)
        if not mixed and not new:
            return plan
        whole |= mixed
        unfit |= new
        plan = resolve(model, plan.target, plan.recipe, unfit, whole)


def _raised(model: Model, needed: int, feature: str) -> Model:
    """Raise the operator set; a failure names the flag that does without."""
    try:
        return raise_opset(model, needed)
    except UnsupportedError as error:
        if feature not in WITHOUT:
            raise
        raise UnsupportedError(f"{error}, or use {WITHOUT[feature]}") from error
