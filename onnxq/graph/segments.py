"""Cut a float model into the layers its quantized model has.

    float       x ────────── Conv ─ c ─ Relu ────────────────────── y
    quantized   x ─ Q ─ DQ ─ Conv ─ c ─ Relu ─ y_float ─ Q ─ DQ ─── y

Both models call the same values by the same names. A name that both have is a *boundary*, unless
it lies inside an integer kernel (c above: only an activation reads it, and only a grid comes
after that). A layer is what lies between boundaries and holds a QuantizeLinear or
DequantizeLinear; its float counterpart lies between the same boundaries of the float model.
A Max of one tensor, which the emitter puts beside some pairs, is part of the pair.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from onnxq.errors import ModelError
from onnxq.graph.io import Model, from_proto
from onnxq.graph.messages import inputs_of
from onnxq.numerics.affine import fake_quantize
from onnxq.numerics.tiles import channel_tile, grid
from onnxq.types import Array, IntType, QuantParams

STORES = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What a pair of Q and DQ rounds to.

    Attributes:
        dtype: Integer type of the codes.
        scale: One scale, shape ``()``, or one a channel, ``(C,)``.
        zero_point: Shape of ``scale``.
        axis: The axis of the channels, None with one scale.
    """

    dtype: IntType
    scale: Array
    zero_point: Array
    axis: int | None = None

    def __post_init__(self) -> None:
        """Refuse scales that are none.

        Raises:
            ValueError: One is not positive.
        """
        if not (self.scale > 0).all():
            raise ValueError("a scale must be positive")

    def rounded(self, values: Array) -> Array:
        """Quantize and dequantize, shape of ``values``."""
        tile = () if self.axis is None else channel_tile(values.ndim, self.axis)
        shape = grid(values.shape, tile)
        params = QuantParams(
            dtype=self.dtype,
            scale=self.scale.reshape(shape),
            zero_point=self.zero_point.reshape(shape),
            tile=tile,
        )
        return fake_quantize(values, params)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One layer.

    Attributes:
        label: Name of its node for people, as rules match it.
        op: Operator type of that node.
        output: The boundary it ends at.
        inputs: The boundaries its float counterpart begins at.
        readers: Labels of the layers that read the output.
        grid: Parameters of the pair it ends with; None where it ends in float.
        input_grids: Parameters of the pairs between its inputs and its node, by input.
    """

    label: str
    op: str
    output: str
    inputs: tuple[str, ...]
    readers: tuple[str, ...]
    grid: Grid | None
    input_grids: Mapping[str, Grid]


class _Graph:
    """Who writes and who reads each tensor of a model's main graph."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        graph = proto.graph
        self.nodes: Sequence[onnx.NodeProto] = graph.node
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.outputs = {value.name for value in graph.output}
        self.inputs = {value.name for value in graph.input} - set(self.constants)
        self.producer: dict[str, int] = {}
        self.readers: dict[str, list[int]] = {}
        for index, node in enumerate(graph.node):
            self.producer.update((name, index) for name in node.output if name)
            for name in inputs_of(node):
                self.readers.setdefault(name, []).append(index)

    def writer(self, name: str) -> onnx.NodeProto | None:
        """Return the node that writes a tensor."""
        return self.nodes[self.producer[name]] if name in self.producer else None

    def copied(self, name: str) -> str:
        """Return the tensor that another is a copy of, or itself."""
        node = self.writer(name)
        return node.input[0] if node is not None and _is_copy(node) else name

    def values(self) -> set[str]:
        """Return the names of all tensors but constants."""
        made = {n for n, i in self.producer.items() if self.nodes[i].op_type != "Constant"}
        return made | self.inputs

    def back(self, output: str, stops: set[str]) -> tuple[list[int], list[str]]:
        """Return the nodes between some tensors and one, and which of the former are met."""
        found: set[int] = set()
        met: dict[str, None] = {}
        waiting = [output]
        while waiting:
            name = waiting.pop()
            if name in self.inputs or (name in stops and name != output):
                met[name] = None
            elif (index := self.producer.get(name)) is not None and index not in found:
                found.add(index)
                waiting.extend(n for n in sorted(inputs_of(self.nodes[index])) if n)
        return sorted(found), list(met)


