"""The quantizers compared: each runs in a process of its own, which measures itself.

Started as a script this file is that process: ``tools.py JOB.json`` writes ``JOB.result.json``. It
imports nothing of onnxq at the top, since a peer may live in an environment without it.
"""

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

LEAST_OPSET = 13  # below it DequantizeLinear has no axis, so no scale a channel
RAISED_OPSET = 17
BATCH = 8  # samples a batch for tools that take whole batches
MOST_ERROR = 300  # characters of an error in the table


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A tool that lives in an environment of its own.

    Attributes:
        package: Its distribution.
        requirements: What to install.
        tools: Keys of `TOOLS` it runs.
    """

    package: str
    requirements: tuple[str, ...]
    tools: tuple[str, ...]


PEERS = {
    "nncf": Peer(
        package="nncf",
        requirements=("nncf", "onnx", "onnxruntime", "sympy"),  # sympy: onnxruntime's preparation
        tools=("nncf", "nncf-transformer"),
    ),
    "aimet": Peer(
        package="aimet-onnx",
        requirements=("aimet-onnx", "onnx", "onnxruntime"),
        tools=("aimet-w4", "aimet-w4-seqmse"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one process quantizes.

    Attributes:
        tool: A key of `TOOLS`; for onnxq with a recipe ``onnxq@FILE``, by ``--auto`` with a least
            cosine ``onnxq-auto@COSINE``.
        model: The float model.
        calibration: An npz file that holds just the samples to use.
        samples: How many those are.
        output: Where the quantized model goes.
    """

    tool: str
    model: str
    calibration: str
    samples: int
    output: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of it.

    Attributes:
        seconds: Wall time, loading the tool included, starting Python excluded.
        cpu_seconds: Processor time of the process and its children.
        rss_mb: Greatest resident memory, MB.
        error: First line of what went wrong, None if nothing did.
        version: The tool's.
    """

    seconds: float
    cpu_seconds: float
    rss_mb: float
    error: str | None = None
    version: str | None = None


def feeds(job: Job) -> Iterator[dict[str, Any]]:
    """Yield the samples one by one, as batches of one."""
    import numpy as np  # noqa: PLC0415  the parent process needs none of the imports below

    with np.load(job.calibration) as file:
        arrays = dict(file)
    for index in range(job.samples):
        yield {name: array[index : index + 1] for name, array in arrays.items()}


def run_onnxq(job: Job) -> None:
    """Quantize with this project: its defaults, or a recipe."""
    import onnxq  # noqa: PLC0415
    from onnxq.recipe import load  # noqa: PLC0415

    _, _, file = job.tool.partition("@")
    recipe = load(Path(file)) if file else onnxq.Recipe()
    source = onnxq.Source(data=job.calibration)
    table = onnxq.calibrate(Path(job.model), source, recipe=recipe)
    onnxq.quantize(Path(job.model), table, recipe, Path(job.output), source=source)


def run_onnxq_auto(job: Job) -> None:
    """Quantize with this project's ``--auto``, as the command line does."""
    from onnxq.cli.app import app  # noqa: PLC0415

    command = ["quantize", job.model, "--data", job.calibration, "--auto", "-o", job.output]
    app([*command, "--min-cosine", job.tool.partition("@")[2]], standalone_mode=False)


def run_onnxruntime(job: Job) -> None:
    """Quantize with ``quantize_static`` and its defaults, after the step it recommends."""
    _quantize_static(job, _prepared(job, Path(job.model)), {})


def run_onnxruntime_hand(job: Job) -> None:
    """Quantize with ``quantize_static`` as somebody who knows its pitfalls would.

    The operator set is raised by hand where scales a channel need it, only Conv, MatMul and Gemm
    are quantized, weights get one scale a channel, and activations are uint8. Where it fails on
    what its own preparation makes, the model is taken as it is.
    """
    from onnxruntime.quantization import QuantType  # noqa: PLC0415

    path = _raised(job)
    settings = {
        "per_channel": True,
        "op_types_to_quantize": ["Conv", "MatMul", "Gemm"],
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
    }
    try:
        _quantize_static(job, _prepared(job, path), settings)
    except Exception:  # noqa: BLE001  whatever it is, there is one more way to try
        _quantize_static(job, path, settings)


def _raised(job: Job) -> Path:
    """Raise the operator set by hand where it is too old for a scale a channel."""
    import onnx  # noqa: PLC0415
    from onnx import version_converter  # noqa: PLC0415

    model = onnx.load(job.model)
    if max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")) >= LEAST_OPSET:
        return Path(job.model)
    raised = Path(job.output).with_suffix(".raised.onnx")
    onnx.save(version_converter.convert_version(model, RAISED_OPSET), raised)
    return raised


def _prepared(job: Job, path: Path) -> Path:
    """Run onnxruntime's preparation, without symbolic shapes where those fail."""
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    prepared = Path(job.output).with_suffix(".prepared.onnx")
    try:
        quant_pre_process(str(path), str(prepared))
    except Exception:  # noqa: BLE001  it raises bare Exception for shapes it cannot infer
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    return prepared


