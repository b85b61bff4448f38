"""One measurement of `benchmarks.calibration`, in a process of its own.

``python -m benchmarks.calibration_process JOB`` with a job as JSON prints what it took as JSON.
Nothing slow is imported at the top: loading numpy, onnxq and its compiler is part of what is timed.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.tools import peak_rss_mb

BATCH = 8


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one process does.

    Attributes:
        kind: A key of `KINDS`.
        folder: Where ``model.onnx`` and ``calib.npz`` are.
        samples: How many samples to run.
        workers: Workers of onnxq; 0 for its default.
    """

    kind: str
    folder: str
    samples: int
    workers: int = 1


@dataclass(frozen=True, kw_only=True)
class Took:
    """What it took.

    Attributes:
        cpu: Processor time, seconds.
        wall: Wall time, seconds.
        rss: Greatest resident memory of the process, MB.
    """

    cpu: float
    wall: float
    rss: float


class Cycle:
    """Reader: the samples of an npz file, from the beginning again after the last."""

    stackable = True

    def __init__(self, path: str, samples: int) -> None:
        """Read the file.

        Args:
            path: An npz file; the first axis counts samples.
            samples: How many samples to give.
        """
        import numpy as np  # noqa: PLC0415

        with np.load(path) as file:
            self._arrays = {name: file[name] for name in file.files if name[:5] != "label"}
        self._samples = int(samples)

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._samples

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the samples one by one."""
        there = len(next(iter(self._arrays.values())))
        for index in range(self._samples):
            row = index % there
            yield {name: array[row : row + 1] for name, array in self._arrays.items()}


def run_float(job: Job) -> Took:
    """Run the float model; only the runs are timed."""
    import numpy as np  # noqa: PLC0415

    session = _session(Path(job.folder) / "model.onnx")
    feeds = iter(_reader(job))
    cpu = wall = 0.0
    while rows := list(islice(feeds, BATCH)):
        batch = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        begin = time.process_time(), time.perf_counter()
        session.run(None, batch)
        cpu += time.process_time() - begin[0]
        wall += time.perf_counter() - begin[1]
    return Took(cpu=cpu, wall=wall, rss=peak_rss_mb())


def run_onnxq(job: Job) -> Took:
    """Calibrate as ``onnxq calibrate --threads 1`` does; all is timed from the first import."""
    begin = time.process_time(), time.perf_counter()
    import onnxq  # noqa: PLC0415

    options = {"path": str(Path(job.folder) / "calib.npz"), "samples": job.samples}
    onnxq.calibrate(
        Path(job.folder) / "model.onnx",
        onnxq.Source(
            data="benchmarks.calibration_process:Cycle",
            options=options,
            cut=onnxq.Cut(batch_size=BATCH),
        ),
        collection=onnxq.Collection(workers=job.workers),
        runtime=onnxq.Runtime(threads=1),
    )
    return _took(begin)


def run_onnxruntime(job: Job) -> Took:
    """Run onnxruntime's Percentile calibrator, defaults but one thread, batches of one."""
    begin = time.process_time(), time.perf_counter()
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod  # noqa: PLC0415
    from onnxruntime.quantization.calibrate import create_calibrator  # noqa: PLC0415

    class Feeds(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = iter(_reader(job))

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    with TemporaryDirectory() as folder:
        augmented = Path(folder) / "augmented.onnx"
        calibrator = create_calibrator(
            Path(job.folder) / "model.onnx",
            augmented_model_path=str(augmented),
            calibrate_method=CalibrationMethod.Percentile,
        )
        calibrator.infer_session = _session(augmented, optimize=False)  # its own has more threads
        calibrator.collect_data(Feeds())
        calibrator.compute_data()
    return _took(begin)


KINDS = {"float": run_float, "onnxq": run_onnxq, "onnxruntime": run_onnxruntime}


def _took(begin: tuple[float, float]) -> Took:
    """Return what it took since the beginning."""
    cpu, wall = time.process_time() - begin[0], time.perf_counter() - begin[1]
    return Took(cpu=cpu, wall=wall, rss=peak_rss_mb())


def _reader(job: Job) -> Cycle:
    """Return the samples of a job."""
    return Cycle(str(Path(job.folder) / "calib.npz"), job.samples)


def _session(path: Path, *, optimize: bool = True) -> Any:
    """Load a model for one thread, with all of onnxruntime's optimizations or none."""
    import onnxruntime as ort  # noqa: PLC0415

    levels = ort.GraphOptimizationLevel
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Do the job named on the command line and print what it took."""
    job = Job(**json.loads(sys.argv[1]))
    print(json.dumps(asdict(KINDS[job.kind](job))))


if __name__ == "__main__":
    main()