class Cut:
    """A float model and its quantized model, cut into layers.

    Attributes:
        segments: The layers, in the order of the quantized graph.
    """

    def __init__(self, reference: Model, quantized: Model) -> None:
        """Find the layers.

        Raises:
            ModelError: The quantized model is none, or shares no tensor with the float model.
        """
        self._model = reference
        self._float, self._other = _Graph(reference.proto), _Graph(quantized.proto)
        common = self._float.values() & self._other.values()
        self._stops = common - _interior(self._other, common)
        found = [self._segment(name) for name in self._other.producer if name in self._stops]
        self.segments = _with_readers([segment for segment in found if segment is not None])
        self._check(common)

    def _check(self, common: set[str]) -> None:
        """Refuse models that cannot be cut."""
        if not any(node.op_type in STORES for node in self._other.nodes):
            raise ModelError(
                "no layers to compare: the quantized model has no QuantizeLinear or "
                "DequantizeLinear in its main graph"
            )
        inside = common - self._float.inputs - self._float.outputs
        single = sum(1 for node in self._float.nodes if node.op_type != "Constant") == 1
        if not self.segments or not (inside or single):
            raise ModelError(
                "no layers to compare: the models have no tensor inside of them in common: was "
                "the one made from the other?"
            )

    def _segment(self, output: str) -> Segment | None:
        """Describe the layer that ends at a boundary, if one does."""
        graph = self._other
        nodes = [graph.nodes[index] for index in graph.back(output, self._stops)[0]]
        if not any(node.op_type in STORES for node in nodes):
            return None
        working = [node for node in nodes if node.op_type not in STORES and not _is_copy(node)]
        integer = [node for node in working if graph.back(node.output[0], self._stops)[1]]
        reads = [node for node in integer if any(map(self._dequantized, node.input))]
        node = (reads or integer or nodes)[-1]
        first = node.output[0] if node.output[0] in self._float.producer else output
        return Segment(
            label=node.name or f"{node.op_type}({first})",
            op=node.op_type,
            output=output,
            inputs=tuple(self._float.back(output, self._stops)[1]),
            readers=(),
            grid=_grid(graph, output),
            input_grids=self._input_grids([name for node in nodes for name in node.input]),
        )

    def _input_grids(self, names: Iterable[str]) -> dict[str, Grid]:
        """Find the pairs of Q and DQ between boundaries and the nodes that read them."""
        found = {}
        for name in names:
            before, used = _before_pair(self._other, name), _grid(self._other, name)
            if before in self._stops and name not in self._stops and used is not None:
                found[before] = used
        return found

    def _dequantized(self, name: str) -> bool:
        """Say whether a tensor of the quantized model was dequantized.

        A DequantizeLinear writes it, or it is a constant of which one computes the values.
        """
        nodes, met = self._other.back(name, self._stops)
        if not met:
            return any(self._other.nodes[index].op_type == "DequantizeLinear" for index in nodes)
        writer = self._other.writer(self._other.copied(name))
        return writer is not None and writer.op_type == "DequantizeLinear"

    def part(self, segments: Sequence[Segment], types: Mapping[str, np.dtype[Any]]) -> Model:
        """Return the float counterparts of some layers side by side, as one model.

        Args:
            segments: The layers; the outputs of the model are theirs, in their order.
            types: Element type of every tensor in their ``inputs``.
        """
        wanted = [self._float.back(s.output, self._stops)[0] for s in segments]
        nodes = [self._float.nodes[i] for i in sorted({i for part in wanted for i in part})]
        names = {name for node in nodes for name in node.output} & self._stops
        renamed = {name: f"onnxq_layer_{name}" for name in names}
        proto = self._like(_renamed(node, renamed) for node in nodes)
        for name in dict.fromkeys(name for s in segments for name in s.inputs):
            kind = onnx.helper.np_dtype_to_tensor_dtype(types[name])
            proto.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, None))
        proto.graph.output.extend(onnx.ValueInfoProto(name=renamed[s.output]) for s in segments)
        return from_proto(proto, self._model.path)

    def disturbed(self, types: Mapping[str, np.dtype[Any]]) -> Model:
        """Return the float model with an input that is added to each layer's output, 0 by default.

        Args:
            types: Element type of every layer's output; `disturbance` names the inputs.
        """
        renamed = {s.output: f"onnxq_clean_{s.output}" for s in self.segments}
        proto = self._like(_renamed(node, renamed) for node in self._float.nodes)
        proto.ir_version = max(proto.ir_version, 4)  # before, no initializer has another value
        graph = proto.graph
        graph.input.extend(self._model.proto.graph.input)
        graph.output.extend(self._model.proto.graph.output)
        for name, clean in renamed.items():
            zero = onnx.numpy_helper.from_array(np.zeros((), types[name]), disturbance(name))
            graph.initializer.append(zero)
            graph.input.append(onnx.helper.make_tensor_value_info(zero.name, zero.data_type, None))
            graph.node.append(onnx.helper.make_node("Add", [clean, zero.name], [name]))
        return from_proto(proto, self._model.path)

    def _like(self, nodes: Iterable[onnx.NodeProto]) -> onnx.ModelProto:
        """Start a model of some nodes of the float model, with the weights they need."""
        original = self._model.proto
        proto = onnx.ModelProto(ir_version=original.ir_version)
        proto.opset_import.extend(original.opset_import)
        proto.functions.extend(original.functions)
        proto.graph.name = "layers"
        proto.graph.node.extend(nodes)
        needed = {name for node in proto.graph.node for name in inputs_of(node)}
        constants = self._float.constants.items()
        proto.graph.initializer.extend(tensor for name, tensor in constants if name in needed)
        return proto