def _quantize_static(job: Job, path: Path, settings: dict[str, Any]) -> None:
    """Run onnxruntime's static quantization."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static  # noqa: PLC0415

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = feeds(job)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    quantize_static(str(path), job.output, Reader(), **settings)


def run_nncf(job: Job) -> None:
    """Quantize with ``nncf.quantize`` and its defaults."""
    _nncf(job, transformer=False)


def run_nncf_transformer(job: Job) -> None:
    """Quantize with ``nncf.quantize`` and its preset for transformers."""
    _nncf(job, transformer=True)


def _nncf(job: Job, *, transformer: bool) -> None:
    """Run NNCF, after both steps that its log asks for.

    Left at an operator set below 13 it falls back to one weight scale a tensor, which ruins
    ``ppocr_rec``.
    """
    import nncf  # noqa: PLC0415
    import onnx  # noqa: PLC0415

    quantized = nncf.quantize(
        onnx.load(_prepared(job, _raised(job))),
        nncf.Dataset(list(feeds(job))),
        subset_size=job.samples,
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
    )
    onnx.save(quantized, job.output)


def run_aimet_w4(job: Job) -> None:
    """Quantize with AIMET: 4-bit weights by channel, 8-bit activations."""
    _aimet(job, sequential=False)


def run_aimet_w4_seqmse(job: Job) -> None:
    """Do the same, weight ranges by the layers' outputs, one layer after the other."""
    _aimet(job, sequential=True)


def _aimet(job: Job, *, sequential: bool) -> None:
    """Run AIMET with its configuration for scales a channel, and write what it exports."""
    import aimet_onnx  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415
    import onnx  # noqa: PLC0415
    from aimet_onnx.common import quantsim_config  # noqa: PLC0415

    folder = Path(quantsim_config.__file__).parent
    simulated = aimet_onnx.QuantizationSimModel(
        onnx.shape_inference.infer_shapes(onnx.load(_raised(job))),
        param_type=aimet_onnx.int4,
        activation_type=aimet_onnx.int8,
        config_file=str(folder / "default_config_per_channel.json"),
    )
    rows = list(feeds(job))
    parts = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    data = [{key: np.concatenate([r[key] for r in part]) for key in part[0]} for part in parts]
    if sequential:
        aimet_onnx.apply_seq_mse(simulated, data)
    simulated.compute_encodings(data)
    onnx.save(simulated.to_onnx_qdq(), job.output)


TOOLS: dict[str, Callable[[Job], None]] = {
    "onnxq": run_onnxq,
    "onnxq-auto": run_onnxq_auto,
    "onnxruntime": run_onnxruntime,
    "onnxruntime-hand": run_onnxruntime_hand,
    "nncf": run_nncf,
    "nncf-transformer": run_nncf_transformer,
    "aimet-w4": run_aimet_w4,
    "aimet-w4-seqmse": run_aimet_w4_seqmse,
}


def python_of(tool: str, cache: Path) -> str | None:
    """Return the Python a tool runs in, or None if the tool is not installed."""
    peer = tool.partition("-")[0]
    if peer not in PEERS or find_spec(PEERS[peer].package.replace("-", "_")):
        return sys.executable
    own = environment_of(peer, cache) / "bin" / "python"
    return str(own) if own.exists() else None


def environment_of(peer: str, cache: Path) -> Path:
    """Return the folder of the environment of a peer."""
    return cache / f".env-{peer}"


def quantize(job: Job, python: str) -> Outcome:
    """Run a job in a process of its own.

    Args:
        job: What to do.
        python: The Python to run it with.

    Returns:
        What it took, or why it failed; it never raises for a tool's failure.
    """
    folder = Path(job.output).parent
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    request, answer = folder / "job.json", folder / "job.result.json"
    request.write_text(json.dumps(asdict(job)))
    command = [python, "-P", str(Path(__file__).resolve()), str(request)]
    # Some tools leave files where they are started.
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    (folder / "log.txt").write_text(ended.stdout + ended.stderr)
    if answer.exists():
        return Outcome(**json.loads(answer.read_text()))
    last = (ended.stderr.strip().splitlines() or [""])[-1]
    error = f"ended with code {ended.returncode}: {last}"[:MOST_ERROR]
    return Outcome(seconds=0.0, cpu_seconds=0.0, rss_mb=0.0, error=error)


def peak_rss_mb() -> float:
    """Return the greatest resident memory of this process in MB.

    Linux lets a new process inherit the mark ``getrusage`` reports from its parent, so the mark
    of the process' own memory map is read where there is one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        marks = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
        if marks:
            return int(marks[0]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _package(tool: str) -> str:
    """Return the distribution a tool is in."""
    name = tool.partition("@")[0].partition("-")[0]
    return PEERS[name].package if name in PEERS else name


def main() -> None:
    """Do the job named on the command line and write down what it took."""
    request = Path(sys.argv[1])
    job = Job(**json.loads(request.read_text()))
    error = None
    begin = time.perf_counter()
    try:
        TOOLS[job.tool.partition("@")[0]](job)
    except Exception as caught:  # noqa: BLE001  a tool's failure is a row of the table
        lines = str(caught).strip().splitlines() or [""]
        error = f"{type(caught).__name__}: {lines[0]}"[:MOST_ERROR]
    seconds = time.perf_counter() - begin
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    outcome = Outcome(
        seconds=seconds,
        cpu_seconds=sum(usage.ru_utime + usage.ru_stime for usage in both),
        rss_mb=peak_rss_mb(),
        error=error,
        version=version(_package(job.tool)),
    )
    request.with_suffix(".result.json").write_text(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()
