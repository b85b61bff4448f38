"""``onnxq merge``: combine the tables of shards."""

from pathlib import Path
from typing import Annotated

import typer

from onnxq.cli import options


def merge(
    tables: Annotated[
        list[Path], typer.Argument(exists=True, dir_okay=False, help="Tables of one model.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The table to write.")],
    quiet: options.Quiet = False,
) -> None:
    """Combine calibration tables; the result is that of one run over all the data.

    [bold]onnxq merge part-*.calib -o model.calib[/bold]
    """
    from functools import reduce  # noqa: PLC0415

    from onnxq import table_file  # noqa: PLC0415
    from onnxq.cli.console import Screen  # noqa: PLC0415
    from onnxq.files import check_target  # noqa: PLC0415

    screen = Screen(quiet=quiet)
    check_target(output, tables)
    merged = reduce(lambda a, b: a.merge(b), map(table_file.load, tables))
    table_file.save(merged, output)
    screen.print(f"{output}: {len(merged.tensors)} tensors, {merged.samples} samples")
