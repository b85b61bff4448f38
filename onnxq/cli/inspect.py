"""``onnxq inspect``: what a model is made of, and what would become of it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxq.cli import options


def inspect(
    model: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The model.")],
    plan: Annotated[
        bool,
        typer.Option("--plan", help="What becomes of every node and tensor, with reasons."),
    ] = False,
    target: options.TargetName = None,
    per_channel: options.PerChannel = None,
    range_name: options.RangeName = None,
    range_option: options.RangeOption = None,
    weight_range: options.WeightRange = None,
    weights: options.Weights = None,
    reduce_range: options.ReduceRange = False,
    activations: options.Activations = None,
    symmetric: options.Symmetric = None,
    exclude: options.Exclude = None,
    exclude_op: options.ExcludeOp = None,
    recipe: options.RecipeFile = None,
    json: options.Json = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Show what a model is made of, or with --plan what quantizing would do to it.

    [bold]onnxq inspect model.onnx --plan --exclude '^/head/'[/bold]
    """
    from onnxq.cli.common import (  # noqa: PLC0415
        activations_rule,
        asked,
        exclusions,
        reduced,
        weights_rule,
    )
    from onnxq.cli.console import Screen  # noqa: PLC0415
    from onnxq.errors import UsageError  # noqa: PLC0415
    from onnxq.recipe import Recipe  # noqa: PLC0415

    screen = Screen(quiet=quiet, verbose=verbose, to=json)
    resolved = asked(
        recipe,
        target,
        weights_rule(reduced(weights, reduce_range), weight_range, per_channel=per_channel),
        activations_rule(activations, range_name, range_option, symmetric=symmetric),
        exclusions(exclude, exclude_op),
    )
    if plan:
        _show_plan(screen, model, resolved)
    elif resolved == Recipe():
        _show_summary(screen, model)
    else:
        raise UsageError("flags that say how to quantize mean something with --plan only")


def _show_summary(screen: Any, model: Path) -> None:
    """Print what a model is made of."""
    from rich.markup import escape  # noqa: PLC0415

    from onnxq import inspection  # noqa: PLC0415
    from onnxq.report.inspect import summary_dict, summary_lines  # noqa: PLC0415

    found = inspection.summary(model)
    for line in summary_lines(found):
        screen.print(escape(line))
    screen.json(summary_dict(found))


def _show_plan(screen: Any, model: Path, recipe: Any) -> None:
    """Print what would become of a model."""
    from rich.markup import escape  # noqa: PLC0415

    from onnxq import inspection  # noqa: PLC0415
    from onnxq.report.inspect import plan_dict, plan_text  # noqa: PLC0415

    found = inspection.planned(model, recipe)
    for line in plan_text(found):
        screen.print(escape(line))
    screen.json(plan_dict(found))
