"""A model ready to be written: prepared, planned, its parameters chosen, its biases corrected."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from onnxq import calibration, comparison
from onnxq.emit.biases import Weights
from onnxq.errors import ModelError
from onnxq.feeds import Batch
from onnxq.graph.io import Model
from onnxq.graph.session import Recorded, Runtime, Session
from onnxq.parameters import activation_params, weight_params
from onnxq.passes import PassReport
from onnxq.plan import Plan
from onnxq.planning import plan_model
from onnxq.readers import Feed
from onnxq.recipe import Recipe
from onnxq.reconstruction import Used
from onnxq.reordering import Reordering, is_reordered, reordered
from onnxq.repairs import Repaired, check_samples, repaired
from onnxq.table import CalibrationTable
from onnxq.types import QuantParams, TensorStats

SAME_FUNCTION = 60.0  # dB; what folding and a raised operator set may cost in float32


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What an emitter needs, and what a report tells.

    Attributes:
        prepared: The float model after its passes, biases corrected.
        plan: What becomes of it.
        seen: Statistics of every activation.
        repairs: Parameters of every activation and weight, and how they came about.
        passes: What the passes did.
        opset: Operator set of the file.
        samples: Kept samples for checking the result: none it was fitted on, if there are others.
        reference: The float model's answers to them.
        reordering: What became of the order of the channels; None where none was asked for.
    """

    prepared: Model
    plan: Plan
    seen: Mapping[str, TensorStats]
    repairs: Repaired
    passes: tuple[PassReport, ...]
    opset: int
    samples: list[Batch]
    reference: Session
    reordering: Reordering | None = None

    @property
    def activations(self) -> Mapping[str, QuantParams]:
        """Parameters of every activation."""
        return self.repairs.used.activations

    @property
    def weights(self) -> Weights:
        """Parameters of every weight, by first output of the node and input index."""
        return self.repairs.used.weights


def draft(
    model: Path,
    table: CalibrationTable,
    recipe: Recipe,
    *,
    max_opset: int | None = None,
    like: Draft | None = None,
    runtime: Runtime,
) -> Draft:
    """Do all that comes before emitting.

    Args:
        model: The float model.
        table: Its calibration table.
        recipe: What is asked.
        max_opset: Newest operator set the result may need; None for any.
        like: A draft of the same model and table by another recipe: the float model is not run
            on the kept samples again, nor what the passes did checked again.
        runtime: How to run models.

    Raises:
        ModelError: The model cannot be loaded, or holds nothing to quantize.
        CalibrationError: The table is of another model, or lacks a tensor or samples.
        RecipeError: The recipe means nothing here.
        UnsupportedError: The target cannot express the recipe.
    """
    if recipe.smooth is not None:
        check_samples("smooth", fit_samples(table))
    prepared, plan, passes, before = plan_model(model, recipe, table, max_opset, runtime)
    seen = calibration.statistics(table, prepared, plan)
    samples = kept_samples(table)
    reference = like.reference if like else _reference(model, prepared, samples, runtime)
    fit, moved = fit_samples(table), None
    if is_reordered(recipe):
        check_samples("reorder", fit)
        plan, moved = reordered(prepared, plan, fit, runtime)
    used = Used(activations=activation_params(plan, seen), weights=weight_params(plan, prepared))
    repairs = repaired(prepared, plan, used, fit, runtime)
    if moved or recipe.rescales or repairs.fitted:
        samples = _batches(table.kept.checks) or samples  # what was fitted is no check
    return Draft(
        prepared=prepared,
        plan=plan,
        seen=seen,
        repairs=repairs,
        passes=tuple(passes),
        opset=before,
        samples=samples,
        reference=reference,
        reordering=moved,
    )


def kept_samples(table: CalibrationTable) -> list[Batch]:
    """Return the samples a table keeps, as they were read."""
    return _batches(table.kept.feeds.values())


def fit_samples(table: CalibrationTable) -> list[Batch]:
    """Return those of the kept samples that orders, scales and biases are fitted on."""
    return _batches(table.kept.fit)


def _batches(feeds: Iterable[Feed]) -> list[Batch]:
    """Return feeds as batches of one sample."""
    return [Batch(inputs=feed, labels={}, samples=1, splittable=False) for feed in feeds]


def _reference(model: Path, prepared: Model, samples: list[Batch], runtime: Runtime) -> Session:
    """Run the float model on samples, and check that preparing did not change what it computes."""
    reference = Recorded(Session(model, runtime), [sample.inputs for sample in samples])
    _check_function(prepared, reference, samples, runtime)
    return reference


def _check_function(
    prepared: Model, reference: Session, samples: list[Batch], runtime: Runtime
) -> None:
    """Make sure that preparing did not change what the model computes."""
    if not samples:
        return
    session = Session(prepared, runtime)
    for output in comparison.compare(reference, session, samples).outputs:
        near = output.similarity
        if near.samples and (near.unequal or near.sqnr < SAME_FUNCTION):
            raise ModelError(
                f"{prepared.path}: folding, rescaling or raising the operator set changed output "
                f"{output.name!r} (SQNR {near.sqnr:.1f} dB): please report this model"
            )
