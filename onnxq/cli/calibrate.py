"""``onnxq calibrate``: run data through the float model and write a calibration table."""

from pathlib import Path
from typing import Annotated

import typer

from onnxq.cli import options


def calibrate(
    model: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The float model.")],
    data: options.Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="The table to write.")],
    reader: options.ReaderName = None,
    data_option: options.DataOptions = None,
    samples: options.Samples = None,
    batch_size: options.BatchSize = 8,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Take only every N-th batch, beginning with the I-th, counted from 0.",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    import_path: options.ImportPath = None,
    target: options.TargetName = None,
    recipe: options.RecipeFile = None,
    keep_samples: Annotated[
        int,
        typer.Option(min=0, help="Input samples to keep in the table for checking results."),
    ] = 8,
    provider: options.Provider = "cpu",
    threads: options.Threads = 0,
    custom_ops: options.CustomOps = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Run data through a float model and write what was seen as a calibration table.

    [bold]onnxq calibrate model.onnx --data calib/ -o model.calib[/bold]
    """
    from onnxq import pipeline, table_file  # noqa: PLC0415
    from onnxq.cli.common import asked, runtime_of, source_of  # noqa: PLC0415
    from onnxq.cli.console import Screen  # noqa: PLC0415
    from onnxq.files import check_target  # noqa: PLC0415

    screen = Screen(quiet=quiet, verbose=verbose)
    source = source_of(data, reader, data_option, import_path, (batch_size, samples, shard))
    check_target(output, [model, Path(data)])
    with screen.progress("calibrate") as report:
        table = pipeline.calibrate(
            model,
            source,
            recipe=asked(recipe, target) if recipe or target else None,
            keep_samples=keep_samples,
            runtime=runtime_of(provider, threads, custom_ops),
            report=report,
        )
    table_file.save(table, output)
    kept = len(table.kept.feeds)
    screen.print(f"{output}: {len(table.tensors)} tensors, {table.samples} samples")
    if kept:
        screen.print(f"{output} contains {kept} input samples; --keep-samples 0 stores none")
