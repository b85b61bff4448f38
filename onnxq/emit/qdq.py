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

onnxruntime does not look at the number of scales before it fuses: without them it makes
QLinearAdd, QLinearAveragePool or MatMulIntegerToFloat of such groups, which fail to load or to
run. The weights of a Gemm or MatMul that reads such a tensor get a Max too: it would become
MatMulNBits, which rounds its input once more, to 8 bits a row. The bias of a Conv, ConvTranspose
or Gemm that does stays float, since no one scale is that of the accumulator.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs

from onnxq.graph.edit import Names, set_inputs
from onnxq.graph.io import Model, array_of, constant
from onnxq.numerics.affine import quantize, storage
from onnxq.numerics.bias import bias_params, fitting_scale
from onnxq.numerics.saturation import saturating_pairs
from onnxq.numerics.tiles import reduce
from onnxq.plan import NodePlan, Plan
from onnxq.targets import Target
from onnxq.types import Array, IntType, QuantParams

WEIGHT_ONLY = ("Gemm", "MatMul")  # what onnxruntime has kernels for float times integer for
PLAIN = ("int8", "uint8", "int32")  # element types of the first quantized operator sets


@dataclass(frozen=True, kw_only=True)
class Emitted:
    """What an emitter reports.

    Attributes:
        activations: How many activations were quantized.
        weights: How many weights.
        raised: Node label to the number of weight scales raised so that the bias fits int32.
        saturating: Pairs of weights that can saturate on CPUs without VNNI, and pairs in all.
    """

    activations: int
    weights: int
    raised: Mapping[str, int] = field(default_factory=dict)
    saturating: tuple[int, int] = (0, 0)


def required_opset(plan: Plan) -> tuple[int, str]:
    """Return the operator set a plan needs, and what needs it."""
    specs = [plan.spec for plan in plan.activations.values()]
    specs += [weight.spec for node in plan.nodes.values() for weight in node.weights]
    odd = [spec.dtype.name for spec in specs if _element_type(spec.dtype).name not in PLAIN]
    if odd:
        return 21, odd[0]
    if any(weight.spec.tile for node in plan.nodes.values() for weight in node.weights):
        return 13, "per-channel weights"
    return (13, "per-channel activations") if any(s.tile for s in specs) else (10, "int8")


def emit_qdq(
    model: Model,
    plan: Plan,
    activations: Mapping[str, QuantParams],
    weights: Mapping[tuple[str, int], QuantParams],
) -> Emitted:
    """Write the plan into the model, in place.

    Args:
        model: The prepared model the plan was made for.
        plan: What becomes of every node and tensor.
        activations: Parameters of every activation of the plan, by tensor name.
        weights: Parameters of every weight, by first output of the node and input index.

    Returns:
        What was written.
    """
    nodes = {node.outputs[0].name: node for node in model.graph.nodes if node.outputs}
    integer = [node_plan for node_plan in plan.nodes.values() if node_plan.quantized]
    quantized = {id(nodes[node_plan.output]) for node_plan in integer}
    tensors = model.graph.tensors()
    writer = _Writer(model)
    raised = {}
    for node_plan in integer:
        node = nodes[node_plan.output]
        changed = _emit_weights(writer, node, node_plan, activations, weights)
        if changed:
            raised[node_plan.label] = changed
    for name, params in activations.items():
        if plan.activations[name].written:
            _emit_written(writer, tensors[name], params)
        elif not plan.activations[name].carried:
            before = _guarded(writer, tensors[name], plan.target)
            _emit_read(writer, tensors[name], before, params, quantized)
    count = sum(len(node_plan.weights) for node_plan in integer)
    return Emitted(
        activations=len(activations), weights=count, raised=raised, saturating=writer.saturating
    )


def _emit_weights(
    writer: "_Writer",
    node: gs.Node,
    plan: NodePlan,
    activations: Mapping[str, QuantParams],
    weights: Mapping[tuple[str, int], QuantParams],
) -> int:
    """Replace the constants of one node; return how many weight scales its bias raised."""
    raised = 0
    for weight in plan.weights:
        params = weights[plan.output, weight.index]
        if plan.bias is not None:
            bias = node.inputs[plan.bias]
            input_scale = activations[node.inputs[0].name].scale
            before = params.scale.reshape(-1)
            empty = reduce(array_of(node.inputs[weight.index]), params.tile, np.any) == 0
            scale = fitting_scale(before, empty.reshape(-1), input_scale, array_of(bias))
            raised = int((scale > before).sum())
            params = replace(params, scale=scale.reshape(params.scale.shape))
            node.inputs[plan.bias] = writer.dequantized(bias, bias_params(scale, input_scale))
        after = writer.dequantized(node.inputs[weight.index], params)
        alone = node.op in WEIGHT_ONLY and _reads_channels(node, activations)
        node.inputs[weight.index] = writer.copy(after) if alone else after
    return raised