def disturbance(name: str) -> str:
    """Name the input of a disturbed model that is added to a tensor."""
    return f"onnxq_disturb_{name}"


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """Copy a node, some of its outputs under other names."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for position, name in enumerate(node.output):
        copy.output[position] = names.get(name, name)
    return copy


def _interior(graph: _Graph, common: set[str]) -> set[str]:
    """Find the tensors between an operator and the activation its kernel absorbs."""
    found = set()
    for node in graph.nodes:
        before = _before_pair(graph, node.output[0]) if node.output else None
        activation = graph.writer(before) if before is not None else None
        if activation is None or before in common:
            continue
        read = [name for name in activation.input if name and name not in graph.constants]
        writer = graph.writer(graph.copied(read[0])) if len(read) == 1 else None
        if writer is None or writer.op_type in STORES or read[0] in graph.outputs:
            continue
        if len(graph.readers[read[0]]) == 1:
            found.add(read[0])
    return found


def _is_copy(node: onnx.NodeProto) -> bool:
    """Say whether a node is the Max of one tensor."""
    return node.op_type == "Max" and len(node.input) == 1


def _before_pair(graph: _Graph, name: str) -> str | None:
    """Return the tensor in front of the pair of Q and DQ that writes another."""
    name = graph.copied(name)
    for op in ("DequantizeLinear", "QuantizeLinear"):
        node = graph.writer(name)
        if node is None or node.op_type != op:
            return None
        name = node.input[0]
    return graph.copied(name)


def _grid(graph: _Graph, output: str) -> Grid | None:
    """Return what the pair that writes a tensor rounds to; None for blocks and unknown scales."""
    node = graph.writer(graph.copied(output))
    if node is None or _before_pair(graph, output) is None or len(node.input) < 3:
        return None
    held = [graph.constants.get(name) for name in node.input[1:3]]
    arrays = [onnx.numpy_helper.to_array(t) for t in held if t is not None and len(t.dims) < 2]
    if len(arrays) < 2 or held[1] is None or arrays[0].size != arrays[1].size:
        return None
    scale, zero_point = arrays
    shape = () if scale.size == 1 else scale.shape
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    try:
        return Grid(
            dtype=IntType.parse(onnx.TensorProto.DataType.Name(held[1].data_type).lower()),
            scale=scale.reshape(shape),
            zero_point=zero_point.astype(np.int64).reshape(shape),
            axis=axis if shape else None,
        )
    except ValueError:  # a float8 type, or a scale of zero
        return None


def _with_readers(segments: Sequence[Segment]) -> list[Segment]:
    """Tell every layer which layers read it."""
    readers: dict[str, list[str]] = {}
    for segment in segments:
        for name in segment.inputs:
            readers.setdefault(name, []).append(segment.label)
    return [replace(s, readers=tuple(readers.get(s.output, ()))) for s in segments]
