"""The flags of commands that search on samples, and what they mean together."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxq.cli import options
from onnxq.cli.recipe_flags import RecipeFlags

if TYPE_CHECKING:  # heavy, and not every command searches
    from collections.abc import Callable, Iterable, Sequence

    from onnxq.calibrating import Collection
    from onnxq.cli.console import Screen
    from onnxq.graph.session import Runtime
    from onnxq.metrics.answers import Metric
    from onnxq.recipe import Recipe
    from onnxq.results import Quantized
    from onnxq.sources import Source
    from onnxq.table import CalibrationTable

SEARCH = "Search"


@dataclass(frozen=True, kw_only=True)
class SearchFlags:
    """What to search on and how; each field is a flag, and what it means is its help."""

    data: options.Data
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The quantized model to write; what was found is written beside it.",
        ),
    ]
    calib: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="A table written by onnxq calibrate; else the data that is searched on gives one.",
        ),
    ] = None
    eval_data: Annotated[
        str | None,
        typer.Option(
            help="Measure on this; by default every fifth sample of --data is held out for it.",
            rich_help_panel=options.DATA,
        ),
    ] = None
    reader: options.ReaderName = None
    data_option: options.DataOptions = None
    samples: options.Samples = None
    batch_size: options.BatchSize = 32
    import_path: options.ImportPath = None
    metric: options.MetricName = None
    metric_option: options.MetricOptions = None
    labels: options.Labels = None
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="Run every candidate on all samples, instead of giving up those that cannot win.",
            rich_help_panel=SEARCH,
        ),
    ] = False
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from where an interrupted run was.",
            rich_help_panel=SEARCH,
        ),
    ] = False
    seed: Annotated[
        int, typer.Option(help="Of all that is drawn by lot.", rich_help_panel=SEARCH)
    ] = 0
    workers: Annotated[
        int,
        typer.Option(
            min=0,
            help="Batches, or candidates, to run at once; 0: one a core.",
            rich_help_panel=options.RUN,
        ),
    ] = 0
    provider: options.Provider = "cpu"
    threads: options.Threads = 0
    custom_ops: options.CustomOps = None
    json: options.Json = None
    quiet: options.Quiet = False
    verbose: options.Verbose = False

    @property
    def checkpoint(self) -> Path:
        """Where an interrupted run leaves what it has found."""
        return self.output.with_name(f"{self.output.name}.checkpoint")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What the flags of a search ask for.

    Attributes:
        screen: Where to print.
        recipe: Where to start.
        runtime: How to run models.
        data: The samples to search on and those to measure on.
        metric: What to improve.
        table: The calibration table.
    """

    screen: "Screen"
    recipe: "Recipe"
    runtime: "Runtime"
    data: "tuple[Source, Source]"
    metric: "Metric"
    table: "CalibrationTable"


def setup(
    model: Path,
    given: SearchFlags,
    asked: RecipeFlags,
    beside: "Sequence[Path]",
    check: "Callable[[Recipe], None]" = lambda _: None,
    *,
    collection: "Collection | None" = None,
    metric: "Metric | None" = None,
) -> Setup:
    """Check what the flags say, and calibrate where no table is given.

    Args:
        model: The float model.
        given: The flags of the search.
        asked: The flags of the recipe.
        beside: What else the command writes.
        check: Refuses what of the recipe means nothing to the command.
        collection: What to calibrate; by default what the recipe needs.
        metric: What to improve where no flag says it; by default cosine.
    """
    from onnxq.cli.common import (  # noqa: PLC0415
        metric_of,
        recipe_of,
        runtime_of,
        source_of,
        table_of,
    )
    from onnxq.cli.console import Screen  # noqa: PLC0415
    from onnxq.files import check_target  # noqa: PLC0415
    from onnxq.metrics.unlabelled import Cosine  # noqa: PLC0415
    from onnxq.recipe import order_file  # noqa: PLC0415
    from onnxq.results import SIDECARS  # noqa: PLC0415
    from onnxq.search.samples import parts  # noqa: PLC0415

    output = given.output
    order = order_file(asked.reorder)
    files = given.data, given.eval_data, given.calib, asked.recipe, order
    read = [Path(each) for each in files if each]
    written = [output.with_name(f"{output.name}{suffix}") for suffix in ("", ".data", *SIDECARS)]
    written += [given.checkpoint]
    screen = Screen(
        quiet=given.quiet,
        verbose=given.verbose,
        to=given.json,
        beside=[model, *read, *written, *beside],
    )
    for target in written:
        check_target(target, [model, *read])
    for number, target in enumerate(beside):
        check_target(target, [model, *read, *written, *beside[:number]])
    recipe = recipe_of(asked)
    check(recipe)
    runtime = runtime_of(given.provider, given.threads, given.custom_ops)
    labels = [f"labels={given.labels}"] if given.labels else []
    options_given = [*(given.data_option or []), *labels]
    cut = given.batch_size, given.samples, None
    source = source_of(given.data, given.reader, options_given, given.import_path, cut)
    cut = given.batch_size, None, None
    other = (
        source_of(given.eval_data, given.reader, options_given, None, cut)
        if given.eval_data
        else None
    )
    data = parts(source, other)
    improved = metric_of(given.metric, given.metric_option) or metric or Cosine()
    table = table_of(
        *(screen, model, given.calib, data[0], recipe, runtime),
        every=collection is not None,
        collection=collection,
    )
    return Setup(
        screen=screen, recipe=recipe, runtime=runtime, data=data, metric=improved, table=table
    )


def tell(screen: "Screen", quantized: "Quantized", tables: "Iterable[Any]", content: Any) -> None:
    """Print what a search wrote and found, and write it for machines if asked to.

    Args:
        screen: Where to print.
        quantized: The model written.
        tables: What was found, as rich shows it.
        content: The same as plain values.
    """
    from rich.markup import escape  # noqa: PLC0415

    from onnxq.report.text import quantized_lines  # noqa: PLC0415

    for line in quantized_lines(quantized):
        screen.print(escape(line))
    for shown in tables:
        screen.print(shown)
    screen.json(content)
