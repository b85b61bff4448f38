"""The command ``onnxq``."""

from typing import Annotated

import typer

from onnxq.cli.anneal import anneal
from onnxq.cli.calibrate import calibrate
from onnxq.cli.compare import compare
from onnxq.cli.console import guarded
from onnxq.cli.inspect import inspect
from onnxq.cli.listing import listing
from onnxq.cli.merge import merge
from onnxq.cli.quantize import quantize
from onnxq.cli.search import search
from onnxq.cli.tune import tune

app = typer.Typer(
    name="onnxq",
    help="Turn a float ONNX model into a quantized ONNX model, offline and without training.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("calibrate")(guarded(calibrate))
app.command("merge")(guarded(merge))
app.command("quantize")(guarded(quantize))
app.command("tune")(guarded(tune))
app.command("search")(guarded(search))
app.command("anneal")(guarded(anneal))
app.command("compare")(guarded(compare))
app.command("inspect")(guarded(inspect))
app.command("list")(guarded(listing))


@app.callback()
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of  # noqa: PLC0415

        print(f"onnxq {version_of('onnxq')}")
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    app()
