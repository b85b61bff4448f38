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
    per_channel: Annotated[
        bool | None,
        typer.Option(
            "--per-channel/--per-tensor", help="One weight scale a channel, or one a tensor."
        ),
    ] = None,
    range_name: Annotated[
        str | None,
        typer.Option("--range", help="Range algorithm of activations, see onnxq list."),
    ] = None,
    range_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An option of --range; repeatable."),
    ] = None,
    weight_range: Annotated[str | None, typer.Option(help="Range algorithm of weights.")] = None,
    weights: Annotated[str | None, typer.Option(help="Element type of weights, e.g. int8.")] = None,
    activations: Annotated[
        str | None, typer.Option(help="Element type of activations, e.g. uint8.")
    ] = None,
    symmetric: Annotated[
        bool | None,
        typer.Option("--symmetric/--affine", help="Zero point of activations fixed, or free."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="REGEX", help="Keep the nodes of this name float; repeatable."),
    ] = None,
    exclude_op: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE", help="Keep the nodes of this type float; repeatable."),
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
    from onnxq import pipeline, table_file  # noqa: PLC0415
    from onnxq.cli.common import asked, runtime_of, source_of  # noqa: PLC0415
    from onnxq.cli.console import Screen  # noqa: PLC0415
    from onnxq.errors import UsageError  # noqa: PLC0415
    from onnxq.files import check_target  # noqa: PLC0415
    from onnxq.recipe import NodeRule, TensorRule  # noqa: PLC0415
    from onnxq.report.plain import quantized_dict  # noqa: PLC0415
    from onnxq.report.text import quantized_lines  # noqa: PLC0415

    if (calib is None) == (data is None):
        raise UsageError("give either --calib FILE or --data PATH")
    screen = Screen(quiet=quiet, verbose=verbose, to=json)
    granularity = {None: None, True: "channel", False: "tensor"}[per_channel]
    resolved = asked(
        recipe,
        target,
        TensorRule(dtype=weights, granularity=granularity, range=weight_range),
        TensorRule(
            dtype=activations,
            symmetric=symmetric,
            range=range_name,
            range_options=options.key_values(range_option, "--range-option") or None,
        ),
        tuple(NodeRule(name=name, quantize=False) for name in exclude or [])
        + tuple(NodeRule(op=op, quantize=False) for op in exclude_op or []),
    )
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
        screen.print(line)
    screen.json(quantized_dict(result))
