"""``onnxq list``: the names there are."""

from typing import Annotated

import typer

from onnxq.cli import options


def listing(
    kind: Annotated[
        str | None, typer.Argument(help="targets, ranges, metrics or readers; all by default.")
    ] = None,
    json: options.Json = None,
) -> None:
    """List targets, range algorithms, metrics and readers.

    [bold]onnxq list ranges[/bold]
    """
    from onnxq.cli.console import Screen  # noqa: PLC0415
    from onnxq.errors import UnknownNameError  # noqa: PLC0415
    from onnxq.report.catalogue import catalogue  # noqa: PLC0415

    screen = Screen(to=json)
    found = catalogue()
    if kind is not None and kind not in found:
        raise UnknownNameError("kind", kind, found)
    shown = {kind: found[kind]} if kind else found
    for heading, entries in shown.items():
        screen.print(heading)
        width = max(map(len, entries), default=0)
        for name, summary in entries.items():
            screen.print(f"  {name:<{width}}  {summary}")
    screen.json(shown)
