"""``onnxq inspect``: what a model is made of, and what would become of it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxq.cli import options
from onnxq.cli.recipe_flags import RecipeFlags, spelled


@spelled
def inspect(
    model: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The model.")],
    plan: Annotated[
        bool,
        typer.Option("--plan", help="What becomes of every node and tensor, with reasons."),
    ] = False,
    *,
    asked: RecipeFlags,
    json: options.Json = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Show what a model is made of, or with --plan what quantizing would do to it.

    [bold]onnxq inspect model.onnx --plan --exclude '^/head/'[/bold]
    """
    from onnxq.cli.common import recipe_of  # noqa: PLC0415
    from onnxq.cli.console import Screen  # noqa: PLC0415
    from onnxq.errors import UsageError  # noqa: PLC0415
    from onnxq.recipe import Recipe  # noqa: PLC0415

    screen = Screen(quiet=quiet, verbose=verbose, to=json)
    recipe = recipe_of(asked)
    if plan:
        _show_plan(screen, model, recipe)
    elif recipe == Recipe():
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
