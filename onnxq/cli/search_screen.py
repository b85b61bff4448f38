"""What a search shows while it runs: a live table on a terminal, lines elsewhere, JSON events."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from onnxq.cli.console import Screen
from onnxq.report.searching import generation_dict, row_dict
from onnxq.search.searching import Generation, Row


@contextmanager
def watched(screen: Screen) -> Iterator[Callable[[Row | Generation], None]]:
    """Show how far a search is.

    Yields:
        To be called with every strategy evaluated, and with how far the search is then.
    """
    begun, seen = time.monotonic(), [-1]
    with screen.live() as show:

        def report(each: Row | Generation) -> None:
            """Show one event."""
            if isinstance(each, Row):
                screen.event({"event": "evaluation", **row_dict(each)})
                return
            show(_table(each, time.monotonic() - begun))
            if each.closed and each.number != seen[0]:
                seen[0] = each.number
                screen.event({"event": "generation", **generation_dict(each)})
                if not screen.is_terminal:
                    screen.print(_line(each))

        yield report


def _line(now: Generation) -> str:
    """Return one line about a generation."""
    trust = _trust(now)
    return (
        f"generation {now.number}: {now.evaluations} strategies, best {now.best:.5f}, front "
        f"{now.front}, {now.screened} screened{trust}, {now.seconds:.0f} s"
    )


def _trust(now: Generation) -> str:
    """Say how far predictions can be trusted, where that is known."""
    known = not math.isnan(now.rank_correlation)
    return f", rank correlation {now.rank_correlation:.2f}" if known else ""


def _table(now: Generation, seconds: float) -> Any:
    """Return the live display."""
    from rich.table import Table  # noqa: PLC0415

    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in _facts(now, seconds):
        table.add_row(f"[dim]{name}[/dim]", value)
    return table


def _facts(now: Generation, seconds: float) -> Iterator[tuple[str, str]]:
    """Yield what there is to know."""
    rate = now.evaluations / seconds if seconds else 0.0
    yield "search", now.name
    yield "strategies", f"{now.evaluations}{f'/{now.limit}' if now.limit else ''}, {rate:.1f}/s"
    yield "best", f"{now.best:.5f}"
    yield "front", str(now.front)
    if now.screened:
        yield "screened", f"{now.screened} in this generation{_trust(now)}"
    left = []
    if now.budget is not None:
        left.append(max(now.budget - seconds, 0.0))
    if now.limit is not None and rate:
        left.append((now.limit - now.evaluations) / rate)
    yield "time", f"{seconds:.0f} s{f', {min(left):.0f} s left' if left else ''}"