def _reads_channels(node: gs.Node, activations: Mapping[str, QuantParams]) -> bool:
    """Say whether a node reads an activation with one scale a channel."""
    return any(t.name in activations and activations[t.name].tile for t in node.inputs)


def _emit_written(writer: "_Writer", tensor: gs.Tensor, params: QuantParams) -> None:
    """Put a pair of Q and DQ behind what an integer operator writes, in front of all readers."""
    before = gs.Variable(writer.names.new(f"{tensor.name}_float"))
    tensor.inputs[0].outputs[0] = before
    writer.pair(before, tensor, params)


def _guarded(writer: "_Writer", tensor: gs.Tensor, target: Target) -> gs.Tensor:
    """Return what to quantize: the tensor, or a copy behind an operator that does nothing.

    onnxruntime quantizes the float weights of a Conv that stands between DequantizeLinear and
    QuantizeLinear, one scale for all of them. A Max of one tensor in between prevents that.
    """
    producer = tensor.inputs[0] if tensor.inputs else None
    while producer is not None and producer.op in target.absorbs:
        producer = producer.inputs[0].inputs[0] if producer.inputs[0].inputs else None
    return writer.copy(tensor) if producer is not None and producer.op in target.guards else tensor


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
    writer.pair(before, after, params)


class _Writer:
    """Adds nodes and constants to a model; equal constants are written once.

    Attributes:
        names: Gives out tensor names that are free.
        saturating: Pairs of weights at risk on CPUs without VNNI, and pairs in all.
    """

    def __init__(self, model: Model) -> None:
        self.names = Names(model)
        self._model = model
        self._written: dict[tuple[object, ...], gs.Variable] = {}
        self.saturating = (0, 0)

    def dequantized(self, tensor: gs.Constant, params: QuantParams) -> gs.Variable:
        """Store a constant quantized and return its dequantized tensor."""
        values = params.scale.tobytes(), params.zero_point.tobytes()
        key = (tensor.name, params.dtype, params.tile, *values)
        if key not in self._written:
            codes = quantize(array_of(tensor), params).astype(_element_type(params.dtype))
            self._count_saturating(codes, params)
            stored = constant(self.names.new(f"{tensor.name}_quantized"), codes)
            after = gs.Variable(self.names.new(f"{tensor.name}_dequantized"))
            parameters = self._parameters(tensor.name, params)
            self._add("DequantizeLinear", [stored, *parameters], after, params)
            self._written[key] = after
        return self._written[key]

    def _count_saturating(self, codes: Array, params: QuantParams) -> None:
        """Note how many pairs of weights CPUs without VNNI could saturate on."""
        if codes.dtype == np.int8 and codes.ndim >= 2:
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

    def pair(self, before: gs.Tensor, after: gs.Tensor, params: QuantParams) -> None:
        """Write QuantizeLinear and DequantizeLinear between two tensors."""
        stem = after.name.removesuffix("_dequantized")
        parameters = self._parameters(stem, params)
        middle = gs.Variable(self.names.new(f"{stem}_quantized"))
        if params.tile:
            behind, after = after, gs.Variable(self.names.new(f"{stem}_by_channel"))
            before = self.copy(before)
            self._copy(after, behind)
        self._add("QuantizeLinear", [before, *parameters], middle, params)
        self._add("DequantizeLinear", [middle, *parameters], after, params)

    def _parameters(self, stem: str, params: QuantParams) -> list[gs.Constant]:
        """Return scale and zero point as constants; a 32 bit type has no zero point."""
        scale = constant(self.names.new(f"{stem}_scale"), _flat(params.scale))
        if params.dtype.bits == 32:
            return [scale]
        zero_point = _flat(params.zero_point).astype(_element_type(params.dtype))
        return [scale, constant(self.names.new(f"{stem}_zero_point"), zero_point)]

    def _add(
        self, op: str, inputs: list[gs.Tensor], output: gs.Tensor, params: QuantParams
    ) -> None:
        """Add one node."""
        attrs = {"axis": params.tile.index(1)} if params.tile else {}
        name = f"{output.name}_{op}"
        node = gs.Node(op, name=name, attrs=attrs, inputs=inputs, outputs=[output])
        self._model.graph.nodes.append(node)


def _flat(values: Array) -> Array:
    """Bring one value a tile into the form of ONNX: a scalar or a vector."""
    return values if values.ndim == 0 else values.reshape(-1)


def _element_type(dtype: IntType) -> np.dtype[Any]:
    """Return the numpy type whose constants ONNX stores as this integer type."""
    if dtype.bits == 4:
        four: np.dtype[Any] = np.dtype(ml_dtypes.int4 if dtype.signed else ml_dtypes.uint4)
        return four
    return storage(dtype)
