"""What the layers of a model cost to run, in shapes that really occur."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from onnxq.graph.io import Constant, Model
from onnxq.graph.query import TensorType, label
from onnxq.graph.session import Runtime
from onnxq.graph.summary import multiply_adds, observed_types
from onnxq.plan import Plan
from onnxq.readers import Feed

FLOAT_BYTES = 4
PER_VALUE = 32  # multiply-adds in the time of converting a value, see onnxq.worth


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one node costs, for one sample.

    Attributes:
        macs: Multiply-adds; 0 for operators that are not made of them.
        values: Elements it writes.
        weight_bytes: Bytes of the constants it quantizes, as floats.
    """

    macs: int
    values: int
    weight_bytes: int

    @property
    def work(self) -> float:
        """Multiply-adds, those included in whose time what it writes is converted."""
        return self.macs + PER_VALUE * self.values


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What the nodes of a model cost.

    Attributes:
        nodes: By label, all that are quantized or made of multiply-adds.
    """

    nodes: Mapping[str, Cost]

    @property
    def macs(self) -> int:
        """Multiply-adds of the model."""
        return sum(cost.macs for cost in self.nodes.values())

    def share(self, macs: int) -> float:
        """Return a share of all multiply-adds; 0 where there are none."""
        return macs / self.macs if self.macs else 0.0

    def of(self, name: str) -> Cost:
        """Return the cost of a node; nothing for one that is not known."""
        return self.nodes.get(name, Cost(macs=0, values=0, weight_bytes=0))

    def integer(self, plan: Plan, lifted: frozenset[str] = frozenset()) -> int:
        """Return the multiply-adds a plan computes on integers, some layers left out."""
        names = {node.label for node in plan.nodes.values() if node.quantized} - lifted
        return sum(self.of(name).macs for name in names)


def costs(model: Model, plan: Plan, feed: Feed, runtime: Runtime) -> Costs:
    """Count what every node costs for one sample.

    Args:
        model: The prepared model.
        plan: What becomes of it.
        feed: One sample, which shows the shapes that the model leaves open.
        runtime: How to run the model.

    Raises:
        ModelError: The model cannot run.
    """
    quantized = {node.output for node in plan.nodes.values() if node.quantized}
    types = observed_types(model, quantized, feed, runtime)
    macs = multiply_adds(model, types)
    found = {}
    for node in model.graph.nodes:
        key = node.outputs[0].name if node.outputs else ""
        name = label(node)
        if key not in quantized and name not in macs:
            continue
        weights = [node.inputs[weight.index] for weight in plan.nodes[key].weights]
        elements = sum(math.prod(w.shape) for w in weights if isinstance(w, Constant))
        found[name] = Cost(
            macs=macs.get(name) or 0,
            values=_elements(types.get(key)),
            weight_bytes=FLOAT_BYTES * elements,
        )
    return Costs(nodes=found)


def _elements(found: TensorType | None) -> int:
    """Return how many elements a tensor has; 0 where that is not known."""
    shape = found.shape if found is not None else None
    known = [size for size in shape if size is not None] if shape is not None else []
    return math.prod(known) if shape is not None and len(known) == len(shape) else 0
