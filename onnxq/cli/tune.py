"""``onnxq tune``: refine scales by the task's own metric."""

from pathlib import Path
from typing import Annotated

import typer

from onnxq.cli import options
from onnxq.cli.recipe_flags import RecipeFlags, spelled

TUNE = "Tuning"


@spelled
def tune(
    model: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The float model.")],
    data: options.Data,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="The quantized model to write; its recipe is written beside it."
        ),
    ],
    calib: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="A table written by onnxq calibrate; else the data that is tuned on gives one.",
        ),
    ] = None,
    eval_data: Annotated[
        str | None,
        typer.Option(
            help="Measure on this; by default every fifth sample of --data is held out for it.",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    *,
    reader: options.ReaderName = None,
    data_option: options.DataOptions = None,
    samples: options.Samples = None,
    batch_size: options.BatchSize = 32,
    import_path: options.ImportPath = None,
    metric: options.MetricName = None,
    metric_option: options.MetricOptions = None,
    labels: options.Labels = None,
    over: Annotated[
        str,
        typer.Option(
            metavar="activations|weights|both", help="What to move.", rich_help_panel=TUNE
        ),
    ] = "activations",
    min_gain: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="What a direction must gain to count; default 0.001, or 5 % of what is missing "
            "from the best score for cosine and relative-entropy.",
            rich_help_panel=TUNE,
        ),
    ] = None,
    target_metric: Annotated[
        float | None,
        typer.Option(help="Stop once the score is at least this.", rich_help_panel=TUNE),
    ] = None,
    sweeps: Annotated[
        int,
        typer.Option(
            min=1,
            help="Go through all tensors so often, or until nothing moves.",
            rich_help_panel=TUNE,
        ),
    ] = 1,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="Run every candidate on all samples, instead of giving up those that cannot win.",
            rich_help_panel=TUNE,
        ),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from the checkpoint of an interrupted run.",
            rich_help_panel=TUNE,
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option(help="Of the order of the samples.", rich_help_panel=TUNE)
    ] = 0,
    workers: Annotated[
        int,
        typer.Option(
            min=0, help="Batches to run at once; 0: one a core.", rich_help_panel=options.RUN
        ),
    ] = 0,
    asked: RecipeFlags,
    provider: options.Provider = "cpu",
    threads: options.Threads = 0,
    custom_ops: options.CustomOps = None,
    json: options.Json = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Move the scales of a quantized model, tensor by tensor, to where a metric is best.

    The metric is cosine unless another is named; docs/metrics.md has an example of each.

    [bold]onnxq tune model.onnx --data labelled/ --target fixed-point --metric classification -o
    tuned.onnx[/bold]
    """
    from rich.markup import escape  # noqa: PLC0415

    from onnxq import pipeline, table_file  # noqa: PLC0415
    from onnxq.cli.common import (  # noqa: PLC0415
        check_order,
        metric_of,
        recipe_of,
        runtime_of,
        source_of,
    )
    from onnxq.cli.console import Screen  # noqa: PLC0415
    from onnxq.files import check_target  # noqa: PLC0415
    from onnxq.metrics.unlabelled import Cosine  # noqa: PLC0415
    from onnxq.report.text import quantized_lines  # noqa: PLC0415
    from onnxq.report.tuning import tuned_dict, tuned_tables  # noqa: PLC0415
    from onnxq.results import SIDECARS  # noqa: PLC0415
    from onnxq.search import tune as search  # noqa: PLC0415
    from onnxq.search.settings import Tuning  # noqa: PLC0415

    given = [Path(each) for each in (data, eval_data, calib, asked.recipe) if each]
    checkpoint = output.with_name(f"{output.name}.checkpoint")
    written = [output.with_name(f"{output.name}{suffix}") for suffix in ("", ".data", *SIDECARS)]
    written += [search.recipe_path(output), checkpoint]
    screen = Screen(quiet=quiet, verbose=verbose, to=json, beside=[model, *given, *written])
    for target in written:
        check_target(target, [model, *given])
    recipe, runtime = recipe_of(asked), runtime_of(provider, threads, custom_ops)
    check_order(recipe)
    data_option = [*(data_option or []), *([f"labels={labels}"] if labels else [])]
    cut = batch_size, samples, None
    source = source_of(data, reader, data_option, import_path, cut)
    other = (
        source_of(eval_data, reader, data_option, None, (batch_size, None, None))
        if eval_data
        else None
    )
    tuning = Tuning(
        metric=metric_of(metric, metric_option) or Cosine(),
        over=over,
        min_gain=min_gain,
        target=target_metric,
        sweeps=sweeps,
        drop=not exact,
        seed=seed,
        workers=workers,
        checkpoint=checkpoint,
        resume=resume,
    )
    both = search.parts(source, other)
    if calib is not None:
        table = table_file.load(calib)
    else:
        with screen.progress("calibrate") as report:
            table = pipeline.calibrate(
                model, both[0], recipe=recipe, runtime=runtime, report=report
            )
    with screen.steps("tune", "tensors") as step:
        result = search.tune(
            model, table, recipe, both, output, tuning=tuning, runtime=runtime, report=step
        )
    for line in quantized_lines(result.quantized):
        screen.print(escape(line))
    for shown in tuned_tables(result):
        screen.print(shown)
    screen.json(tuned_dict(result))
