"""The rows as a table for the terminal, as Markdown, and as JSON."""

import json
import math
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Row
from benchmarks.metrics import Change

LEAST_WIDTH = 170  # columns, where the output is no terminal
PACKAGES = ("onnx", "onnxruntime", "numpy")
HEADINGS = (
    "model",
    "tool",
    "float → quantized [95 % of the difference]",
    "agree",
    "SQNR dB",
    "cosine",
    "size",
    "latency b1",
    "latency b8",
    "seconds",
    "RSS MB",
)


def print_table(rows: Sequence[Row]) -> None:
    """Print the rows to standard output."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=LEAST_WIDTH)
    table = Table(*HEADINGS)
    for row in rows:
        table.add_row(*(cell.replace("[", r"\[") for cell in _cells(row, "\n")))
    console.print(table)


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [HEADINGS, ["---"] * len(HEADINGS)]
    lines += [[cell.replace("|", r"\|") for cell in _cells(row, "<br>")] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(row: Row, newline: str) -> list[str]:
    """Return the cells of a row; what is not known is a dash."""
    latency = row.latency or {}
    outcome = None if row.outcome is None or row.outcome.error else row.outcome
    metrics = newline.join(_metric(change) for change in row.changes)
    return [
        row.model,
        row.tool,
        " ".join(row.error.split()) if row.error else metrics,
        _number(row.agreement, 3),
        _number(row.sqnr, 1),
        _number(row.cosine, 4),
        _number(row.size, 2),
        _number(latency.get(1), 2),
        _number(latency.get(8), 2),
        _number(outcome.seconds if outcome else None, 1),
        _number(outcome.rss_mb if outcome else None, 0),
    ]


def _metric(change: Change) -> str:
    """Spell a metric with its interval."""
    both = f"{change.name} {change.before:.4f} → {change.after:.4f}"
    return f"{both} [{change.low:+.4f}, {change.high:+.4f}]"


def _number(value: float | None, digits: int) -> str:
    """Spell a number."""
    return "–" if value is None else f"{value:.{digits}f}"


def write(rows: Sequence[Row], settings: dict[str, Any], folder: Path) -> None:
    """Write ``benchmark.json`` and ``benchmark.md``.

    Args:
        rows: The rows so far.
        settings: What was asked for.
        folder: Where the files go; made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "settings": settings,
        "environment": environment(),
        "rows": [asdict(row) for row in rows],
    }
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, default=str)
    (folder / "benchmark.json").write_text(text + "\n", encoding="utf-8")
    (folder / "benchmark.md").write_text(markdown(rows), encoding="utf-8")


def _finite(value: Any) -> Any:
    """Return a value with None for each number JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def environment() -> dict[str, Any]:
    """Say what ran the benchmark."""
    return {
        "python": sys.version.split()[0],
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "versions": {package: version(package) for package in PACKAGES},
    }


def _processor() -> str:
    """Return the processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
