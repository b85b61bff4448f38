"""Emitters: write a plan and its parameters into a graph."""

from collections.abc import Mapping

from onnxq.emit.biases import Weights, fit_biases
from onnxq.emit.crossbar import emit_crossbar
from onnxq.emit.fixed_point import emit_fixed_point
from onnxq.emit.qdq import Emitted, emit_qdq
from onnxq.graph.io import Model
from onnxq.plan import Plan
from onnxq.types import QuantParams


def emit(
    model: Model, plan: Plan, activations: Mapping[str, QuantParams], weights: Weights
) -> Emitted:
    """Write a plan into its model, in place, in the form its target wants.

    Args:
        model: The prepared model the plan was made for.
        plan: What becomes of every node and tensor.
        activations: Parameters of every activation of the plan, by tensor name.
        weights: Parameters of every weight, by first output of the node and input index.

    Returns:
        What was written.
    """
    emitter = emit_qdq
    if plan.target.power_of_two:
        emitter = emit_fixed_point
    if plan.target.tiled:
        emitter = emit_crossbar
    return emitter(model, plan, activations, fit_biases(model, plan, activations, weights))
