"""Run models in onnxruntime."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxq.errors import ModelError, UsageError
from onnxq.graph.io import first_line
from onnxq.readers import Feed, InputInfo
from onnxq.types import Array

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "dml": "DmlExecutionProvider",
    "qnn": "QNNExecutionProvider",
}


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """How to run models.

    Attributes:
        provider: Execution provider, a key of `PROVIDERS`.
        threads: Threads inside an operator; 0 leaves it to onnxruntime.
        custom_ops: Shared library with custom operators, or None.
        optimize: All graph optimizations, or none.
    """

    provider: str = "cpu"
    threads: int = 0
    custom_ops: Path | None = None
    optimize: bool = True


class Session:
    """A model loaded in onnxruntime.

    Attributes:
        inputs: What the model takes.
        outputs: Names of what `run` returns, in order.
    """

    def __init__(
        self,
        model: onnx.ModelProto | Path,
        runtime: Runtime,
        expose: Sequence[str] = (),
    ) -> None:
        """Load a model.

        Args:
            model: A message or a file.
            runtime: How to run it.
            expose: Names of tensors inside the model to return in place of its outputs.

        Raises:
            ModelError: onnxruntime refuses the model.
            UsageError: The provider is unknown or not in this build of onnxruntime.
        """
        import onnxruntime as ort  # noqa: PLC0415  slow to load, and not every command runs models

        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = runtime.threads
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = (
            levels.ORT_ENABLE_ALL if runtime.optimize else levels.ORT_DISABLE_ALL
        )
        source = str(model) if isinstance(model, Path) else _exposed(model, expose)
        try:
            if runtime.custom_ops is not None:
                options.register_custom_ops_library(str(runtime.custom_ops))
            self._session = ort.InferenceSession(source, options, providers=[_provider(runtime)])
        except UsageError:
            raise
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            raise ModelError(f"onnxruntime cannot load the model: {first_line(error)}") from error
        self.inputs = [_input_info(value) for value in self._session.get_inputs()]
        self.outputs = list(expose) or [value.name for value in self._session.get_outputs()]

    def run(self, feed: Mapping[str, Array]) -> list[Any]:
        """Run one batch.

        Args:
            feed: One array an input.

        Returns:
            One array an output, in the order of ``outputs``.

        Raises:
            ModelError: onnxruntime fails on this input.
        """
        try:
            result: list[Any] = self._session.run(self.outputs, dict(feed))
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            raise ModelError(f"onnxruntime cannot run the model: {first_line(error)}") from error
        return result


def _exposed(proto: onnx.ModelProto, names: Sequence[str]) -> bytes:
    """Serialize a model with tensors inside of it among its outputs; the model stays as it is."""
    outputs = proto.graph.output
    count = len(outputs)
    there = {value.name for value in outputs}
    outputs.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there)
    try:
        serialized: bytes = proto.SerializeToString()
        return serialized
    finally:
        del outputs[count:]


def _provider(runtime: Runtime) -> str:
    """Return onnxruntime's name of the provider."""
    import onnxruntime as ort  # noqa: PLC0415

    name = PROVIDERS.get(runtime.provider, runtime.provider)
    available = ort.get_available_providers()
    if name not in available:
        offered = ", ".join(short for short, long in PROVIDERS.items() if long in available)
        raise UsageError(f"provider {runtime.provider!r} is not in this onnxruntime: {offered}")
    return name


def _input_info(value: Any) -> InputInfo:
    """Describe a model input."""
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    dtype = {"float": "float32", "double": "float64", "string": "object"}.get(kind, kind)
    shape = tuple(size if isinstance(size, int) and size >= 0 else None for size in value.shape)
    return InputInfo(value.name, dtype, shape)


def feed_of(arrays: Mapping[str, Array], inputs: Sequence[InputInfo]) -> Feed:
    """Pick the arrays of a feed that are model inputs."""
    return {info.name: np.ascontiguousarray(arrays[info.name]) for info in inputs}
