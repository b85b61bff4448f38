"""The names there are, each with one line."""

import inspect
from typing import Any

from onnxq.metrics import METRICS
from onnxq.ranges import RANGES
from onnxq.registry import known
from onnxq.targets import names, target


def catalogue() -> dict[str, dict[str, str]]:
    """Return kind to name to summary."""
    return {
        "targets": {name: target(name).summary for name in names()},
        "ranges": {name: _summary(entry) for name, entry in known("ranges", RANGES).items()},
        "metrics": {name: _summary(entry) for name, entry in known("metrics", METRICS).items()},
        "readers": {name: _summary(entry) for name, entry in sorted(known("readers").items())},
    }


def _summary(entry: Any) -> str:
    """Return the first line of the docstring of a class or of an entry point's class."""
    cls = entry.load() if hasattr(entry, "load") else entry
    return (inspect.getdoc(cls) or "").split("\n", 1)[0]
