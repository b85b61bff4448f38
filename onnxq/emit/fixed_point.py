"""Write a plan with powers of two: a graph that computes it, and positions for a chip's tools.

Every quantized node tells in its ``metadata_props``, besides the graph around it::

    onnxq.input.0.position = 5     onnxq.input.0.bits = 8      an activation it reads
    onnxq.weight.1.position = 7    onnxq.weight.1.bits = 8     a constant; with commas, by channel
    onnxq.bias.2.position = 12     onnxq.bias.2.bits = 32      the accumulator's position
    onnxq.output.0.position = 4    onnxq.output.0.bits = 8     behind the Relu or Clip it absorbs
    onnxq.rounding = half-even     of the shift from the accumulator to the output

The numbers before ``position`` are indices of inputs and outputs. Graph inputs, and what float
operators write, are rounded half to even. ``quantization_annotation`` names scale and zero point
of every quantized tensor. Without Q and DQ the graph stays float, weights and biases snapped to
their grids.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from onnxq.emit.biases import Fitted
from onnxq.emit.qdq import Emitted, emit_qdq
from onnxq.graph.edit import Names, add_metadata, set_inputs
from onnxq.graph.io import Model, Node, array_of, constant
from onnxq.graph.opset import METADATA_IR, raise_ir
from onnxq.graph.query import output_channel_axis
from onnxq.numerics.affine import fake_quantize, quantize
from onnxq.numerics.fixed_point import positions, worst_sums
from onnxq.plan import NodePlan, Plan
from onnxq.types import Array, QuantParams

ACCUMULATOR = 1 << 31  # a sum as large as this overflows int32


def emit_fixed_point(
    model: Model, plan: Plan, activations: Mapping[str, QuantParams], fitted: Fitted
) -> Emitted:
    """Write the plan into the model, in place.

    Args:
        model: The prepared model the plan was made for.
        plan: What becomes of every node and tensor.
        activations: Parameters of every activation of the plan, by tensor name.
        fitted: Parameters of weights and biases.

    Returns:
        What was written, with the table of positions.
    """
    nodes = {node.outputs[0].name: node for node in model.graph.nodes if node.outputs}
    rows = []
    for node_plan in plan.nodes.values():
        if node_plan.quantized:
            node = nodes[node_plan.output]
            rows.append(_row(node, node_plan, plan, activations, fitted))
            add_metadata(node, _metadata(rows[-1], plan.rounding))
    if plan.qdq:
        emitted = emit_qdq(model, plan, activations, fitted)
    else:
        emitted = _snap(model, plan, nodes, fitted)
    raise_ir(model.proto, METADATA_IR)
    table = {
        "format": "onnxq fixed point 1",
        "target": plan.target.name,
        "rounding": plan.rounding,
        "tensors": {name: _value(params) for name, params in activations.items()},
        "nodes": rows,
    }
    over = tuple(row["name"] for row in rows if row.get("worst_accumulator", 0) >= ACCUMULATOR)
    return replace(emitted, table=table, overflowing=over)


def _value(params: QuantParams) -> dict[str, Any]:
    """Return position and bits as plain values."""
    found = positions(params)
    return {
        "position": found.reshape(-1).tolist() if params.tile else int(found),
        "bits": params.dtype.bits,
    }


def _row(
    node: Node,
    node_plan: NodePlan,
    plan: Plan,
    activations: Mapping[str, QuantParams],
    fitted: Fitted,
) -> dict[str, Any]:
    """Return what the table says of one node."""
    constants = {weight.index for weight in node_plan.weights}
    read = {
        index: tensor.name
        for index, tensor in enumerate(node.inputs)
        if tensor.name in activations and index not in constants
    }
    row: dict[str, Any] = {
        "name": node_plan.label,
        "op": node_plan.op,
        "input": {i: {"tensor": name, **_value(activations[name])} for i, name in read.items()},
        "weight": {
            i: {"tensor": node.inputs[i].name, **_value(fitted.weights[node_plan.output, i])}
            for i in sorted(constants)
        },
    }
    if node_plan.bias is not None:
        bias = {"tensor": node.inputs[node_plan.bias].name}
        row["bias"] = {node_plan.bias: {**bias, **_value(fitted.biases[node_plan.output])}}
    result = _result(node, plan, activations)
    if result:
        row["output"] = {0: {"tensor": result, **_value(activations[result])}}
    if plan.target.ops[node_plan.op].role == "compute" and constants and read:
        row["worst_accumulator"] = _worst(node, node_plan, activations, fitted)
    return row


def _result(node: Node, plan: Plan, activations: Mapping[str, QuantParams]) -> str:
    """Return the quantized tensor a node writes, behind the activation it absorbs, or nothing."""
    tensor = node.outputs[0]
    if tensor.name not in activations and len(tensor.outputs) == 1:
        behind = tensor.outputs[0]
        if behind.op in plan.target.absorbs:
            tensor = behind.outputs[0]
    return str(tensor.name) if tensor.name in activations else ""


def _worst(
    node: Node, node_plan: NodePlan, activations: Mapping[str, QuantParams], fitted: Fitted
) -> int:
    """Return the largest magnitude the accumulator of a node can reach."""
    (index,) = (weight.index for weight in node_plan.weights)
    codes = quantize(array_of(node.inputs[index]), fitted.weights[node_plan.output, index])
    bits = activations[node.inputs[1 - index].name].dtype.bits
    rank, groups = codes.ndim, node.attrs.get("group", 1)
    axis = output_channel_axis(node, index, rank)
    if node.op == "MatMul" and axis is None:
        axis, codes = 0, np.moveaxis(codes, -1 if index else max(rank - 2, 0), 0)
        codes = codes if rank > 1 else codes.reshape(1, -1)
    worst = worst_sums(codes, bits, axis, groups)
    if node_plan.bias is not None:
        bias = array_of(node.inputs[node_plan.bias])
        worst = worst + np.abs(quantize(bias, fitted.biases[node_plan.output]).astype(np.int64))
    return int(worst.max())


def _metadata(row: Mapping[str, Any], rounding: str) -> dict[str, str]:
    """Return the entries of a node."""
    entries = {}
    for role in ("input", "weight", "bias", "output"):
        for index, value in row.get(role, {}).items():
            position = value["position"]
            listed = position if isinstance(position, list) else [position]
            entries[f"onnxq.{role}.{index}.position"] = ",".join(map(str, listed))
            entries[f"onnxq.{role}.{index}.bits"] = str(value["bits"])
    return {**entries, "onnxq.rounding": rounding}


def _snap(model: Model, plan: Plan, nodes: Mapping[str, Node], fitted: Fitted) -> Emitted:
    """Replace weights and biases by their values on the grid; the graph stays float."""
    names, count = Names(model), 0
    for node_plan in plan.nodes.values():
        if not node_plan.quantized:
            continue
        node = nodes[node_plan.output]
        inputs = list(node.inputs)
        used = {w.index: fitted.weights[node_plan.output, w.index] for w in node_plan.weights}
        count += len(used)
        if node_plan.bias is not None:
            used[node_plan.bias] = fitted.biases[node_plan.output]
        for index, params in used.items():
            snapped: Array = fake_quantize(array_of(inputs[index]), params)
            inputs[index] = constant(names.new(f"{inputs[index].name}_snapped"), snapped)
        set_inputs(node, inputs)
    return Emitted(activations=0, weights=count, raised=fitted.raised)
