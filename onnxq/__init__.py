"""onnxq: float ONNX models to quantized ONNX models, offline and without training.

The command line and this module do the same; see `onnxq.pipeline` for what each step returns.
Names are loaded when first used, since models and runtimes are slow to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxq.calibrating import Collection, calibrate
    from onnxq.errors import OnnxqError
    from onnxq.feeds import Cut
    from onnxq.graph.session import Runtime
    from onnxq.pipeline import compare, quantize
    from onnxq.recipe import NodeRule, Recipe, TensorRule
    from onnxq.search.anneal import anneal
    from onnxq.search.auto import auto
    from onnxq.search.cooling import Cooling
    from onnxq.search.evolve import evolve
    from onnxq.search.lift import lift
    from onnxq.search.lifting import Bounds, Lifting
    from onnxq.search.searching import Searching
    from onnxq.search.sensitivity import sensitivity
    from onnxq.search.settings import Tuning
    from onnxq.search.tune import tune
    from onnxq.sources import Source

__all__ = [
    "Bounds",
    "Collection",
    "Cooling",
    "Cut",
    "Lifting",
    "NodeRule",
    "OnnxqError",
    "Recipe",
    "Runtime",
    "Searching",
    "Source",
    "TensorRule",
    "Tuning",
    "anneal",
    "auto",
    "calibrate",
    "compare",
    "evolve",
    "lift",
    "quantize",
    "sensitivity",
    "tune",
]

_HOME = {
    "Bounds": "search.lifting",
    "Collection": "calibrating",
    "Cooling": "search.cooling",
    "Cut": "feeds",
    "Lifting": "search.lifting",
    "NodeRule": "recipe",
    "OnnxqError": "errors",
    "Recipe": "recipe",
    "Runtime": "graph.session",
    "Searching": "search.searching",
    "Source": "sources",
    "TensorRule": "recipe",
    "Tuning": "search.settings",
    "anneal": "search.anneal",
    "auto": "search.auto",
    "calibrate": "calibrating",
    "compare": "pipeline",
    "evolve": "search.evolve",
    "lift": "search.lift",
    "quantize": "pipeline",
    "sensitivity": "search.sensitivity",
    "tune": "search.tune",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'onnxq' has no attribute {name!r}")
    return getattr(import_module(f"onnxq.{_HOME[name]}"), name)
