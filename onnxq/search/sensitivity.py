"""Which layers make the error at the model's outputs, what they cost, and what keeping one buys.

The model is quantized by the recipe into a temporary file, and its layers ranked by what the error
each adds does to the outputs, alone (`onnxq.layers`). That is a prediction; for the first ones it
is put to the test: the model is quantized again with nothing but that layer kept float.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from onnxq import pipeline
from onnxq.drafting import draft
from onnxq.errors import CalibrationError, RecipeError
from onnxq.graph.session import Runtime, Session
from onnxq.layers import Layer
from onnxq.metrics.unlabelled import Cosine
from onnxq.plan import Plan
from onnxq.recipe import Recipe
from onnxq.search.costs import Cost, Costs, costs
from onnxq.search.emission import Emission
from onnxq.search.exam import examined
from onnxq.search.lifting import LiftProgress
from onnxq.search.samples import read
from onnxq.search.trials import Measured, Trial, Workshop, measured
from onnxq.sources import Source
from onnxq.table import CalibrationTable

log = logging.getLogger(__name__)

CONFIRMED = 5  # layers that are put to the test


@dataclass(frozen=True, kw_only=True)
class Alone:
    """The model with one layer kept float.

    Attributes:
        measured: How near it is.
        macs: Multiply-adds this took out of integers, those of neighbours that followed included.
    """

    measured: Measured
    macs: int


@dataclass(frozen=True, kw_only=True)
class Sensitive:
    """A quantized layer.

    Attributes:
        layer: What it does to the error.
        cost: What it costs to run.
        share: Its multiply-adds over all.
        alone: What keeping it float did; None where that was not tried, or left nothing to
            quantize.
    """

    layer: Layer
    cost: Cost
    share: float
    alone: Alone | None = None


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What `sensitivity` found.

    Attributes:
        layers: Every quantized layer, most effect first.
        plan: What became of every node.
        measured: The quantized model.
        macs: Multiply-adds for one sample, in integers and in all.
        samples: How many samples all this was measured on.
    """

    layers: tuple[Sensitive, ...]
    plan: Plan
    measured: Measured
    macs: tuple[int, int]
    samples: int


def sensitivity(  # noqa: PLR0913 - like quantize, and how many to confirm
    model: Path,
    table: CalibrationTable,
    recipe: Recipe,
    data: Source | None = None,
    *,
    confirm: int = CONFIRMED,
    runtime: Runtime | None = None,
    report: Callable[[LiftProgress], None] = lambda _: None,
) -> Sensitivity:
    """Rank the layers of the model a recipe gives, and put the first ones to the test.

    Args:
        model: The float model.
        table: Its calibration table.
        recipe: How to quantize it.
        data: What to measure on; None for the samples the table keeps.
        confirm: How many layers to keep float, one at a time.
        runtime: How to run models.
        report: Called before every model that is quantized for that.

    Raises:
        ModelError: The model cannot be loaded or run, or holds nothing to quantize.
        CalibrationError: Table or data do not fit, or there are no samples.
        RecipeError: The recipe means nothing here, or leaves no Q and DQ.
        UnsupportedError: The target cannot express the recipe.
    """
    runtime = runtime or Runtime()
    if recipe.qdq is False:
        raise RecipeError("--no-qdq leaves no layers to rank: use Q and DQ")
    reference = Session(model, runtime)
    batches = read(data, reference) if data is not None else []
    made = draft(model, table, recipe, runtime=runtime)
    if not (batches or made.samples):
        raise CalibrationError(
            "nothing to measure on: the calibration table keeps no samples; give --data"
        )
    exam = examined(reference, batches or made.samples, Cosine())
    shop = Workshop(model=model, table=table, recipe=recipe, exam=exam, made=made, runtime=runtime)
    counted = costs(made.prepared, made.plan, next(exam.batches[0].rows()), runtime)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "quantized.onnx"
        Emission.of(made, path)
        session = Session(path, runtime)
        found = measured(exam, session)
        session.close()
        ranked = pipeline.ranked(model, path, exam.batches, runtime)
    tested = _tested(shop, counted, ranked[:confirm], found.cosine, report)
    return Sensitivity(
        layers=tuple(_sensitive(layer, counted, tested) for layer in ranked),
        plan=made.plan,
        measured=found,
        macs=(counted.integer(made.plan), counted.macs),
        samples=exam.samples,
    )


def _tested(
    shop: Workshop,
    counted: Costs,
    layers: Sequence[Layer],
    cosine: float,
    report: Callable[[LiftProgress], None],
) -> dict[str, Alone]:
    """Quantize with each of some layers kept float."""
    found: dict[str, Alone] = {}
    for number, layer in enumerate(layers):
        report(LiftProgress(done=number, total=len(layers), name=layer.name, score=cosine))
        if (trial := _kept_float(shop, layer)) is not None:
            fewer = counted.integer(shop.made.plan) - counted.integer(trial.plan)
            cosine = trial.measured.cosine
            found[layer.name] = Alone(measured=trial.measured, macs=fewer)
    return found


def _kept_float(shop: Workshop, layer: Layer) -> Trial | None:
    """Quantize with one layer kept float; None if it adds nothing, or that is no model."""
    if layer.effect == 0:
        return None
    try:
        return shop.trial([(layer.name, layer.op)])
    except CalibrationError as error:
        log.warning("what keeping %s float buys is not known: %s", layer.name, error)
        return None


def _sensitive(layer: Layer, counted: Costs, tested: Mapping[str, Alone]) -> Sensitive:
    """Put together what is known of a layer."""
    cost = counted.of(layer.name)
    share = counted.share(cost.macs)
    return Sensitive(layer=layer, cost=cost, share=share, alone=tested.get(layer.name))
