"""From flags to the values the library takes."""

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from onnxq.calibrating import Collection, collection_for
from onnxq.cli.console import Screen
from onnxq.cli.options import key_values
from onnxq.cli.recipe_flags import RecipeFlags
from onnxq.errors import UsageError
from onnxq.feeds import Cut
from onnxq.graph.session import Runtime
from onnxq.metrics import custom
from onnxq.metrics import metric as registered
from onnxq.metrics.answers import Metric
from onnxq.pipeline import Source
from onnxq.ranges.outlier_var import OutlierVar
from onnxq.recipe import NodeRule, Recipe, TensorRule, block, channels, crossbar_size, load
from onnxq.registry import parsed
from onnxq.table import CalibrationTable
from onnxq.targets import names

OUTLIER_VAR = OutlierVar.name


def source_of(
    data: str,
    reader: str | None,
    data_options: list[str] | None,
    import_path: Path | None,
    cut: tuple[int, int | None, str | None],
) -> Source:
    """Build the data source; ``cut`` is batch size, number of samples, shard ``I/N``.

    Raises:
        UsageError: An option or the shard is not of its form.
    """
    if import_path is not None:
        sys.path.insert(0, str(import_path.resolve()))
    batch_size, samples, shard = cut
    return Source(
        data=data,
        reader=reader,
        options=key_values(data_options, "--data-option"),
        cut=Cut(batch_size=batch_size, samples=samples, shard=_shard(shard)),
    )


def _shard(text: str | None) -> tuple[int, int]:
    """Read ``I/N``."""
    if text is None:
        return 0, 1
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UsageError(f"--shard {text!r}: write I/N with 0 ≤ I < N, e.g. 0/4")
    return int(index), int(count)


def observed_by(recipe: Recipe) -> Recipe | None:
    """Return what calibration shall observe for a recipe that layers may be taken out of.

    That is what any recipe for a shipped target may ask for, since neighbours of a float layer
    can be quantized otherwise; scales a channel, and targets of the user's, need the recipe.
    """
    shipped = recipe.target is None or recipe.target in names()
    whole = recipe.activations.granularity in (None, "tensor")
    return None if shipped and whole else recipe


def table_of(
    screen: Screen,
    model: Path,
    calib: Path | None,
    source: Source | None,
    recipe: Recipe,
    runtime: Runtime,
    *,
    groups: str | None = None,
    every: bool = False,
    collection: Collection | None = None,
) -> CalibrationTable:
    """Read a calibration table, or make one; data adds what passes of the recipe rescale.

    Args:
        screen: Shows progress.
        model: The float model.
        calib: The table's file; None to calibrate now.
        source: The calibration data, if it is at hand.
        recipe: What the table is for.
        runtime: How to run the model.
        groups: Use only these groups of the file.
        every: Observe what `observed_by` says.
        collection: What to collect; by default what the recipe needs.
    """
    from onnxq import pipeline, table_file  # noqa: PLC0415
    from onnxq.observing import completed  # noqa: PLC0415

    if calib is not None:
        table = table_file.load(calib)
        table = table.only(numbers_of(groups, "--groups")) if groups is not None else table
    else:
        assert source is not None
        observed = observed_by(recipe) if every else recipe
        with screen.progress("calibrate") as report:
            table = pipeline.calibrate(
                *(model, source),
                recipe=observed,
                collection=collection or collection_for(recipe),
                runtime=runtime,
                report=report,
            )
    return table if source is None else completed(model, table, recipe, source, runtime)


