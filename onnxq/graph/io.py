"""Load and save models without losing anything.

onnx-graphsurgeon gives linked nodes and tensors, but its exporter rebuilds every message and
drops what it does not know (metadata, annotations, type details, …). So it serves for the
*structure* only: every node remembers the message it came from, and `sync` writes that message
again with the present input and output names. What nobody touched is written as it was read,
field by field; only what an edit created is new. Weights are never copied, and large ones in
external data stay in their file until someone asks for their values.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError
from onnx.external_data_helper import load_external_data_for_tensor

from onnxq.errors import ModelError
from onnxq.graph.external import (
    PROTO_LIMIT,
    external_files,
    is_external,
    mapped,
    nbytes,
    read_external,
    write_parted,
)
from onnxq.graph.messages import drop_unreferenced, in_order, referenced
from onnxq.graph.weightless import shell
from onnxq.types import Array

Constant, Node, Tensor, Variable = gs.Constant, gs.Node, gs.Tensor, gs.Variable


@dataclass(eq=False)
class Model:
    """A model being worked on, edited in place by whoever owns it.

    Attributes:
        graph: Its nodes and tensors, linked.
        proto: The message it came from; up to date with the graph after `sync`.
        path: Where it was read from.
        sha256: Digest of the file and its external data; identifies the float model.
    """

    graph: gs.Graph
    proto: onnx.ModelProto
    path: Path
    sha256: str

    @property
    def opset(self) -> int:
        """Version of the standard operator set the model imports."""
        versions = [o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx")]
        return int(versions[0]) if versions else 1


def load(path: Path) -> Model:
    """Read and check a model file.

    Args:
        path: An ONNX file; its external data lies in the same folder or below.

    Raises:
        ModelError: The file is missing, truncated, no ONNX model, fails the checker, or its
            external data is missing or lies outside of the model's folder.
    """
    proto = _parse(path)
    try:
        _check(path, proto)
        sha256 = _digest(path, proto)
        read_external(path, proto)
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        raise ModelError(f"{path}: {first_line(error)}") from error
    return from_proto(proto, path, sha256)


def _parse(path: Path) -> onnx.ModelProto:
    """Read the message without its external data."""
    try:
        proto = onnx.load(path, format="protobuf", load_external_data=False)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    except DecodeError:
        if path.stat().st_size > PROTO_LIMIT:
            raise ModelError(f"{path}: above 2 GB, save it with external data") from None
        raise ModelError(f"{path}: not an ONNX model, or a truncated one") from None
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError(f"{path}: not an ONNX model: it has no graph or no operator set")
    return proto


def _check(path: Path, proto: onnx.ModelProto) -> None:
    """Run the checker on a model file; inputs and outputs of unknown rank pass.

    Raises:
        ValidationError: The file fails the checker.
    """
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError:
        values = [*proto.graph.input, *proto.graph.output]
        tensors = [v.type.tensor_type for v in values if v.type.HasField("tensor_type")]
        if all(tensor.HasField("shape") for tensor in tensors):
            raise
        ranked = shell(proto)
        ranked.graph.initializer.extend(proto.graph.initializer)
        for value in (*ranked.graph.input, *ranked.graph.output):
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.shape.SetInParent()
        onnx.checker.check_model(ranked)


def first_line(error: BaseException) -> str:
    """Return the first line of a message that says something."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)


def _digest(path: Path, proto: onnx.ModelProto) -> str:
    """Return the SHA-256 of a model file followed by its external data files."""
    sha = hashlib.sha256()
    for file in [path, *external_files(path, proto)]:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                sha.update(block)
    return sha.hexdigest()


def rankless(model: onnx.ModelProto | Path) -> set[str]:
    """Return the inputs whose number of axes a model leaves open."""
    proto = _parse(model) if isinstance(model, Path) else model
    return {v.name for v in proto.graph.input if not v.type.tensor_type.HasField("shape")}


def files_of(path: Path) -> list[Path]:
    """Return a model file and its external data files."""
    return [path, *external_files(path, _parse(path))]


def size_of(path: Path) -> int:
    """Return the bytes of a model file with its external data."""
    return sum(file.stat().st_size for file in files_of(path))


def overridable(model: Model) -> list[str]:
    """Return the weights a user may replace at run time: initializers that are inputs too.

    Before IR 4 every initializer had to be an input, and runtimes take them for constants.
    """
    if model.proto.ir_version < 4:
        return []
    held = {tensor.name for tensor in model.proto.graph.initializer}
    return [value.name for value in model.proto.graph.input if value.name in held]


def from_proto(proto: onnx.ModelProto, path: Path = Path(), sha256: str = "") -> Model:
    """Link a message into a model; the message belongs to the model afterwards.

    Raises:
        ModelError: A node holds binary data where graphsurgeon reads text.
    """
    gs.logger.G_LOGGER.severity = gs.logger.G_LOGGER.ERROR
    try:
        graph = gs.import_onnx(proto)
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: a text attribute of a node holds bytes, not text") from error
    for node, message in zip(graph.nodes, proto.graph.node, strict=True):
        node.origin = message
    for tensor in graph.tensors().values():
        if isinstance(tensor, Constant):
            tensor.folder = path.parent  # where its external data lies
    return Model(graph=graph, proto=proto, path=path, sha256=sha256)


