"""One row of the table: a model quantized by a tool, run, scored and timed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.metrics import Change
from benchmarks.tasks import Task, task_of
from benchmarks.tools import Outcome
from onnxq.comparison import latency
from onnxq.errors import ModelError
from onnxq.graph.io import size_of
from onnxq.graph.session import Runtime, Session
from onnxq.metrics.similarity import Similarity, similarity
from onnxq.types import Array

BATCHES = (1, 8)  # sizes timed


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to measure.

    Attributes:
        eval_limit: Evaluate on the first so many samples; None for all.
        seconds: How long to time each pair of models, for each batch size.
        batch: Samples a run, where the model leaves that open.
        threads: Of onnxruntime; 0 for one a core.
    """

    eval_limit: int | None = None
    seconds: float = 2.0
    batch: int = 1
    threads: int = 0


@dataclass(frozen=True, kw_only=True)
class Row:
    """A model and a tool.

    Attributes:
        model: The model's folder.
        tool: The tool.
        outcome: What quantizing took; None if the tool was not run.
        error: Why there is nothing to show, or None.
        changes: Task metrics of the float and the quantized model, the foremost first.
        agreement: Share of answers that stayed the same.
        sqnr: Of the output where it is least, dB.
        cosine: Mean over the samples, of the output where it is least.
        size: Quantized ÷ float, bytes.
        latency: Quantized ÷ float by batch size, median times of one thread.
    """

    model: str
    tool: str
    outcome: Outcome | None = None
    error: str | None = None
    changes: tuple[Change, ...] = ()
    agreement: float | None = None
    sqnr: float | None = None
    cosine: float | None = None
    size: float | None = None
    latency: Mapping[int, float] | None = None


class Reference:
    """A float model with its evaluation data, run once for all tools.

    Attributes:
        name: The model's folder.
        model: Its file.
        labels: Labels of the samples.
        samples: How many samples.
    """

    def __init__(self, name: str, folder: Path, settings: Settings) -> None:
        """Load and run a model.

        Args:
            name: The model's name.
            folder: Where ``model.onnx`` and ``eval.npz`` are.
            settings: How to measure.
        """
        self.name, self.model = name, folder / "model.onnx"
        self._settings = settings
        self._runtime = Runtime(threads=settings.threads)
        session = Session(self.model, self._runtime)
        with np.load(folder / "eval.npz") as file:
            arrays = {key: file[key][: settings.eval_limit] for key in file.files}
        self._inputs = {info.name: arrays[info.name] for info in session.inputs}
        free = all(info.shape and info.shape[0] is None for info in session.inputs)
        self._batch = settings.batch if free else 1
        self.labels = {key: arrays[key] for key in arrays.keys() - self._inputs.keys()}
        self.samples = len(next(iter(self._inputs.values())))
        self._outputs = self._run(session)
        self._task: Task = task_of(name, self.model)
        self._answers = self.answers(self._outputs)

    def _feed(self, start: int, count: int) -> dict[str, Array]:
        """Return a batch."""
        return {key: array[start : start + count] for key, array in self._inputs.items()}

    def _run(self, session: Session) -> list[list[Any]]:
        """Run all samples; one entry a sample, with its outputs."""
        found: list[list[Any]] = []
        for start in range(0, self.samples, self._batch):
            count = min(self._batch, self.samples - start)
            outputs = session.run(self._feed(start, count))
            if count == 1:
                found.append(outputs)
            else:
                found += [[output[i : i + 1] for output in outputs] for i in range(count)]
        return found

    def run(self, model: Path) -> list[list[Any]]:
        """Run a model on all samples; one entry a sample, with its outputs.

        Raises:
            ModelError: The model cannot be loaded or run.
        """
        return self._run(Session(model, self._runtime))

    def answers(self, outputs: list[list[Any]]) -> Any:
        """Return what the task keeps of outputs."""
        return self._task.answers(outputs)

    def changes(self, before: Any, after: Any) -> tuple[Change, ...]:
        """Compare the answers of two models by the task's metrics."""
        return self._task.changes(before, after, self.labels)

    def row(self, tool: str, quantized: Path, outcome: Outcome) -> Row:
        """Measure a quantized model.

        Args:
            tool: What made it.
            quantized: The file.
            outcome: What making it took.

        Returns:
            The row; with an error if the model cannot be loaded or run.
        """
        try:
            scored = self.scored(quantized)
        except (ModelError, ValueError) as error:
            return Row(model=self.name, tool=tool, outcome=outcome, error=str(error))
        return Row(
            model=self.name,
            tool=tool,
            outcome=outcome,
            size=size_of(quantized) / size_of(self.model),
            latency=self._latency(quantized),
            **scored,
        )

    def scored(self, quantized: Path) -> dict[str, Any]:
        """Run a quantized model and compare its answers.

        Args:
            quantized: The file.

        Returns:
            ``changes``, ``agreement``, ``sqnr`` and ``cosine`` of a `Row`.

        Raises:
            ModelError: The model cannot be loaded or run.
            ValueError: Its outputs have other shapes.
        """
        return self.score(self.run(quantized))

    def score(self, outputs: list[list[Any]]) -> dict[str, Any]:
        """Compare outputs with the float model's.

        Args:
            outputs: What `run` returned.

        Returns:
            ``changes``, ``agreement``, ``sqnr`` and ``cosine`` of a `Row`.

        Raises:
            ValueError: They have other shapes.
        """
        near = self._near(outputs)
        answers = self.answers(outputs)
        return {
            "changes": self.changes(self._answers, answers),
            "agreement": self._task.agreement(self._answers, answers),
            "sqnr": min(similar.sqnr for similar in near),
            "cosine": min(similar.cosine for similar in near),
        }

    def _near(self, outputs: list[list[Any]]) -> list[Similarity]:
        """Compare each output with the float model's."""
        near = [Similarity()] * len(outputs[0])
        for reference, got in zip(self._outputs, outputs, strict=True):
            for place, (a, b) in enumerate(zip(reference, got, strict=True)):
                near[place] += similarity(a, b)
        return near

    def _latency(self, quantized: Path) -> dict[int, float]:
        """Time both models in turns, one thread, for each batch size both take."""
        ratios = {}
        one = Runtime(threads=1)
        before, after = (Session(path, one) for path in (self.model, quantized))
        for size in BATCHES:
            if size > self.samples:
                continue
            feed = self._feed(0, size)
            try:
                timed = latency(before, after, feed, one.threads, self._settings.seconds)
            except ModelError:
                continue  # the batch size is fixed
            ratios[size] = timed.ratio
        return ratios
