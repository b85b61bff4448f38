"""Kill calibration at random moments, resume it, and compare with a run that was left alone."""

import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
SEED = 9
SAMPLES = 3000
EVERY = 0.3  # seconds between checkpoints
EARLY = 0.1  # share of the moments that come before the first checkpoint


@dataclass(frozen=True, kw_only=True)
class Killed:
    """What became of the killed runs.

    Attributes:
        identical: How many gave the very bytes of the run left alone.
        resumed: How many had left a checkpoint when they were killed.
        samples: Samples of a run.
    """

    identical: int
    resumed: int
    samples: int = SAMPLES


def kill_and_resume(model: Path, moments: int) -> Killed:
    """Kill -9 runs of ``onnxq calibrate`` and resume them.

    A few moments come before the first checkpoint; the others are spread from it to the end, so
    that those runs go on from what they left.

    Args:
        model: Folder of ``model.onnx`` and ``calib.npz``.
        moments: How many runs to kill.
    """
    chance = random.Random(SEED)
    identical = resumed = 0
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        whole, part = folder / "whole.calib", folder / "part.calib"
        _watch(_start(model, whole), whole)  # loads and compiles once
        whole.unlink()
        first, end = _watch(_start(model, whole), whole)
        for _ in range(moments):
            with _start(model, part) as running:
                if chance.random() < EARLY:
                    time.sleep(chance.uniform(0, first))
                else:
                    _wait_for_checkpoint(running, part)
                    time.sleep(chance.uniform(0, 0.9 * (end - first)))
                running.kill()
            resumed += _checkpoint(part).exists()
            _start(model, part, "--resume").wait()
            identical += part.exists() and part.read_bytes() == whole.read_bytes()
            part.unlink(missing_ok=True)
            print(f"kill: {identical} identical, {resumed} from a checkpoint", file=sys.stderr)
    return Killed(identical=identical, resumed=resumed)


def _start(model: Path, output: Path, *more: str) -> subprocess.Popen[bytes]:
    """Start a run."""
    command = [
        *(sys.executable, "-m", "onnxq", "calibrate", str(model / "model.onnx")),
        *("-d", "benchmarks.calibration_process:Cycle", "--import-path", str(ROOT)),
        *("--data-option", f"path={model / 'calib.npz'}", "--data-option", f"samples={SAMPLES}"),
        *("-o", str(output), "--checkpoint-every", str(EVERY), "-q", *more),
    ]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=output.parent)


def _watch(running: subprocess.Popen[bytes], output: Path) -> tuple[float, float]:
    """Return the seconds until the first checkpoint and until the end."""
    begin, first = time.monotonic(), None
    while running.poll() is None:
        if first is None and _checkpoint(output).exists():
            first = time.monotonic() - begin
        time.sleep(0.01)
    end = time.monotonic() - begin
    return first or 0.5 * end, end


def _wait_for_checkpoint(running: subprocess.Popen[bytes], output: Path) -> None:
    """Wait for the first checkpoint of a run, or its end."""
    while running.poll() is None and not _checkpoint(output).exists():
        time.sleep(0.01)


def _checkpoint(output: Path) -> Path:
    """Return where a run leaves its checkpoint."""
    return output.with_name(f"{output.name}.checkpoint")


if __name__ == "__main__":
    found = kill_and_resume(Path(sys.argv[1]).resolve(), moments=20)
    print(f"{found.identical} of 20 identical, {found.resumed} resumed from a checkpoint")
