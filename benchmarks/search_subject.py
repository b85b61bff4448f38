"""A model to search on, and how what a search writes is measured: files, on held-out samples."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import HERE
from benchmarks.measure import Reference, Settings
from benchmarks.metrics import Change
from onnxq import (
    Collection,
    Cut,
    Recipe,
    Runtime,
    Searching,
    Source,
    TensorRule,
    calibrate,
    evolve,
    quantize,
)
from onnxq.graph.io import size_of
from onnxq.graph.session import Session
from onnxq.metrics import metric
from onnxq.metrics.answers import Answers
from onnxq.metrics.judge import tensors
from onnxq.metrics.unlabelled import Noise, RelativeEntropy
from onnxq.observing import completed
from onnxq.search.evolve import opened, strategy_of
from onnxq.search.exam import Exam, examined, shuffled
from onnxq.search.laboratory import Laboratory
from onnxq.search.searching import Searched
from onnxq.sources import batches_of
from onnxq.table import CalibrationTable
from onnxq.types import Array

SAMPLE_MODELS = HERE.parent / "sample_models"
BATCH = 32  # samples a run, at most
GROUPS = 4  # of samples, whose statistics are kept apart
ONE = Runtime(threads=1)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a file does on held-out samples.

    Attributes:
        plain: SQNR in dB and cosine of the worst output, mean relative entropy in nats, the task's
            foremost metric, and bytes of the file.
        task: That metric, float and quantized.
        losses: By name, of each sample, ``(N,)``: relative entropy to the float model in nats, and
            noise over the mean signal.
        answers: What the task keeps of the outputs.
    """

    plain: dict[str, float]
    task: Change
    losses: dict[str, Array]
    answers: Any


class Held(Reference):
    """A float model with held-out samples; what is compared with it, also by sample."""

    def measured(self, file: Path) -> Measured:
        """Run a file on all samples and compare its answers."""
        outputs = self.run(file)
        found = self.score(outputs)
        entropy, noise = RelativeEntropy(), Noise()
        divergences: list[float] = []
        powers: list[Any] = []
        for pair in zip(self._outputs, outputs, strict=True):
            reference, got = (
                tensors({str(place): array for place, array in enumerate(each)}) for each in pair
            )
            both = Answers(outputs=got, reference=reference, labels={}, samples=1, metadata={})
            divergences += entropy.evidence(both)
            powers += noise.evidence(both)
        plain = {
            "sqnr": found["sqnr"],
            "cosine": found["cosine"],
            "entropy": -entropy.score(divergences),
            "task": found["changes"][0].after,
            "bytes": size_of(file),
        }
        return Measured(
            plain=plain,
            task=found["changes"][0],
            losses={
                "relative entropy": -np.array(divergences),
                "noise": -np.array(noise.units(powers)),
            },
            answers=self.answers(outputs),
        )


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A calibrated model.

    Attributes:
        name: Its folder, and the width of weights if one was asked for.
        path: Its file.
        recipe: What is not searched.
        table: Of the samples searched on.
        data: The samples searched on, and those held out.
        held: The float model on those.
    """

    name: str
    path: Path
    recipe: Recipe
    table: CalibrationTable
    data: tuple[Source, Source]
    held: Held

    def search(self, output: Path, searching: Searching) -> Searched:
        """Search, and write the chosen model."""
        return evolve(
            *(self.path, self.table, self.recipe, self.data, output),
            searching=searching,
            runtime=ONE,
        )

    def laboratory(self, searching: Searching) -> tuple[Laboratory, Exam]:
        """Return what a search tries strategies with, and the samples as it has them."""
        reference = Session(self.path, ONE)
        kept = shuffled(list(batches_of(self.data[0], reference)), searching.seed)
        exam = examined(reference, kept, searching.metric)
        given = self.path, self.table, self.recipe, searching, self.data[0]
        return opened(*given, runtime=ONE), exam

    def table_of(self, recipe: Recipe, groups: tuple[int, ...] | None) -> CalibrationTable:
        """Return the table for some groups of samples, with what a recipe rescales."""
        table = completed(self.path, self.table, recipe, self.data[0], ONE)
        return table if groups is None else table.only(groups)

    def measured(self, code: str, folder: Path) -> Measured:
        """Quantize by a strategy as ``onnxq quantize`` does, and measure the file."""
        given = self.path, self.table, self.recipe, self.data[0]
        recipe, groups = strategy_of(code, *given, runtime=ONE)
        output = folder / "strategy.onnx"
        table = self.table_of(recipe, groups)
        quantize(self.path, table, recipe, output, explain=False, runtime=ONE)
        return self.held.measured(output)


def folder_of(name: str, cache: Path) -> Path:
    """Return where a model is: in the cache, or among the sample models."""
    sample = SAMPLE_MODELS / name
    return sample if (sample / "model.onnx").exists() else cache / name


def load(name: str, asked: argparse.Namespace) -> Subject:
    """Calibrate a model on the samples that are searched on, and run it on those held out.

    Args:
        name: ``MODEL`` or ``MODEL:WIDTH``.
        asked: The command line.
    """
    model, _, width = name.partition(":")
    folder = folder_of(model, asked.cache)
    batch = max(min(BATCH, asked.samples // GROUPS), 1)  # a group has batches of its own
    kept = Source(data=str(folder / "calib.npz"), cut=Cut(batch_size=batch, samples=asked.samples))
    held = Source(
        data=str(folder / "eval.npz"), cut=Cut(batch_size=BATCH, samples=asked.eval_limit)
    )
    collection = Collection(groups=GROUPS, keep_samples=32)
    settings = Settings(eval_limit=asked.eval_limit, batch=BATCH, threads=ONE.threads)
    return Subject(
        name=name,
        path=folder / "model.onnx",
        recipe=Recipe(weights=TensorRule(dtype=width)) if width else Recipe(),
        table=calibrate(folder / "model.onnx", kept, collection=collection, runtime=ONE),
        data=(kept, held),
        held=Held(model, folder, settings),
    )


def searching_of(asked: argparse.Namespace, seed: int, **more: Any) -> Searching:
    """Return how to search: as the command line says, and what else a table wants."""
    usual: dict[str, Any] = {"evaluations": asked.evaluations, "workers": asked.workers}
    return Searching(**{**usual, "metric": metric(asked.metric), "seed": seed, **more})
