"""Look at a model, and at what would become of it, without quantizing it.

`summary` needs no onnxruntime; `planned` does where constants have to be computed beforehand.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnxq.emit.qdq import required_opset
from onnxq.graph import io
from onnxq.graph.query import tensor_types
from onnxq.graph.session import Runtime
from onnxq.graph.summary import Summary, multiply_adds, summarize
from onnxq.movable import Movable
from onnxq.passes import PassReport
from onnxq.passes.hoist_constants import hoist_constants
from onnxq.passes.prepare import prepare
from onnxq.plan import Plan, resolve
from onnxq.planning import check_size
from onnxq.recipe import Recipe
from onnxq.reordering import is_reordered, reach_of
from onnxq.rescaling import rescaled
from onnxq.targets import target


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What would become of a model.

    Attributes:
        plan: Every node and every quantized tensor, with reasons.
        opset: Operator set of the model, and of the result.
        needs: What needs that operator set.
        macs: Label of a node to its multiply-adds, None where the shapes do not tell.
        passes: What the structural passes did before.
        reach: What an order of the channels can change; None where none was asked for.
    """

    plan: Plan
    opset: tuple[int, int]
    needs: str
    macs: Mapping[str, int | None]
    passes: tuple[PassReport, ...]
    reach: Movable | None = None

    @property
    def covered(self) -> float | None:
        """Share of the known multiply-adds in quantized nodes; None where none are known."""
        quantized = {node.label for node in self.plan.nodes.values() if node.quantized}
        known = {name: count for name, count in self.macs.items() if count}
        total = sum(known.values())
        inside = sum(count for name, count in known.items() if name in quantized)
        return inside / total if total else None


def summary(path: Path) -> Summary:
    """Summarize a model file.

    Raises:
        ModelError: The file is no valid model.
    """
    model = io.load(path)
    hoist_constants(model)
    return summarize(model)


def planned(path: Path, recipe: Recipe) -> Planned:
    """Plan a model as `onnxq.pipeline.quantize` does, as far as that is possible without data.

    Raises:
        ModelError: The file is no valid model, or holds nothing to quantize.
        RecipeError: The recipe means nothing here.
        UnsupportedError: The target cannot express the recipe.
    """
    check_size(recipe)
    model = io.load(path)
    before = model.opset
    passes = [*prepare(model), *rescaled(model, recipe, (), Runtime())]
    plan = resolve(model, target(recipe.target or "cpu"), recipe)
    needed, needs = required_opset(plan)
    return Planned(
        plan=plan,
        opset=(before, max(before, needed)),
        needs=needs if needed > before else "",
        macs=multiply_adds(model, tensor_types(model)),
        passes=tuple(passes),
        reach=reach_of(model, plan) if is_reordered(recipe) else None,
    )