def copied(model: Model) -> Model:
    """Return a copy of a model that can be edited by itself."""
    proto = onnx.ModelProto()
    proto.CopyFrom(sync(model))
    return from_proto(proto, model.path, model.sha256)


def sync(model: Model) -> onnx.ModelProto:
    """Bring the message up to date with the graph and return it.

    Nodes are put in topological order. What described a tensor that an edit removed
    (initializer, graph input, value_info, annotation) goes with it; what nothing referred to
    from the beginning stays.
    """
    proto = model.proto.graph
    before = referenced(proto)
    messages = in_order([message_of(node) for node in model.graph.nodes])
    del proto.node[:]
    proto.node.extend(messages)
    drop_unreferenced(proto, before - {tensor.name for tensor in model.graph.inputs})
    _add_constants(model)
    return model.proto


def message_of(node: gs.Node) -> onnx.NodeProto:
    """Return the message of a node: the one it came from, under its present names."""
    origin = getattr(node, "origin", None)
    if origin is None:
        exporter = gs.exporters.onnx_exporter.OnnxExporter
        created: onnx.NodeProto = exporter.export_node(node)
        return created
    message = onnx.NodeProto()
    message.CopyFrom(origin)
    for names, tensors in ((message.input, node.inputs), (message.output, node.outputs)):
        del names[:]
        names.extend(tensor.name for tensor in tensors)
    return message


def _add_constants(model: Model) -> None:
    """Write the constants that edits created."""
    proto = model.proto.graph
    known = {tensor.name for tensor in proto.initializer}
    known |= {tensor.values.name for tensor in proto.sparse_initializer}
    for node in model.graph.nodes:
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant) and tensor.name not in known:
                add_initializer(model, tensor._values.tensor)  # noqa: SLF001
                known.add(tensor.name)


def add_initializer(model: Model, message: onnx.TensorProto) -> None:
    """Add an initializer to the message; before IR 4 it would have to be a graph input too."""
    model.proto.graph.initializer.append(message)
    model.proto.ir_version = max(model.proto.ir_version, 4)


def constant(name: str, values: Array) -> gs.Constant:
    """Make a constant of any element type numpy and ml_dtypes know, int4 included."""
    message = onnx.numpy_helper.from_array(values, name)
    return gs.Constant(name, gs.ir.tensor.LazyValues(message))


def become_constant(model: Model, tensor: gs.Tensor, message: onnx.TensorProto) -> None:
    """Turn a variable into a constant in place, for all who read it, bodies included."""
    tensor.inputs.clear()
    tensor.to_constant(gs.ir.tensor.LazyValues(message))
    add_initializer(model, message)  # `sync` does not see what a body captures


def part(model: Model, nodes: Iterable[gs.Node], outputs: Iterable[str]) -> onnx.ModelProto:
    """Return a model of some nodes that need nothing but constants.

    Args:
        model: The model they are from.
        nodes: The nodes, in topological order.
        outputs: Names of the tensors to return.
    """
    proto = onnx.ModelProto(ir_version=max(model.proto.ir_version, 4))
    proto.opset_import.extend(model.proto.opset_import)
    proto.graph.name = "part"
    constants = {}
    for node in nodes:
        proto.graph.node.append(message_of(node))
        constants.update({t.name: t for t in node.inputs if isinstance(t, gs.Constant)})
    for tensor in constants.values():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array_of(tensor), tensor.name))
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return proto


def array_of(tensor: gs.Constant) -> Array:
    """Return the values of a constant in their own element type."""
    message = tensor._values.tensor  # noqa: SLF001
    if isinstance(message, onnx.SparseTensorProto):
        return _dense(message)
    if is_external(message):
        return mapped(message, tensor.folder)
    values: Array = onnx.numpy_helper.to_array(message)
    return values


def _dense(sparse: onnx.SparseTensorProto) -> Array:
    """Return the values of a sparse constant, zeros included."""
    values = onnx.numpy_helper.to_array(sparse.values)
    indices = onnx.numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:  # positions in C order
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


def write(model: Model, path: Path) -> None:
    """Write a model and check the file; above 2 GiB the weights go to ``<name>.data``.

    Raises:
        ModelError: The file fails the checker.
        OSError: The file cannot be written.
    """
    proto = sync(model)
    outside = [tensor for tensor in proto.graph.initializer if is_external(tensor)]
    size = sum(nbytes(tensor) for tensor in outside) + proto.ByteSize()
    if size < PROTO_LIMIT:
        for tensor in outside:
            load_external_data_for_tensor(tensor, str(model.path.parent))
        path.write_bytes(proto.SerializeToString(deterministic=True))
    else:
        write_parted(proto, model.path.parent, path)
    try:
        _check(path, proto)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{path.name}: the result is invalid: {first_line(error)}") from error
