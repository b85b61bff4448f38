"""Weights in files beside the model: external data, read late and written in parts."""

from pathlib import Path

import numpy as np
import onnx
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor

from onnxq.graph.messages import tensors, tensors_of
from onnxq.graph.weightless import shell
from onnxq.types import Array

PROTO_LIMIT = 2**31 - 2**20  # a protobuf message must stay below 2 GiB
SMALL = 1024  # bytes; smaller tensors stay in the message
ALIGNMENT = 4096  # bytes; where a tensor begins in a data file, so that it can be mapped
LAZY = 1 << 20  # bytes; smaller external tensors are read at once


def is_external(tensor: onnx.TensorProto) -> bool:
    """Say whether the values of a tensor lie in a file of their own."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def nbytes(tensor: onnx.TensorProto) -> int:
    """Return the bytes of a tensor that is not packed, from its shape and type."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return int(np.prod(list(tensor.dims), dtype=np.int64)) * dtype.itemsize


def external_files(path: Path, proto: onnx.ModelProto) -> list[Path]:
    """Return the external data files of a model, sorted."""
    names = {
        ExternalDataInfo(tensor).location for tensor in tensors(proto.graph) if is_external(tensor)
    }
    return [path.parent / name for name in sorted(names)]


def read_external(path: Path, proto: onnx.ModelProto) -> None:
    """Read external tensors into the message, but for large initializers, which are only checked.

    Raises:
        OSError: A data file cannot be read.
        ValueError: A data file is too short, or lies outside of the model's folder.
    """
    for tensor in proto.graph.initializer:
        if is_external(tensor) and _is_large(tensor):
            _check_file(tensor, path.parent)
        elif is_external(tensor):
            load_external_data_for_tensor(tensor, str(path.parent))
    for tensor in (tensor for node in proto.graph.node for tensor in tensors_of(node)):
        if is_external(tensor):
            load_external_data_for_tensor(tensor, str(path.parent))


def _is_large(tensor: onnx.TensorProto) -> bool:
    """Say whether an external tensor is worth leaving in its file, and can be mapped there."""
    return nbytes(tensor) >= LAZY and ExternalDataInfo(tensor).length in (None, nbytes(tensor))


def _check_file(tensor: onnx.TensorProto, folder: Path) -> None:
    """Make sure that an external tensor can be read later."""
    info = ExternalDataInfo(tensor)
    file = folder / info.location
    if not file.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{info.location} lies outside of the model's folder")
    if file.stat().st_size < (info.offset or 0) + nbytes(tensor):
        raise ValueError(f"{info.location} is too short for tensor {tensor.name!r}")


def mapped(message: onnx.TensorProto, folder: Path) -> Array:
    """Map external data; its pages are read when touched."""
    info = ExternalDataInfo(message)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(message.data_type)
    shape = tuple(message.dims)
    return np.memmap(folder / info.location, dtype, "r", info.offset or 0, shape)


def write_parted(proto: onnx.ModelProto, folder: Path, path: Path) -> None:
    """Write a model with its weights in ``<name>.data``; the message stays as it is.

    Args:
        proto: The model; its external data may lie in ``folder``.
        folder: Where the external data of the message lies.
        path: The file to write.
    """
    light = shell(proto)
    data = path.with_name(f"{path.name}.data")
    with data.open("wb") as stream:
        for tensor in proto.graph.initializer:
            values = _raw(tensor, folder)
            if values is None:
                light.graph.initializer.append(tensor)
                continue
            stream.write(bytes(-stream.tell() % ALIGNMENT))
            moved = light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type)
            moved.dims.extend(tensor.dims)
            moved.doc_string = tensor.doc_string
            moved.metadata_props.extend(tensor.metadata_props)
            moved.data_location = onnx.TensorProto.EXTERNAL
            entries = (("location", data.name), ("offset", stream.tell()), ("length", len(values)))
            for key, value in entries:
                moved.external_data.add(key=key, value=str(value))
            stream.write(values)
    path.write_bytes(light.SerializeToString(deterministic=True))


def _raw(tensor: onnx.TensorProto, folder: Path) -> bytes | memoryview | None:
    """Return the bytes of a tensor worth a place outside of the message, or None."""
    if is_external(tensor):
        return mapped(tensor, folder).view(np.uint8).reshape(-1).data
    if tensor.data_type == onnx.TensorProto.STRING or tensor.ByteSize() < SMALL:
        return None
    raw: bytes = tensor.raw_data
    if not raw:
        raw = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor)).raw_data
    return raw
