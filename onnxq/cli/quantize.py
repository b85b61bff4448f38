"""``onnxq quantize``: write the quantized model."""

from pathlib import Path
from typing import Annotated

import typer

from onnxq.cli import options
from onnxq.cli.recipe_flags import RecipeFlags
from onnxq.cli.spelling import spelled


@spelled
def quantize(
    model: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The float model.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The quantized model to write.")],
    calib: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A table written by onnxq calibrate."),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(metavar="I,J,…", help="Use only these groups of the table, from 0."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "-d",
            help="Calibrate now, on this data; with --calib, the data of that table, for what "
            "--equalize or --smooth rescales.",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    *,
    reader: options.ReaderName = None,
    data_option: options.DataOptions = None,
    samples: options.Samples = None,
    batch_size: options.BatchSize = 8,
    import_path: options.ImportPath = None,
    asked: RecipeFlags,
    min_cosine: Annotated[
        float | None,
        typer.Option(
            min=-1.0, max=1.0, help="Refuse a result farther than this from the float model."
        ),
    ] = None,
    max_opset: Annotated[
        int | None, typer.Option(min=10, help="Refuse to write a newer operator set.")
    ] = None,
    provider: options.Provider = "cpu",
    threads: options.Threads = 0,
    custom_ops: options.CustomOps = None,
    json: options.Json = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write the quantized model, checked and compared with the float model.

    [bold]onnxq quantize model.onnx --calib model.calib -o model.int8.onnx[/bold]
    """
    from rich.markup import escape  # noqa: PLC0415

    from onnxq import pipeline, table_file  # noqa: PLC0415
    from onnxq.cli.common import (  # noqa: PLC0415
        check_order,
        numbers_of,
        recipe_of,
        runtime_of,
        source_of,
    )
    from onnxq.cli.console import Screen  # noqa: PLC0415
    from onnxq.errors import UsageError  # noqa: PLC0415
    from onnxq.files import check_target  # noqa: PLC0415
    from onnxq.report.plain import quantized_dict  # noqa: PLC0415
    from onnxq.report.text import quantized_lines  # noqa: PLC0415
    from onnxq.rescaling import is_rescaled  # noqa: PLC0415
    from onnxq.results import SIDECARS  # noqa: PLC0415

    if calib is None and data is None:
        raise UsageError("give --calib FILE or --data PATH")
    if groups is not None and calib is None:
        raise UsageError("--groups names groups of a table: give it with --calib")
    own = [output.with_name(f"{output.name}{suffix}") for suffix in ("", ".data", *SIDECARS)]
    beside = [model, *own, *(Path(given) for given in (calib, data, asked.recipe) if given)]
    screen = Screen(quiet=quiet, verbose=verbose, to=json, beside=beside)
    recipe = recipe_of(asked)
    check_order(recipe)
    limits = pipeline.Limits(min_cosine=min_cosine, max_opset=max_opset)
    runtime = runtime_of(provider, threads, custom_ops)
    check_target(output, [model] + ([calib] if calib else []))
    source = None
    if data is not None:
        source = source_of(data, reader, data_option, import_path, (batch_size, samples, None))
    if calib is not None:
        if source is not None and not is_rescaled(recipe):
            raise UsageError("--data beside --calib is for what --equalize or --smooth rescales")
        table = table_file.load(calib)
        table = table.only(numbers_of(groups, "--groups")) if groups is not None else table
    else:
        assert source is not None
        with screen.progress("calibrate") as report:
            table = pipeline.calibrate(model, source, recipe=recipe, runtime=runtime, report=report)
    result = pipeline.quantize(
        model, table, recipe, output, limits=limits, runtime=runtime, source=source
    )
    for line in quantized_lines(result):
        screen.print(escape(line))
    screen.json(quantized_dict(result))
