"""``onnxq quantize``: write the quantized model."""

from pathlib import Path
from typing import Annotated

import typer

from onnxq.cli import options

MODEL = "Model"


def quantize(
    model: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The float model.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The quantized model to write.")],
    calib: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A table written by onnxq calibrate."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", "-d", help="Calibrate now, on this data.", rich_help_panel=options.DATA
        ),
    ] = None,
    reader: options.ReaderName = None,
    data_option: options.DataOptions = None,
    samples: options.Samples = None,
    batch_size: options.BatchSize = 8,
    import_path: options.ImportPath = None,
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
    correct_bias: Annotated[
        bool | None,
        typer.Option(
            "--correct-bias/--no-correct-bias",
            help="Let biases take up the mean error of their layer; the target decides.",
        ),
    ] = None,
    recipe: options.RecipeFile = None,
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
        activations_rule,
        asked,
        exclusions,
        reduced,
        runtime_of,
        source_of,
        weights_rule,
    )
    from onnxq.cli.console import Screen  # noqa: PLC0415
    from onnxq.errors import UsageError  # noqa: PLC0415
    from onnxq.files import check_target  # noqa: PLC0415
    from onnxq.recipe import Recipe  # noqa: PLC0415
    from onnxq.report.plain import quantized_dict  # noqa: PLC0415
    from onnxq.report.text import quantized_lines  # noqa: PLC0415

    if (calib is None) == (data is None):
        raise UsageError("give either --calib FILE or --data PATH")
    screen = Screen(quiet=quiet, verbose=verbose, to=json)
    resolved = asked(
        recipe,
        target,
        weights_rule(reduced(weights, reduce_range), weight_range, per_channel=per_channel),
        activations_rule(activations, range_name, range_option, symmetric=symmetric),
        exclusions(exclude, exclude_op),
    )
    resolved = Recipe(correct_bias=correct_bias).over(resolved)
    limits = pipeline.Limits(min_cosine=min_cosine, max_opset=max_opset)
    runtime = runtime_of(provider, threads, custom_ops)
    check_target(output, [model] + ([calib] if calib else []))
    if calib is not None:
        table = table_file.load(calib)
    else:
        source = source_of(str(data), reader, data_option, import_path, (batch_size, samples, None))
        with screen.progress("calibrate") as report:
            table = pipeline.calibrate(
                model, source, recipe=resolved, runtime=runtime, report=report
            )
    result = pipeline.quantize(model, table, resolved, output, limits=limits, runtime=runtime)
    for line in quantized_lines(result):
        screen.print(escape(line))
    screen.json(quantized_dict(result))
