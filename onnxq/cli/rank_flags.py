"""The flags that rank the layers of a model by what quantizing them does."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxq.cli import options
from onnxq.cli.recipe_flags import RecipeFlags

RANK = "Sensitivity of the layers"


@dataclass(frozen=True, kw_only=True)
class RankFlags:
    """What to rank on; each field is a flag, and what it means is its help."""

    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity",
            help="Of a model: quantize it, and rank its layers by what their error does to the "
            "outputs, beside what they cost. Needs --data or --calib.",
            rich_help_panel=RANK,
        ),
    ] = False
    calib: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="A table written by onnxq calibrate; alone, the samples it keeps are measured on.",
            rich_help_panel=RANK,
        ),
    ] = None
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "-d",
            help="Measure on this data, and calibrate on it if there is no table.",
            rich_help_panel=options.DATA,
        ),
    ] = None
    confirm: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Of how many layers to measure what keeping each alone float buys; default 5.",
            rich_help_panel=RANK,
        ),
    ] = None
    reader: options.ReaderName = None
    data_option: options.DataOptions = None
    samples: options.Samples = None
    batch_size: options.BatchSize = 8
    import_path: options.ImportPath = None
    provider: options.Provider = "cpu"
    threads: options.Threads = 0
    custom_ops: options.CustomOps = None

    def check(self) -> None:
        """Refuse flags that mean nothing without others.

        Raises:
            UsageError: There are such.
        """
        from onnxq.errors import UsageError  # noqa: PLC0415

        if self.sensitivity and self.calib is None and self.data is None:
            raise UsageError("--sensitivity needs --data PATH or --calib FILE")
        if not self.sensitivity and self != RankFlags():
            raise UsageError("--data, --calib, --confirm and how to run go with --sensitivity")


def show_sensitivity(screen: Any, model: Path, given: RankFlags, asked: RecipeFlags) -> None:
    """Rank the layers of a model and print them."""
    from rich.markup import escape  # noqa: PLC0415

    from onnxq.cli.common import (  # noqa: PLC0415
        check_order,
        recipe_of,
        runtime_of,
        source_of,
        table_of,
    )
    from onnxq.report.sensitivity import sensitivity_dict, sensitivity_lines  # noqa: PLC0415
    from onnxq.search.sensitivity import CONFIRMED, sensitivity  # noqa: PLC0415

    recipe = recipe_of(asked)
    check_order(recipe)
    runtime = runtime_of(given.provider, given.threads, given.custom_ops)
    cut = given.batch_size, given.samples, None
    read = (given.reader, given.data_option, given.import_path)
    source = source_of(given.data, *read, cut) if given.data else None
    table = table_of(screen, model, given.calib, source, recipe, runtime, every=True)
    confirm = CONFIRMED if given.confirm is None else given.confirm
    with screen.steps("confirm", "layers") as step:
        found = sensitivity(
            model, table, recipe, source, confirm=confirm, runtime=runtime, report=step
        )
    for line in sensitivity_lines(found):
        screen.print(escape(line))
    screen.json(sensitivity_dict(found))
