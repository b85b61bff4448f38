"""Parameters of biases, and of the weights that have to make room for them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from onnxq.graph.io import Model, Node, array_of
from onnxq.numerics.bias import bias_params, fitting_scale
from onnxq.numerics.fixed_point import power_above
from onnxq.numerics.tiles import reduce
from onnxq.plan import NodePlan, Plan
from onnxq.types import QuantParams

Weights = Mapping[tuple[str, int], QuantParams]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What is used for constants.

    Attributes:
        weights: Parameters by first output of the node and input index.
        biases: Parameters by first output of the node, where it has a bias to quantize.
        raised: Node label to the number of weight scales raised so that the bias fits int32.
    """

    weights: Weights
    biases: Mapping[str, QuantParams]
    raised: Mapping[str, int]


def fit_biases(
    model: Model, plan: Plan, activations: Mapping[str, QuantParams], weights: Weights
) -> Fitted:
    """Give every bias the accumulator's scale, raising weight scales where it does not fit."""
    nodes = {node.outputs[0].name: node for node in model.graph.nodes if node.outputs}
    fitted, biases, raised = dict(weights), {}, {}
    for node_plan in plan.nodes.values():
        if node_plan.bias is None:
            continue
        node = nodes[node_plan.output]
        key = node_plan.output, node_plan.weights[0].index
        input_scale = activations[node.inputs[0].name].scale
        params = _fitting(node, node_plan, weights[key], activations[node.inputs[0].name], plan)
        count = int((params.scale > weights[key].scale).sum())
        if count:
            raised[node_plan.label] = count
        fitted[key] = params
        biases[node_plan.output] = bias_params(params.scale.reshape(-1), input_scale)
    return Fitted(weights=fitted, biases=biases, raised=raised)


def _fitting(
    node: Node, node_plan: NodePlan, params: QuantParams, read: QuantParams, plan: Plan
) -> QuantParams:
    """Return the parameters of a weight with which the bias of its node fits."""
    assert node_plan.bias is not None
    weight = array_of(node.inputs[node_plan.weights[0].index])
    empty = reduce(weight, params.tile, lambda part: float(not part.any())) == 1
    before, bias = params.scale.reshape(-1), array_of(node.inputs[node_plan.bias])
    scale = fitting_scale(before, empty.reshape(-1), read.scale, bias)
    if plan.target.power_of_two:
        scale = power_above(scale)
    return replace(params, scale=scale.reshape(params.scale.shape))
