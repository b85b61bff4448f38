"""Flags that several commands share, spelled once."""

from pathlib import Path
from typing import Annotated, Any

import typer

DATA = "Data"
RUN = "Running"
OUT = "Output"
CLUSTER = "Cluster"
METRIC = "Metric"
BOUNDS = "Bounds on what is lost"

Data = Annotated[
    str,
    typer.Option(
        "--data",
        "-d",
        help="An .npz or .npy file, a folder of .npz, .npy or images, 'module:Class' for a "
        "reader of your own, or 'random'.",
        rich_help_panel=DATA,
    ),
]
ReaderName = Annotated[
    str | None,
    typer.Option("--reader", help="Use this reader, see onnxq list.", rich_help_panel=DATA),
]
DataOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--data-option",
        "-D",
        metavar="KEY=VALUE",
        help="An option of the reader, e.g. -D preset=imagenet; repeatable.",
        rich_help_panel=DATA,
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(min=1, help="Stop after so many samples.", rich_help_panel=DATA),
]
BatchSize = Annotated[
    int,
    typer.Option(
        min=1, help="Samples a run, where the model leaves it open.", rich_help_panel=DATA
    ),
]
ImportPath = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        file_okay=False,
        help="Folder to import 'module:Class' from.",
        rich_help_panel=DATA,
    ),
]
MetricName = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="NAME",
        help="Score models by this: a metric of onnxq list, or 'module:function'.",
        rich_help_panel=METRIC,
    ),
]
MetricOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--metric-option",
        metavar="KEY=VALUE",
        help="An option of the metric, e.g. weight=0.5; repeatable.",
        rich_help_panel=METRIC,
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="Labels of images: CSV or JSON from file name to label, or 'folders' where each "
        "class has a folder.",
        rich_help_panel=METRIC,
    ),
]
Provider = Annotated[
    str, typer.Option(help="cpu, cuda, tensorrt, openvino, …", rich_help_panel=RUN)
]
Threads = Annotated[
    int,
    typer.Option(min=0, help="Threads inside an operator; 0: all cores.", rich_help_panel=RUN),
]
CustomOps = Annotated[
    Path | None,
    typer.Option(
        "--custom-op-library",
        exists=True,
        dir_okay=False,
        help="Shared library with custom operators.",
        rich_help_panel=RUN,
    ),
]
RecipeFile = Annotated[
    Path | None,
    typer.Option("--recipe", exists=True, dir_okay=False, help="YAML or JSON; flags win over it."),
]
TargetName = Annotated[
    str | None, typer.Option("--target", help="Hardware to quantize for, see onnxq list.")
]
Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Also write the result as JSON; '-' for standard output.",
        rich_help_panel=OUT,
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Only warnings and errors.", rich_help_panel=OUT)
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more.", rich_help_panel=OUT)]
MinCosine = Annotated[
    float | None,
    typer.Option(
        min=-1.0,
        max=1.0,
        help="The result must be at least this near to the float model.",
        rich_help_panel=BOUNDS,
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="The result must score at most this much lower than the float model, e.g. 0.005: half "
        "a point; needs labelled data.",
        rich_help_panel=BOUNDS,
    ),
]
BestEffort = Annotated[
    bool,
    typer.Option(
        "--best-effort",
        help="Where nothing that was tried holds the bounds, write the nearest and warn.",
        rich_help_panel=BOUNDS,
    ),
]


def key_values(pairs: list[str] | None, flag: str) -> dict[str, Any]:
    """Read repeated ``KEY=VALUE`` flags.

    Raises:
        UsageError: A pair has no equals sign.
    """
    from onnxq.errors import UsageError  # noqa: PLC0415

    found = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"{flag} {pair!r}: write KEY=VALUE")
        found[key.strip()] = value.strip()
    return found
