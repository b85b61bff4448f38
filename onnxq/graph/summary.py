"""What a model is made of, at a glance."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import onnx

from onnxq.graph.io import Constant, Model, Node, sync
from onnxq.graph.opset import lowest_onnxruntime
from onnxq.graph.query import TensorType, is_standard, label, tensor_types
from onnxq.graph.session import Runtime, values_of
from onnxq.readers import Feed

MULTIPLY = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # what is made of multiply-adds


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Facts about a model.

    Attributes:
        path: Its file.
        ir: IR version.
        opsets: Operator set domain to version; the standard one is ``ai.onnx``.
        onnxruntime: First onnxruntime release that loads the standard operator set.
        producer: What exported it, if it says so.
        inputs: Graph input to type, those with an initializer left out.
        outputs: Graph output to type.
        ops: Operator type to number of nodes, most frequent first.
        weights: Number of constants of at least one axis.
        weight_bytes: Bytes of all constants.
        macs: Label of each Conv, ConvTranspose, Gemm and MatMul to its multiply-adds, None where
            the shapes do not tell. An open first axis counts as one sample.
        metadata: What the file says about itself.
    """

    path: str
    ir: int
    opsets: Mapping[str, int]
    onnxruntime: str
    producer: str
    inputs: Mapping[str, TensorType]
    outputs: Mapping[str, TensorType]
    ops: Mapping[str, int]
    weights: int
    weight_bytes: int
    macs: Mapping[str, int | None]
    metadata: Mapping[str, str]


def summarize(model: Model) -> Summary:
    """Look at the main graph of a model.

    Args:
        model: Any model; Constant nodes are best hoisted before, to be counted as weights.
    """
    graph, proto = model.graph, sync(model)
    types = tensor_types(model)
    unknown = TensorType("unknown", None)
    return Summary(
        path=str(model.path),
        ir=proto.ir_version,
        opsets={entry.domain or "ai.onnx": entry.version for entry in proto.opset_import},
        onnxruntime=lowest_onnxruntime(model.opset),
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        inputs={t.name: types.get(t.name, unknown) for t in graph.inputs},
        outputs={t.name: types.get(t.name, unknown) for t in graph.outputs},
        ops=dict(Counter(node.op for node in graph.nodes).most_common()),
        weights=sum(1 for tensor in proto.graph.initializer if tensor.dims),
        weight_bytes=sum(map(_bytes, proto.graph.initializer)),
        macs=multiply_adds(model, types),
        metadata={entry.key: entry.value for entry in proto.metadata_props},
    )


def _bytes(tensor: onnx.TensorProto) -> int:
    """Return the room the values of a constant take, wherever they are stored."""
    elements = math.prod(tensor.dims)
    if tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        return (elements + 1) // 2
    return elements * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def multiply_adds(model: Model, types: Mapping[str, TensorType]) -> dict[str, int | None]:
    """Return the multiply-adds of every node that is made of them, by label.

    Args:
        model: The model.
        types: Element types and shapes of its tensors.
    """
    found: dict[str, int | None] = {}
    for node in model.graph.nodes:
        if is_standard(node) and node.op in MULTIPLY:
            found[label(node)] = _multiply_adds(node, types)
    return found


def observed_types(
    model: Model, names: Iterable[str], feed: Feed, runtime: Runtime
) -> dict[str, TensorType]:
    """Return element types and shapes; those left open that count are what one sample shows.

    Args:
        model: The model.
        names: Tensors whose shapes count besides those that tell of multiply-adds.
        feed: One sample.
        runtime: How to run the model.

    Raises:
        ModelError: The model cannot run.
    """
    types = tensor_types(model)
    there = model.graph.tensors()
    counting = dict.fromkeys([*_telling(model), *names])
    wanted = [
        name
        for name in counting
        if name in there and not isinstance(there[name], Constant) and _is_open(types.get(name))
    ]
    for values in values_of(model, wanted, [feed], runtime):
        for name in wanted:
            known = types.get(name, TensorType("unknown", None))
            types[name] = replace(known, shape=tuple(values[name].shape))
    return types


def _telling(model: Model) -> Iterator[str]:
    """Yield the tensors whose shapes tell of multiply-adds."""
    for node in model.graph.nodes:
        if is_standard(node) and node.op in MULTIPLY:
            yield from (node.inputs[0].name, node.inputs[1].name, node.outputs[0].name)


def _is_open(found: TensorType | None) -> bool:
    """Say whether a size is not known."""
    return found is None or found.shape is None or None in found.shape


def _multiply_adds(node: Node, types: Mapping[str, TensorType]) -> int | None:
    """Return elements times products each: of the output, of a ConvTranspose the input."""
    anchor = node.inputs[0] if node.op == "ConvTranspose" else node.outputs[0]
    shape, weight = (_shape(t.name, types) for t in (anchor, node.inputs[1]))
    if shape is None or weight is None:
        return None
    if node.op in ("Conv", "ConvTranspose"):
        return math.prod(shape) * math.prod(weight[1:])
    if node.op == "Gemm":
        return math.prod(shape) * weight[1 if node.attrs.get("transB", 0) else 0]
    return math.prod(shape) * weight[-2 if len(weight) > 1 else 0]


def _shape(name: str, types: Mapping[str, TensorType]) -> tuple[int, ...] | None:
    """Return a shape, an open first axis as 1; None if more of it is open."""
    shape = types[name].shape if name in types else None
    if not shape:
        return None
    closed = (1 if shape[0] is None else shape[0], *shape[1:])
    known = tuple(size for size in closed if size is not None)
    return known if len(known) == len(shape) else None
