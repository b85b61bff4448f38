"""``onnxq inspect``: what a model or a calibration table holds, and what can be made of it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxq.cli import options
from onnxq.cli.rank_flags import RankFlags
from onnxq.cli.recipe_flags import RecipeFlags
from onnxq.cli.spelling import spelled


@spelled
def inspect(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, metavar="MODEL|CALIB", help="A model or a table."
        ),
    ],
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Of a model: what becomes of every node and tensor, and why."),
    ] = False,
    tensor: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of a table: one tensor, drawn, with the range every algorithm chooses. Any part "
            "of a name will do that no other tensor has.",
        ),
    ] = None,
    *,
    given: RankFlags,
    asked: RecipeFlags,
    json: options.Json = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Show what a model or a calibration table is made of.

    Of a model: operators, constants, multiply-adds; or with --plan what quantizing would do to it.
    Of a table: a row for every tensor, the most outlier-like ends first; or with --tensor one of
    them. The flags that say how to quantize go with --plan; those about activations with --tensor.
    With --plan and --reorder also which channels can change places, and why the others cannot.
    With --sensitivity and data or a table: every layer of the quantized model, what its error does
    to the outputs, and what it costs to run.

    [bold]onnxq inspect model.onnx --plan --exclude '^/head/'[/bold]

    [bold]onnxq inspect model.onnx --sensitivity --data calib/[/bold]

    [bold]onnxq inspect model.calib --tensor logits --activations int8 --symmetric[/bold]
    """
    from onnxq.cli.console import Screen  # noqa: PLC0415
    from onnxq.errors import UsageError  # noqa: PLC0415
    from onnxq.table_file import is_table  # noqa: PLC0415

    given.check()
    read = [Path(each) for each in (given.calib, given.data, asked.recipe) if each]
    screen = Screen(quiet=quiet, verbose=verbose, to=json, beside=[file, *read])
    if is_table(file):
        from onnxq.cli.inspect_table import show  # noqa: PLC0415

        if plan or given.sensitivity:
            raise UsageError(
                "--plan and --sensitivity are for models; of a table, --tensor NAME shows a tensor"
            )
        show(screen, file, tensor, asked)
    elif tensor is not None:
        raise UsageError("--tensor is for calibration tables; of a model, --plan lists all tensors")
    elif given.sensitivity:
        if plan:
            raise UsageError("--plan and --sensitivity show different things: give one of them")
        from onnxq.cli.rank_flags import show_sensitivity  # noqa: PLC0415

        show_sensitivity(screen, file, given, asked)
    else:
        _show_model(screen, file, asked, plan=plan)


def _show_model(screen: Any, model: Path, asked: RecipeFlags, *, plan: bool) -> None:
    """Print what a model is made of, or what would become of it."""
    from onnxq.cli.common import check_order, recipe_of  # noqa: PLC0415
    from onnxq.errors import UsageError  # noqa: PLC0415

    recipe = recipe_of(asked)
    check_order(recipe)
    if plan:
        _show_plan(screen, model, recipe)
    elif asked == RecipeFlags():
        _show_summary(screen, model)
    else:
        raise UsageError("flags that say how to quantize go with --plan or --sensitivity")


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
