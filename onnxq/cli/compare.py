"""``onnxq compare``: how near the quantized model is to the float model."""

from pathlib import Path
from typing import Annotated

import typer

from onnxq.cli import options


def compare(
    float_model: Annotated[
        Path, typer.Argument(metavar="FLOAT", exists=True, dir_okay=False, help="The float model.")
    ],
    quantized: Annotated[
        Path,
        typer.Argument(metavar="QUANT", exists=True, dir_okay=False, help="The quantized model."),
    ],
    data: options.Data,
    reader: options.ReaderName = None,
    data_option: options.DataOptions = None,
    samples: options.Samples = None,
    batch_size: options.BatchSize = 8,
    import_path: options.ImportPath = None,
    metric: options.MetricName = None,
    metric_option: options.MetricOptions = None,
    labels: options.Labels = None,
    latency: Annotated[
        bool, typer.Option("--latency", help="Also time both models, with one thread by default.")
    ] = False,
    layers: Annotated[
        bool, typer.Option("--layers", help="Also rank the layers by the error they add.")
    ] = False,
    top: Annotated[int, typer.Option(min=1, help="How many layers to show.")] = 10,
    min_cosine: Annotated[
        float | None,
        typer.Option(min=-1.0, max=1.0, help="Exit with 7 if the worst output is below this."),
    ] = None,
    provider: options.Provider = "cpu",
    threads: options.Threads = 0,
    custom_ops: options.CustomOps = None,
    json: options.Json = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Run both models on the same data and report how near the outputs are.

    Labels in the data (an array named 'label' of class indices) give accuracies. A metric scores
    both models, higher is better; docs/metrics.md has an example of each.

    [bold]onnxq compare model.onnx model.int8.onnx --data eval/[/bold]
    """
    from rich.markup import escape  # noqa: PLC0415

    from onnxq import pipeline  # noqa: PLC0415
    from onnxq.cli.common import metric_of, runtime_of, source_of  # noqa: PLC0415
    from onnxq.cli.console import Screen  # noqa: PLC0415
    from onnxq.errors import QualityError  # noqa: PLC0415
    from onnxq.report.layers import layer_lines  # noqa: PLC0415
    from onnxq.report.plain import compared_dict  # noqa: PLC0415
    from onnxq.report.text import compared_tables  # noqa: PLC0415

    beside = [float_model, quantized, Path(data)]
    screen = Screen(quiet=quiet, verbose=verbose, to=json, beside=beside)
    data_option = [*(data_option or []), *([f"labels={labels}"] if labels else [])]
    source = source_of(data, reader, data_option, import_path, (batch_size, samples, None))
    result = pipeline.compare(
        float_model,
        quantized,
        source,
        measure_latency=latency,
        measure_layers=layers,
        metric=metric_of(metric, metric_option),
        runtime=runtime_of(provider, threads, custom_ops),
    )
    for table in compared_tables(result):
        screen.print(table)
    for line in layer_lines(result.layers or (), top) if layers else ():
        screen.print(escape(line))
    screen.json(compared_dict(result))
    if min_cosine is not None and not result.comparison.cosine >= min_cosine:
        raise QualityError(f"the cosine is {result.comparison.cosine:.5f}, below {min_cosine}")
