"""What the stages tell: progress on the way, and what they did or measured at the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # calibration, which tells its progress only, is spared loading all this
    from onnxq.comparison import Comparison, Latency
    from onnxq.emit.qdq import Emitted
    from onnxq.layers import Layer
    from onnxq.passes import PassReport
    from onnxq.plan import Plan
    from onnxq.reordering import Reordering
    from onnxq.repairs import Repaired

SIDECARS = (".json", ".npz")  # what the names of an emitter's table and its arrays end with


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a stage has come.

    Attributes:
        done: Samples so far.
        total: Samples in all, None where the reader cannot tell.
    """

    done: int
    total: int | None = None


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """What `quantize` did.

    Attributes:
        path: The file written.
        plan: What became of every node and tensor.
        emitted: What was written.
        repairs: What was fitted on samples.
        passes: What the structural passes did.
        opset: Operator set before and after.
        onnxruntime: First onnxruntime release that loads the result.
        sizes: Bytes of the float model and of the result, external data included.
        check: Result against float model on the kept samples; None without samples.
        latency: Time for one sample of both models; None without samples or for large models.
        layers: Where the result is far from the float model: its layers, worst first.
        reordering: What became of the order of the channels; None where none was asked for.
    """

    path: Path
    plan: Plan
    emitted: Emitted
    repairs: Repaired
    passes: tuple[PassReport, ...]
    opset: tuple[int, int]
    onnxruntime: str
    sizes: tuple[int, int]
    check: Comparison | None
    latency: Latency | None = None
    layers: tuple[Layer, ...] = ()
    reordering: Reordering | None = None


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What `compare` measured.

    Attributes:
        comparison: How near the outputs are.
        sizes: Bytes of both models, external data included.
        latency: Time of both, where asked for.
        layers: Every layer, worst first, where asked for.
    """

    comparison: Comparison
    sizes: tuple[int, int]
    latency: Latency | None
    layers: tuple[Layer, ...] | None = None
