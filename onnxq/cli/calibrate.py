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
    activation_granularity: Annotated[
        str | None,
        typer.Option(
            metavar="tensor|channel[:AXIS]", help="Also collect statistics of every channel."
        ),
    ] = None,
    groups: Annotated[
        int,
        typer.Option(min=1, help="Keep the statistics of so many groups of samples apart."),
    ] = 1,
    keep_extremes: Annotated[
        int,
        typer.Option(min=0, help="Values to keep at each end of a tensor, for outlier-var."),
    ] = 4096,
    keep_channel_extremes: Annotated[
        int,
        typer.Option(min=1, help="The same at each end of a channel."),
    ] = 256,
    keep_samples: Annotated[
        int,
        typer.Option(min=0, help="Input samples to keep in the table for checking results."),
    ] = 16,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the checkpoint of an interrupted run."),
    ] = False,
    checkpoint_every: Annotated[
        float,
        typer.Option(min=0.1, metavar="SECONDS", help="How often to leave a checkpoint."),
    ] = 20.0,
    workers: Annotated[
        int,
        typer.Option(
            min=0,
            help="Batches to run at once; 0: two, if there are cores for it.",
            rich_help_panel=options.RUN,
        ),
    ] = 0,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run on the cluster of this Dask scheduler: tcp://HOST:PORT or a scheduler file.",
            rich_help_panel=options.CLUSTER,
        ),
    ] = None,
    shards: Annotated[
        int,
        typer.Option(
            min=0,
            help="Parts to split the data into for the cluster; 0: two a thread of the workers.",
            rich_help_panel=options.CLUSTER,
        ),
    ] = 0,
    provider: options.Provider = "cpu",
    threads: options.Threads = 0,
    custom_ops: options.CustomOps = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Run data through a float model and write what was seen as a calibration table.

    [bold]onnxq calibrate model.onnx --data calib/ -o model.calib[/bold]
    """
    from onnxq import cluster, table_file  # noqa: PLC0415
    from onnxq.calibrating import Collection  # noqa: PLC0415
    from onnxq.cli.common import asked, channels_of, runtime_of, source_of  # noqa: PLC0415
    from onnxq.cli.console import Screen  # noqa: PLC0415
    from onnxq.errors import UsageError  # noqa: PLC0415
    from onnxq.files import check_target  # noqa: PLC0415

    screen = Screen(quiet=quiet, verbose=verbose)
    if shards and not scheduler:
        raise UsageError("--shards is for --scheduler; to run one part here, use --shard I/N")
    source = source_of(data, reader, data_option, import_path, (batch_size, samples, shard))
    check_target(output, [model, Path(data)])
    checkpoint = output.with_name(f"{output.name}.checkpoint")
    work = cluster.Work(
        model=model,
        source=source,
        recipe=asked(recipe, target) if recipe or target else None,
        collection=Collection(
            keep_samples=keep_samples,
            keep_extremes=keep_extremes,
            keep_channel_extremes=keep_channel_extremes,
            groups=groups,
            channels=channels_of(activation_granularity),
            workers=workers,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            resume=resume,
        ),
        runtime=runtime_of(provider, threads, custom_ops),
        import_path=import_path,
    )
    with screen.progress("calibrate") as report:
        if scheduler:
            where = cluster.Cluster(address=scheduler, shards=shards)
            table = cluster.calibrate_on(where, work, report)
        else:
            table = cluster.calibrate_here(work, report)
    table_file.save(table, output)
    checkpoint.unlink(missing_ok=True)
    kept = len(table.kept.feeds)
    screen.print(f"{output}: {len(table.tensors)} tensors, {table.samples} samples")
    if kept:
        screen.print(f"{output} contains {kept} input samples; --keep-samples 0 stores none")
