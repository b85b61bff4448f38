"""Repairs that are fitted on samples, each building on those before it.

Scales of tiles and ranges of activations first, then the codes of weights, which need both; biases
last, since they take up what is left of the error on average.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from onnxq.correction import correct_biases
from onnxq.empirical import correct_empirically
from onnxq.errors import CalibrationError
from onnxq.feeds import Batch
from onnxq.graph.io import Model
from onnxq.graph.session import Runtime
from onnxq.numerics.range_fit import Fit
from onnxq.plan import Plan
from onnxq.range_fit import fitted_ranges, with_fits
from onnxq.reconstruction import Used, rounded_weights, with_rounded
from onnxq.tile_scales import searched


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """What repairs leave, and what they did.

    Attributes:
        used: What the model computes with.
        fits: What was found for each range that was fitted; None where that was not asked for.
        corrected: How many biases take up the mean error of their layer.
        fitted: Whether anything was fitted on the samples.
    """

    used: Used
    fits: Mapping[str, Fit] | None = None
    corrected: int = 0
    fitted: bool = False


def repaired(
    model: Model, plan: Plan, used: Used, samples: list[Batch], runtime: Runtime
) -> Repaired:
    """Make the repairs that are asked for; weights and biases of the model change in place.

    Args:
        model: The prepared model the plan was made for.
        plan: What becomes of every node and tensor.
        used: Parameters of activations and weights, as range algorithms choose them.
        samples: Inputs to fit on.
        runtime: How to run the model.

    Raises:
        CalibrationError: There are no samples, and what is asked for needs some.
        ModelError: A piece of the model cannot run.
    """
    recipe, fits = plan.recipe, None
    if recipe.tile_scales == "cosine":
        check_samples("tile_scales cosine", samples)
        used = replace(used, weights=searched(model, plan, used.weights, samples, runtime))
    if recipe.fit_ranges:
        check_samples("fit_ranges", samples)
        fits = fitted_ranges(model, plan, used.activations, samples, runtime)
        used = replace(used, activations=with_fits(plan, used.activations, fits))
    if recipe.reconstruct:
        check_samples("reconstruct", samples)
        used = replace(used, rounded=rounded_weights(model, plan, used, samples, runtime))
    count = _correct(model, plan, used, samples, runtime)
    with_rounded(model, used.rounded)
    return Repaired(
        used=used,
        fits=fits,
        corrected=count,
        fitted=recipe.tile_scales == "cosine" or bool(fits or used.rounded or count),
    )


def corrects(plan: Plan) -> bool:
    """Say whether biases shall take up the mean error of their layer."""
    asked = plan.recipe.correct_bias
    if asked is None and plan.recipe.bias_correction is not None:
        return True
    return plan.target.correct_bias if asked is None else asked


def check_samples(what: str, samples: list[Batch]) -> None:
    """Refuse to choose on nothing.

    Raises:
        CalibrationError: There are no samples.
    """
    if not samples:
        raise CalibrationError(
            f"{what} needs samples, and the calibration table keeps none: calibrate "
            "with --keep-samples"
        )


def _correct(model: Model, plan: Plan, used: Used, samples: list[Batch], runtime: Runtime) -> int:
    """Correct biases in the way that is asked for, and return how many."""
    empirical = plan.recipe.bias_correction == "empirical"
    if corrects(plan) and empirical:
        check_samples("bias_correction empirical", samples)
    if not corrects(plan) or not samples:
        return 0
    correct = correct_empirically if empirical else correct_biases
    return correct(model, plan, used, samples, runtime)
