"""The samples of a search, and what tells one search from another."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from onnxq.errors import CalibrationError
from onnxq.feeds import HELD_OUT, Batch
from onnxq.graph.session import Session
from onnxq.metrics.answers import Metric
from onnxq.recipe import Recipe, dumps
from onnxq.sources import Source, batches_of, fingerprint
from onnxq.table import CalibrationTable


def parts(source: Source, evaluation: Source | None) -> tuple[Source, Source]:
    """Return the samples to search on, and those to measure on: by default every fifth."""
    if evaluation is not None:
        return source, evaluation
    return tuple(replace(source, cut=replace(source.cut, part=p)) for p in ("kept", "held"))  # type: ignore[return-value]


def read(source: Source, reference: Session) -> list[Batch]:
    """Read samples into memory."""
    try:
        return list(batches_of(source, reference))
    except CalibrationError as error:
        if source.cut.part == "all":
            raise
        hint = f"every {HELD_OUT}th sample is held out to measure on; give others by --eval-data"
        raise CalibrationError(f"{error} ({hint})") from error


def identity(
    table: CalibrationTable,
    recipe: Recipe,
    data: tuple[Source, Source],
    metric: Metric,
    ways: Sequence[object],
) -> str:
    """Return what a checkpoint must agree on with a run."""
    seen = {name: (s.lo.tolist(), s.hi.tolist()) for name, s in table.tensors.items()}
    what = [
        *(table.model_sha256, table.samples, seen, dict(table.versions), dumps(recipe)),
        *(_described(metric), ways, [fingerprint(source) for source in data]),
    ]
    return hashlib.sha256(json.dumps(what, default=str, sort_keys=True).encode()).hexdigest()


def _described(metric: Metric) -> list[object]:
    """Return name and options of a metric; a function is known by its name alone."""
    options = vars(metric).items()
    return [metric.name, sorted((key, str(each)) for key, each in options if not callable(each))]