def numbers_of(text: str, flag: str) -> list[int]:
    """Read whole numbers with commas between them.

    Raises:
        UsageError: It is something else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"{flag} {text!r}: write numbers with commas between them, e.g. 0,2")
    return [int(part) for part in parts]


def seconds_of(text: str, flag: str) -> float:
    """Read a time: a number with ``s``, ``m`` or ``h`` behind it.

    Raises:
        UsageError: It is something else, or no time at all.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh])", text)
    if not match or not float(match[1]):
        raise UsageError(f"{flag} {text!r}: write a time, e.g. 90s, 5m or 1h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def channels_of(granularity: str | None) -> int | Literal["auto"] | None:
    """Read ``tensor``, ``channel`` or ``channel:AXIS``.

    Raises:
        UsageError: It is none of these.
    """
    try:
        return channels(granularity)
    except ValueError as error:
        raise UsageError(f"--activation-granularity: {error}") from error


def runtime_of(provider: str, threads: int, custom_ops: Path | None) -> Runtime:
    """Build the description of how to run models."""
    return Runtime(provider=provider, threads=threads, custom_ops=custom_ops)


def metric_of(name: str | None, pairs: list[str] | None) -> Metric | None:
    """Build the metric; only here may a name be ``module:function``, which runs code.

    Raises:
        UsageError: There are options without a metric, or the function cannot be imported.
        UnknownNameError: There is no such metric or option.
        RecipeError: The metric refuses an option.
    """
    chosen = key_values(pairs, "--metric-option")
    if name is None:
        if chosen:
            raise UsageError("--metric-option sets a --metric: name one")
        return None
    if ":" in name:
        return custom.load(name, {key: parsed(value) for key, value in chosen.items()})
    return registered(name, **chosen)


def asked(
    recipe: Path | None,
    target: str | None,
    weights: TensorRule | None = None,
    activations: TensorRule | None = None,
    rules: tuple[NodeRule, ...] = (),
) -> Recipe:
    """Lay what the flags say over the recipe file.

    Raises:
        RecipeError: The file is no recipe.
    """
    flags = Recipe(
        target=target,
        weights=weights or TensorRule(),
        activations=activations or TensorRule(),
        rules=rules,
    )
    return flags.over(load(recipe)) if recipe else flags


def recipe_of(flags: RecipeFlags) -> Recipe:
    """Return what flags and recipe file ask for together.

    Raises:
        UsageError: Flags contradict each other, or mean nothing without others.
        RecipeError: The file is no recipe.
    """
    if flags.outlier_var and (flags.range_name or flags.weight_range):
        raise UsageError("--outlier-var sets --range and --weight-range: give only one of them")
    channels_of(flags.activation_granularity)
    both = OUTLIER_VAR if flags.outlier_var else None
    weights = TensorRule(
        dtype=_reduced(flags),
        granularity=_weight_granularity(flags),
        range=both or flags.weight_range,
        range_options=key_values(flags.weight_range_option, "--weight-range-option") or None,
    )
    activations = TensorRule(
        dtype=flags.activations,
        symmetric=flags.symmetric,
        granularity=flags.activation_granularity,
        range=both or flags.range_name,
        range_options=key_values(flags.range_option, "--range-option") or None,
    )
    recipe = asked(flags.recipe, flags.target, weights, activations, _exclusions(flags))
    single = Recipe(
        correct_bias=flags.correct_bias,
        bias_correction=flags.bias_correction,
        fit_ranges=flags.fit_ranges,
        reconstruct=flags.reconstruct,
        fuse_blocks=flags.fuse_blocks,
        positions=flags.positions,
        rounding=flags.rounding,
        qdq=flags.qdq,
        crossbar=_size(flags.crossbar),
        rows=flags.rows,
        tile_scales=flags.tile_scales,
        reorder=flags.reorder,
        reorder_mode=flags.reorder_mode,
        equalize=flags.equalize,
        equalize_clips=flags.equalize_clips,
        smooth=flags.smooth,
        smooth_insert=flags.smooth_insert,
    )
    return _tuned(single.over(recipe), flags)


def check_order(recipe: Recipe) -> None:
    """Refuse to hear what changes places where nothing does.

    Raises:
        UsageError: There is a mode, and no order, or the like of smoothing.
    """
    if recipe.reorder_mode is not None and recipe.reorder is None:
        raise UsageError("--reorder-mode says what --reorder moves: give both")
    if recipe.equalize_clips is not None and not recipe.equalize:
        raise UsageError("--equalize-clips is about --equalize: give both")
    if recipe.smooth_insert is not None and recipe.smooth is None:
        raise UsageError("--smooth-insert is about --smooth: give both")


def _weight_granularity(flags: RecipeFlags) -> str | None:
    """Return how far a scale of a weight reaches."""
    if flags.weight_granularity is None:
        return {None: None, True: "channel", False: "tensor"}[flags.per_channel]
    if flags.per_channel is not None:
        raise UsageError(
            "--per-channel and --per-tensor are short for --weight-granularity: give only one"
        )
    try:
        block(flags.weight_granularity)
    except ValueError as error:
        raise UsageError(f"--weight-granularity: {error}") from error
    return flags.weight_granularity


def _size(text: str | None) -> str | None:
    """Return the size of an array, if it is one."""
    try:
        return text if text is None or crossbar_size(text) else None
    except ValueError as error:
        raise UsageError(f"--{error}") from error


def _reduced(flags: RecipeFlags) -> str | None:
    """Return the element type of weights."""
    if flags.reduce_range and flags.weights is not None:
        raise UsageError("--reduce-range means --weights int7: give only one of them")
    return "int7" if flags.reduce_range else flags.weights


def _exclusions(flags: RecipeFlags) -> tuple[NodeRule, ...]:
    """Build rules that keep nodes float."""
    by_name = tuple(NodeRule(name=name, quantize=False) for name in flags.exclude or [])
    return by_name + tuple(NodeRule(op=op, quantize=False) for op in flags.exclude_op or [])


def _tuned(recipe: Recipe, flags: RecipeFlags) -> Recipe:
    """Lay the options of outlier-var over a recipe's own; its rules for single nodes keep theirs.

    Raises:
        UsageError: There are such options, and nothing that uses outlier-var.
    """
    names = ("alpha", "beta", "k1", "k2", "variance", "extremes")
    given = {name: getattr(flags, name) for name in names if getattr(flags, name) is not None}
    if not given:
        return recipe
    tuned: dict[str, Any] = {
        kind: replace(rule, range_options={**(rule.range_options or {}), **given})
        for kind, rule in (("activations", recipe.activations), ("weights", recipe.weights))
        if rule.range == OUTLIER_VAR
    }
    if not tuned:
        raise UsageError(f"--{next(iter(given))} is an option of {OUTLIER_VAR}: add --outlier-var")
    return replace(recipe, **tuned)
