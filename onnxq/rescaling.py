"""Passes that rescale channels: how far they may go, as data says, and what they did."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxq.graph.io import Model
from onnxq.graph.session import Runtime, values_of
from onnxq.passes import PassReport
from onnxq.passes.equalize import equalize, seen_tensors
from onnxq.passes.smooth import products, smooth
from onnxq.readers import Feed
from onnxq.recipe import Recipe
from onnxq.types import Array


def rescaled(
    model: Model, recipe: Recipe, feeds: Sequence[Feed], runtime: Runtime
) -> list[PassReport]:
    """Apply the passes a recipe asks for, in place; equalization comes first.

    Args:
        model: The prepared model.
        recipe: What is asked.
        feeds: Samples that say how large channels get. Without any, equalization looks at weights
            alone and nothing is smoothed.
        runtime: How to run the model.
    """
    reports = []
    if recipe.equalize:
        seen = maxima(model, seen_tensors(model), feeds, runtime) if feeds else None
        report = equalize(model, seen, cut=bool(recipe.equalize_clips))
        reports.append(replace(report, note=_note(feeds)))
    if recipe.smooth is not None and feeds:
        axes = {tensor.name: -1 for tensor, _ in products(model)}
        seen = maxima(model, axes, feeds, runtime)
        report = smooth(model, seen, recipe.smooth, insert=bool(recipe.smooth_insert))
        reports.append(replace(report, note=_note(feeds)))
    return reports


def _note(feeds: Sequence[Feed]) -> str:
    """Say what was looked at."""
    return f"by the largest values of {len(feeds)} samples" if feeds else "by the weights alone"


def maxima(
    model: Model, axes: Mapping[str, int], feeds: Iterable[Feed], runtime: Runtime
) -> dict[str, Array]:
    """Return the largest magnitude of each channel, by tensor.

    Args:
        model: The model.
        axes: Tensor name to the axis of its channels.
        feeds: What to run it on.
        runtime: How.

    Returns:
        Arrays (channels,); none for tensors whose number of channels changes between samples, or
        that hold infinite values or NaN.
    """
    if not axes:
        return {}
    found: dict[str, list[Array]] = {name: [] for name in axes}
    for values in values_of(model, axes, feeds, runtime):
        for name, axis in axes.items():
            array = np.abs(values[name])
            others = tuple(i for i in range(array.ndim) if i != axis % array.ndim)
            found[name].append(array.max(axis=others, initial=0))
    alike = {n: np.max(e, axis=0) for n, e in found.items() if len({one.shape for one in e}) == 1}
    return {name: largest for name, largest in alike.items() if np.isfinite(largest).all()}
