"""Write a plan as QuantizeLinear/DequantizeLinear pairs.

Before:
    y = Conv(x, W, b)

After:
    xq = QuantizeLinear(x, sx, zx)        x' = DequantizeLinear(xq, sx, zx)
    W' = DequantizeLinear(Wq, sw, zw)     b' = DequantizeLinear(bq, sx·sw)
    t  = Conv(x', W', b')
    yq = QuantizeLinear(t, sy, zy)        y  = DequantizeLinear(yq, sy, zy)

A runtime fuses such a group into one integer operator. Where an integer operator writes a
tensor, every reader reads the dequantized one, since no other will exist; where a float
operator writes it, only integer readers do. Graph inputs and outputs keep their names.

A pair with one scale a channel stands between operators that do nothing::

    y  = Max(DequantizeLinear(QuantizeLinear(Max(t), sy, zy), sy, zy))

Before 1.32 onnxruntime does not look at the number of scales before it fuses: without them it makes
QLinearAdd, QLinearAveragePool or MatMulIntegerToFloat of such groups, which fail to load or to
run. The weights of a Gemm or MatMul that reads such a tensor get a Max too: it would become
MatMulNBits, which rounds its input once more, to 8 bits a row. The bias of a Conv, ConvTranspose
or Gemm that does stays float, since no one scale is that of the accumulator.

Weights of nodes whose activations stay float get a Max for the same reason, but those in blocks,
which have other operators behind them (`onnxq.emit.blocks`), and those that MatMulNBits shall be
made of. The bias of a node with weights in blocks stays float.

QuantizeLinear saturates at the type codes are stored in and rounds half to even. Where codes are
narrower than that, a Clip to the ends of the grid comes before it; where a chip rounds otherwise,
operators that do so exactly (`onnxq.emit.grid`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxq.emit.biases import Fitted
from onnxq.emit.blocks import Step, attributes, block_steps
from onnxq.emit.constants import Place, Stored, constant_values, element_type, pair_values
from onnxq.emit.grid import grid_steps
from onnxq.graph.edit import Names, annotate, set_inputs
from onnxq.graph.io import Model, array_of, constant
from onnxq.numerics.saturation import saturating_pairs
from onnxq.numerics.tiles import is_blocked
from onnxq.plan import NodePlan, Plan
from onnxq.targets import Target
from onnxq.types import Array, IntType, MatrixView, QuantParams

WEIGHT_ONLY = ("Gemm", "MatMul")  # what onnxruntime has kernels for float times integer for
PLAIN = ("int8", "uint8", "int32")  # element types of the first quantized operator sets
TYPED = 21  # operator set from which QuantizeLinear may spell the type of its codes
INT8 = IntType(8, signed=True)
MOVING = ("MaxPool", "Reshape", "Flatten", "Slice", "Squeeze", "Transpose", "Unsqueeze")


@dataclass(frozen=True, kw_only=True)
class Emitted:
    """What an emitter reports.

    Attributes:
        activations: How many activations were quantized.
        weights: How many weights.
        raised: Node label to the number of weight scales raised so that the bias fits int32.
        saturating: Pairs of weights that can saturate on CPUs without VNNI, and pairs in all.
        overflowing: Labels of nodes whose accumulator can overflow int32.
        table: What a chip's tools need to know, as plain values: positions of all tensors and
            nodes, or the map of all tiles; None on other targets.
        arrays: What the table has by name.
        places: Where the constants of each activation and each quantized constant are.
    """

    activations: int
    weights: int
    raised: Mapping[str, int] = field(default_factory=dict)
    saturating: tuple[int, int] = (0, 0)
    overflowing: tuple[str, ...] = ()
    table: Mapping[str, Any] | None = None
    arrays: Mapping[str, Array] = field(default_factory=dict)
    places: Mapping[Place, Stored] = field(default_factory=dict)


def required_opset(plan: Plan) -> tuple[int, str]:
    """Return the operator set a plan needs, and what needs it."""
    stored = [(each.spec, False) for each in plan.activations.values()]
    nodes = plan.nodes.values()
    stored += [(weight.spec, node.weight_only) for node in nodes for weight in node.weights]
    odd = [
        spec.dtype.name
        for spec, alone in stored
        if element_type(spec.dtype, packed=plan.target.packs(alone=alone)).name not in PLAIN
    ]
    specs = [spec for spec, _ in stored]
    if odd and plan.qdq:
        return 21, odd[0]
    if not plan.qdq:
        return 7, "float"
    if plan.target.power_of_two:
        return 13, "fixed point"
    if any(spec.matrix is not None or is_blocked(spec.tile) for spec in specs):
        return 21, "scales of tiles" if plan.target.tiled else "blocks of weights"
    if any(weight.spec.tile for node in plan.nodes.values() for weight in node.weights):
        return 13, "per-channel weights"
    return (13, "per-channel activations") if any(s.tile for s in specs) else (10, "int8")


def emit_qdq(
    model: Model, plan: Plan, activations: Mapping[str, QuantParams], fitted: Fitted
) -> Emitted:
    """Write the plan into the model, in place.

    Args:
        model: The prepared model the plan was made for.
        plan: What becomes of every node and tensor.
        activations: Parameters of every activation of the plan, by tensor name.
        fitted: Parameters of weights and biases.

    Returns:
        What was written.
    """
    nodes = {node.outputs[0].name: node for node in model.graph.nodes if node.outputs}
    integer = [node_plan for node_plan in plan.nodes.values() if node_plan.quantized]
    readers = {id(nodes[each.output]) for each in integer if not each.weight_only}
    tensors = model.graph.tensors()
    writer = _Writer(model, plan.target)
    for node_plan in integer:
        _emit_weights(writer, nodes[node_plan.output], node_plan, activations, fitted)
    for name, params in activations.items():
        if plan.activations[name].written:
            shifted = plan.rounding if _is_shifted(tensors[name], plan.target) else "half-even"
            _emit_written(writer, tensors[name], params, shifted)
            if model.opset >= TYPED and params.dtype == INT8:
                _keep_apart(writer, tensors[name], readers)
        elif not plan.activations[name].carried:
            before = _guarded(writer, tensors[name], plan.target)
            _emit_read(writer, tensors[name], before, params, readers)
    if plan.target.power_of_two:
        annotate(model, writer.annotations)
    count = sum(len(node_plan.weights) for node_plan in integer)
    return Emitted(
        activations=len(activations),
        weights=count,
        raised=fitted.raised,
        saturating=writer.saturating,
        places=writer.places,
    )


def _is_shifted(tensor: gs.Tensor, target: Target) -> bool:
    """Say whether an integer operator shifts what it writes to another grid."""
    rule = target.ops.get(tensor.inputs[0].op)
    return rule is None or not rule.moves


def _emit_weights(
    writer: "_Writer",
    node: gs.Node,
    plan: NodePlan,
    activations: Mapping[str, QuantParams],
    fitted: Fitted,
) -> None:
    """Replace the constants of one node."""
    if plan.bias is not None:
        place = plan.output, plan.bias
        bias = node.inputs[plan.bias]
        node.inputs[plan.bias] = writer.dequantized(place, bias, fitted.biases[plan.output])
    for weight in plan.weights:
        place = plan.output, weight.index
        params = fitted.weights[place]
        after = writer.dequantized(place, node.inputs[weight.index], params, alone=plan.weight_only)
        alone = node.op in WEIGHT_ONLY and _reads_channels(node, activations)
        plain = params.matrix is None and not is_blocked(params.tile)
        kept = plain and (plan.weight_only or alone)
        node.inputs[weight.index] = writer.copy(after) if kept else after


def _reads_channels(node: gs.Node, activations: Mapping[str, QuantParams]) -> bool:
    """Say whether a node reads an activation with one scale a channel."""
    return any(t.name in activations and activations[t.name].tile for t in node.inputs)


def _emit_written(writer: "_Writer", tensor: gs.Tensor, params: QuantParams, rounding: str) -> None:
    """Put a pair of Q and DQ behind what an integer operator writes, in front of all readers."""
    before = gs.Variable(writer.names.new(f"{tensor.name}_float"))
    tensor.inputs[0].outputs[0] = before
    writer.pair(tensor.name, before, tensor, params, rounding)


def _keep_apart(writer: "_Writer", tensor: gs.Tensor, integer: set[int]) -> None:
    """Let float operators that only move values read a copy of what an integer operator writes.

    onnxruntime puts pairs of its own behind these, with the element type of the codes spelled out
    where the operator set has it, then turns signed codes into unsigned ones but for that spelling,
    and refuses what it has made.
    """
    moving = [node for node in tensor.outputs if node.op in MOVING and id(node) not in integer]
    if moving:
        after = writer.copy(tensor)
        for node in moving:
            set_inputs(node, [after if read is tensor else read for read in node.inputs])


def _guarded(writer: "_Writer", tensor: gs.Tensor, target: Target) -> gs.Tensor:
    """Return what to quantize: the tensor, or a copy behind an operator that does nothing.

    onnxruntime quantizes the float weights of a Conv that stands between DequantizeLinear and
    QuantizeLinear, one scale for all of them. A Max of one tensor in between prevents that. Weights
    that are computed are no danger.
    """
    producer = tensor.inputs[0] if tensor.inputs else None
    while producer is not None and producer.op in target.absorbs:
        producer = producer.inputs[0].inputs[0] if producer.inputs[0].inputs else None
    if producer is None or producer.op not in target.guards:
        return tensor
    return writer.copy(tensor) if isinstance(producer.inputs[1], gs.Constant) else tensor


def _emit_read(
    writer: "_Writer",
    tensor: gs.Tensor,
    before: gs.Tensor,
    params: QuantParams,
    integer: set[int],
) -> None:
    """Put a pair of Q and DQ on what float operators or the user write, for integer readers."""
    after = gs.Variable(writer.names.new(f"{tensor.name}_dequantized"))
    for node in list(tensor.outputs):
        if id(node) in integer:
            set_inputs(node, [after if read is tensor else read for read in node.inputs])
    writer.pair(tensor.name, before, after, params)


class _Writer:
    """Adds nodes and constants to a model; equal constants are written once.

    Attributes:
        names: Gives out tensor names that are free.
        saturating: Pairs of weights at risk on CPUs without VNNI, and pairs in all.
        annotations: Scale and zero point, by the name of the tensor or of the codes of a constant.
        places: Where constants are.
    """

    def __init__(self, model: Model, target: Target) -> None:
        """Start without any."""
        self.names = Names(model)
        self._model = model
        self._target = target
        self._written: dict[tuple[object, ...], tuple[gs.Variable, Stored]] = {}
        self._tables: dict[Step, gs.Constant] = {}
        self.saturating = (0, 0)
        self.annotations: dict[str, list[gs.Constant]] = {}
        self.places: dict[Place, Stored] = {}

    def dequantized(
        self, place: Place, tensor: gs.Constant, params: QuantParams, *, alone: bool = False
    ) -> gs.Variable:
        """Store a constant quantized and return its dequantized tensor.

        Args:
            place: What it is.
            tensor: The constant.
            params: Its parameters.
            alone: Whether it is multiplied with floats.
        """
        values = params.scale.tobytes(), params.zero_point.tobytes()
        key = (tensor.name, alone, params.dtype, params.tile, params.matrix, *values)
        if key not in self._written:
            packed = self._target.packs(alone=alone)
            codes, *used = constant_values(array_of(tensor), params, packed=packed)
            if not alone:
                self._count_saturating(codes, params)
            stored = constant(self.names.new(f"{tensor.name}_quantized"), codes)
            after = gs.Variable(self.names.new(f"{tensor.name}_dequantized"))
            parameters = self._parameters(tensor.name, used)
            self._add("DequantizeLinear", [stored, *parameters], after, params)
            if params.matrix is not None:
                after = self._unfolded(after, params.matrix, tensor)
            self.annotations[stored.name] = parameters
            self._written[key] = after, Stored(tuple(c.name for c in (stored, *parameters)))
        after, self.places[place] = self._written[key]
        return after

    def _unfolded(self, rows: gs.Variable, view: MatrixView, weight: gs.Constant) -> gs.Variable:
        """Write what brings dequantized blocks into the shape of their weight."""
        before = rows
        for step in block_steps(view, tuple(weight.shape)):
            after = gs.Variable(self.names.new(f"{rows.name}_{step.op.lower()}"))
            inputs: list[gs.Tensor] = [before]
            attrs: dict[str, Any] = {}
            if step.op == "Transpose":
                attrs = {"perm": list(step.to)}
            elif step.op == "Reshape":
                shape = np.array(step.to, np.int64)
                inputs.append(constant(self.names.new(f"{after.name}_to"), shape))
            else:
                inputs.append(self._table(step, weight.name))
                attrs = {"axis": step.axis}
            name = f"{after.name}_{step.op}"
            node = gs.Node(step.op, name=name, attrs=attrs, inputs=inputs, outputs=[after])
            self._model.graph.nodes.append(node)
            before = after
        return self.copy(rows) if before is rows else before

    def _table(self, step: Step, weight: str) -> gs.Constant:
        """Store where the rows or columns of a weight are found; equal tables are stored once."""
        if step not in self._tables:
            name = self.names.new(f"{weight}_{'row' if step.axis else 'column'}_index")
            self._tables[step] = constant(name, np.array(step.to, np.int64))
        return self._tables[step]

    def _count_saturating(self, codes: Array, params: QuantParams) -> None:
        """Note how many pairs of weights CPUs without VNNI could saturate on."""
        if codes.dtype == np.int8 and codes.ndim >= 2 and params.matrix is None:
            axis = params.tile.index(1) if params.tile else 0
            found = saturating_pairs(codes, axis)
            self.saturating = (self.saturating[0] + found[0], self.saturating[1] + found[1])

    def copy(self, tensor: gs.Tensor) -> gs.Variable:
        """Return a copy of a tensor, made by an operator no runtime fuses."""
        after = gs.Variable(self.names.new(f"{tensor.name}_kept_float"))
        self._copy(tensor, after)
        return after

    def _copy(self, before: gs.Tensor, after: gs.Tensor) -> None:
        """Write the operator that copies one tensor to another."""
        node = gs.Node("Max", name=f"{after.name}_Max", inputs=[before], outputs=[after])
        self._model.graph.nodes.append(node)

    def pair(
        self,
        name: str,
        before: gs.Tensor,
        after: gs.Tensor,
        params: QuantParams,
        rounding: str = "half-even",
    ) -> None:
        """Write QuantizeLinear and DequantizeLinear of an activation between two tensors."""
        stem = after.name.removesuffix("_dequantized")
        *factors, scale, zero_point = pair_values(params, rounding, packed=self._target.packs())
        parameters = self._parameters(stem, [scale, zero_point])
        middle = gs.Variable(self.names.new(f"{stem}_quantized"))
        if params.tile:
            behind, after = after, gs.Variable(self.names.new(f"{stem}_by_channel"))
            before = self.copy(before)
            self._copy(after, behind)
        used: list[gs.Constant] = []
        for op, needed in grid_steps(params, rounding):
            stop = len(used) + len(needed)
            before, constants = self._step(op, before, stem, factors[len(used) : stop])
            used += constants
        self._add("QuantizeLinear", [before, *parameters], middle, params)
        self._add("DequantizeLinear", [middle, *parameters], after, params)
        self.annotations[name] = parameters
        self.places[name] = Stored(tuple(c.name for c in (*used, *parameters)), rounding)

    def _step(
        self, op: str, before: gs.Tensor, stem: str, factors: Sequence[Array]
    ) -> tuple[gs.Tensor, list[gs.Constant]]:
        """Write one operator that brings values closer to the grid; return its constants too."""
        after = gs.Variable(self.names.new(f"{stem}_{op.lower()}"))
        values = [
            constant(self.names.new(f"{after.name}_{i}"), value) for i, value in enumerate(factors)
        ]
        node = gs.Node(op, name=f"{after.name}_{op}", inputs=[before, *values], outputs=[after])
        self._model.graph.nodes.append(node)
        return after, values

    def _parameters(self, stem: str, values: Sequence[Array]) -> list[gs.Constant]:
        """Store scale and zero point."""
        endings = ("scale", "zero_point")[: len(values)]
        return [
            constant(self.names.new(f"{stem}_{ending}"), value)
            for ending, value in zip(endings, values, strict=True)
        ]

    def _add(
        self, op: str, inputs: list[gs.Tensor], output: gs.Tensor, params: QuantParams
    ) -> None:
        """Add one node."""
        attrs = attributes(params, inputs[0].shape)
        name = f"{output.name}_{op}"
        node = gs.Node(op, name=name, attrs=attrs, inputs=inputs, outputs=[output])
        self._model.graph.nodes.append(node)
