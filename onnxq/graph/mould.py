"""One model again and again, each time with other constants in the same places."""

from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx.external_data_helper import load_external_data_for_tensor

from onnxq.graph.external import is_external
from onnxq.types import Array


class Mould:
    """A model whose constants are given anew for every cast.

    Attributes:
        names: Of its constants.
    """

    def __init__(self, proto: onnx.ModelProto, folder: Path) -> None:
        """Take a model.

        Args:
            proto: The model; it belongs to the mould afterwards.
            folder: Where its external data lies.
        """
        for tensor in proto.graph.initializer:
            if is_external(tensor):
                load_external_data_for_tensor(tensor, str(folder))
        self._proto = proto
        self._at = {tensor.name: i for i, tensor in enumerate(proto.graph.initializer)}
        self._held: dict[str, Array] = {}
        self.names = frozenset(self._at)

    def cast(self, constants: Mapping[str, Array]) -> onnx.ModelProto:
        """Return a copy of the model with other constants.

        Args:
            constants: By name; those that are the very same arrays as the last time cost nothing.
        """
        tensors = self._proto.graph.initializer
        for name, value in constants.items():
            if self._held.get(name) is not value:
                tensors[self._at[name]].CopyFrom(onnx.numpy_helper.from_array(value, name))
                self._held[name] = value
        found = onnx.ModelProto()
        found.CopyFrom(self._proto)
        return found
