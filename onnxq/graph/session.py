"""Run models in onnxruntime."""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from onnxq.errors import ModelError, UsageError
from onnxq.graph import io
from onnxq.graph.blocked import take_blocked
from onnxq.graph.external import write_parted
from onnxq.graph.io import Model, first_line, sync
from onnxq.readers import Feed, InputInfo
from onnxq.types import Array

log = logging.getLogger(__name__)

EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
OPTIMIZED_WEIGHTS = "session.optimized_model_external_initializers_file_name"
IN_MEMORY = 1 << 25  # bytes; larger messages go through a temporary file
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
        arena: Keep memory for the next run; costs up to twice the memory of a run.
        fuse: Make integer kernels of what stands between DequantizeLinear and QuantizeLinear.
    """

    provider: str = "cpu"
    threads: int = 0
    custom_ops: Path | None = None
    optimize: bool = True
    arena: bool = True
    fuse: bool = True


class Session:
    """A model loaded in onnxruntime.

    Attributes:
        inputs: What the model takes.
        outputs: Names of what `run` returns, in order.
    """

    def __init__(
        self,
        model: Model | onnx.ModelProto | Path,
        runtime: Runtime,
        expose: Sequence[str] = (),
        loose: Collection[str] = (),
    ) -> None:
        """Load a model.

        Args:
            model: A model, a message that holds all its weights, or a file.
            runtime: How to run it.
            expose: Names of tensors inside the model to return in place of its outputs.
            loose: Those of them whose values may come in any order and shape, if that is faster.

        Raises:
            ModelError: onnxruntime refuses the model.
            UsageError: The provider is unknown or not in this build of onnxruntime.
        """
        folder = (model.path.parent if isinstance(model, Model) else Path()).resolve()
        proto = sync(model) if isinstance(model, Model) else model
        try:
            with _source(proto, folder, expose) as source:
                load = _Load(source, folder, runtime, mem_pattern=not expose)
                self._session, renamed = load.blocked(loose) if loose else (load.plain(), {})
        except UsageError:
            raise
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            raise ModelError(f"onnxruntime cannot load the model: {first_line(error)}") from error
        self.inputs = [_input_info(value) for value in self._session.get_inputs()]
        if any(info.shape == () for info in self.inputs):  # onnxruntime: a scalar, or unknown
            unknown = io.rankless(proto)
            self.inputs = [
                replace(info, shape=None) if info.name in unknown else info for info in self.inputs
            ]
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.outputs = list(expose) or [value.name for value in self._session.get_outputs()]
        self._fetched = [renamed.get(name, name) for name in self.outputs]

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
            result: list[Any] = self._session.run(self._fetched, dict(feed))
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            raise ModelError(f"onnxruntime cannot run the model: {first_line(error)}") from error
        return result

    def close(self) -> None:
        """Let go of the model and its memory; there are no more runs."""
        del self._session


@dataclass(frozen=True)
class _Load:
    """How to load a model.

    Attributes:
        source: A file, or a message.
        folder: Where the external data of a message lies.
        runtime: How to run it.
        mem_pattern: Plan memory once; with it, what is exposed takes memory twice.
    """

    source: str | bytes
    folder: Path
    runtime: Runtime
    mem_pattern: bool

    def plain(self, optimized: Path | None = None) -> Any:
        """Load the model, and write what onnxruntime made of it to a file if one is named."""
        import onnxruntime as ort  # noqa: PLC0415  slow to load, and not every command runs models

        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = self.runtime.threads
        options.enable_cpu_mem_arena = self.runtime.arena
        options.enable_mem_pattern = self.mem_pattern
        if not self.runtime.fuse:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = (
            levels.ORT_ENABLE_ALL if self.runtime.optimize else levels.ORT_DISABLE_ALL
        )
        if self.runtime.custom_ops is not None:
            options.register_custom_ops_library(str(self.runtime.custom_ops))
        if isinstance(self.source, bytes):
            options.add_session_config_entry(EXTERNAL_FOLDER, str(self.folder))
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
            options.add_session_config_entry(OPTIMIZED_WEIGHTS, f"{optimized.name}.data")
        return ort.InferenceSession(self.source, options, providers=[_provider(self.runtime)])

    def blocked(self, loose: Collection[str]) -> tuple[Any, dict[str, str]]:
        """Load the model so that it returns tensors in onnxruntime's own layout.

        Returns:
            The session, and what it returns in place of a tensor.
        """
        with TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            path = Path(temporary) / "optimized.onnx"
            session = self.plain(path)
            try:
                renamed = take_blocked(path, loose)
                if not renamed:
                    return session, {}
                del session  # two take twice the memory
                as_it_is = replace(self.runtime, optimize=False)
                return replace(self, source=str(path), runtime=as_it_is).plain(), renamed
            except Exception as error:  # noqa: BLE001  of any kind: it is only about speed
                log.debug("all tensors are reordered: %s", first_line(error))
                return self.plain(), {}


@contextmanager
def _source(
    model: onnx.ModelProto | Path, folder: Path, expose: Sequence[str]
) -> Iterator[str | bytes]:
    """Give what onnxruntime loads: a path, a small message as bytes, a large one in a file.

    From a file onnxruntime needs less than half the memory on top of the model.
    """
    if isinstance(model, Path):
        yield str(model)
        return
    with _exposed(model, expose):
        if model.ByteSize() < IN_MEMORY:
            yield model.SerializeToString()
            return
        with TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            path = Path(temporary) / "model.onnx"
            write_parted(model, folder, path)
            yield str(path)


@contextmanager
def _exposed(proto: onnx.ModelProto, names: Sequence[str]) -> Iterator[None]:
    """Put tensors inside of a model among its outputs for a while."""
    outputs = proto.graph.output
    count = len(outputs)
    there = {value.name for value in outputs}
    outputs.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there)
    try:
        yield
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


class Recorded(Session):
    """What a session returned for some feeds; the session itself is gone, and its memory."""

    def __init__(self, session: Session, feeds: Iterable[Feed]) -> None:
        """Run the feeds.

        Args:
            session: The session; let go of it afterwards.
            feeds: The feeds `run` will be asked about: the very same objects.
        """
        self.inputs, self.outputs = session.inputs, session.outputs
        self.metadata = session.metadata
        self._found = {id(feed): (feed, session.run(feed)) for feed in feeds}

    def run(self, feed: Mapping[str, Array]) -> list[Any]:
        """Return what the session returned for a feed."""
        return self._found[id(feed)][1]


def values_of(
    model: Model, names: Iterable[str], feeds: Iterable[Mapping[str, Array]], runtime: Runtime
) -> Iterator[dict[str, Array]]:
    """Yield what tensors of a model hold for each feed, by name; the feed is among it.

    Args:
        model: The model.
        names: Tensors inside of it, or inputs.
        feeds: What to run it on.
        runtime: How.
    """
    given = {tensor.name for tensor in model.graph.inputs}
    inside = [name for name in dict.fromkeys(names) if name not in given]
    session = Session(model, runtime, expose=inside)
    for feed in feeds:
        made = zip(session.outputs, session.run(feed), strict=True) if inside else ()
        yield {**feed, **dict(made)}


def feed_of(arrays: Mapping[str, Array], inputs: Sequence[InputInfo]) -> Feed:
    """Pick the arrays of a feed that are model inputs."""
    return {info.name: np.asarray(arrays[info.name], order="C") for info in inputs}
