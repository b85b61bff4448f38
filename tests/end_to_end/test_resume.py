"""Interrupted and killed runs: going on gives the very table of a run that was left alone."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from onnxq import Collection, Cut, Source, calibrate, table_file
from onnxq.errors import CalibrationError

READER = """
import time
import numpy as np

class Slow:
    stackable = True
    def __init__(self):
        self.values = np.random.default_rng(3).normal(size=(120, 1, 28, 28)).astype(np.float32)
    def __iter__(self):
        for value in self.values:
            time.sleep(0.004)
            yield {"image": value[None]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy("sample_models/fashion_mobilenet/model.onnx", tmp_path / "model.onnx")
    (tmp_path / "slow.py").write_text(READER)
    values = np.random.default_rng(4).normal(size=(50, 1, 28, 28)).astype(np.float32)
    np.savez(tmp_path / "data.npz", image=values)
    return tmp_path


def command(output: str, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "onnxq", "calibrate", "model.onnx", "-d", "slow:Slow"),
        *("--import-path", ".", "-o", output, "--batch-size", "3", "--groups", "2", "-q"),
        *("--keep-extremes", "50", "--checkpoint-every", "0.1", *more),
    ]


def test_killed_at_any_moment_and_resumed_is_as_never_killed(folder: Path) -> None:
    started = time.monotonic()
    subprocess.run(command("whole.calib"), cwd=folder, check=True)
    took = time.monotonic() - started
    moments = random.Random(5)
    for _ in range(2):
        with subprocess.Popen(command("out.calib"), cwd=folder) as running:
            time.sleep(took * moments.uniform(0.3, 0.95))
            running.send_signal(signal.SIGKILL)
        subprocess.run(command("out.calib", "--resume"), cwd=folder, check=True)
        assert (folder / "out.calib").read_bytes() == (folder / "whole.calib").read_bytes()
        assert not (folder / "out.calib.checkpoint").exists()
        (folder / "out.calib").unlink()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("groups", [1, 3])
def test_workers_and_groups_do_not_change_the_table(
    folder: Path, workers: int, groups: int
) -> None:
    source = Source(data=str(folder / "data.npz"), cut=Cut(batch_size=4))
    collection = Collection(workers=workers, groups=groups, keep_extremes=10)
    table = calibrate(folder / "model.onnx", source, collection=collection)
    plain = calibrate(
        folder / "model.onnx", source, collection=Collection(workers=1, keep_extremes=10)
    )
    assert len(table.groups) == groups
    for name, stats in plain.tensors.items():
        for a, b in zip(table.tensors[name].ends, stats.ends, strict=True):
            np.testing.assert_array_equal(a.largest, b.largest)
        assert table.tensors[name].histograms[0].total == stats.histograms[0].total


def test_shards_and_groups_merge_to_the_whole(folder: Path) -> None:
    collection = Collection(groups=3, channels="auto", workers=1)

    def saved(shard: tuple[int, int]) -> Path:
        source = Source(data=str(folder / "data.npz"), cut=Cut(batch_size=4, shard=shard))
        table = calibrate(folder / "model.onnx", source, collection=collection)
        path = folder / f"{shard[0]}of{shard[1]}.calib"
        table_file.save(table, path)
        return path

    whole = saved((0, 1))
    one, two = (table_file.load(saved((part, 2))) for part in (0, 1))
    table_file.save(one.merge(two), folder / "merged.calib")
    assert (folder / "merged.calib").read_bytes() == whole.read_bytes()


def test_resuming_another_run_is_refused(folder: Path) -> None:
    checkpoint = folder / "o.checkpoint"
    source = Source(data=str(folder / "data.npz"))
    kept = Collection(checkpoint=checkpoint, checkpoint_every=0.1)
    table = calibrate(folder / "model.onnx", source, collection=kept)
    table_file.save(table, checkpoint, table_file.Checkpoint(run="another", batches=1))
    again = Collection(checkpoint=checkpoint, resume=True)
    with pytest.raises(CalibrationError, match="another run"):
        calibrate(folder / "model.onnx", source, collection=again)


def test_some_groups_of_a_table_will_do(folder: Path) -> None:
    def onnxq(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "onnxq", *arguments]
        return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)

    made = onnxq("calibrate", "model.onnx", "-d", "data.npz", "--groups", "3", "-o", "g.calib")
    assert made.returncode == 0, made.stderr
    for groups, code in (("0,2", 0), ("3", 4), ("one", 2)):
        done = onnxq(
            "quantize", "model.onnx", "--calib", "g.calib", "--groups", groups, "-o", "q.onnx"
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr


def test_it_is_said_where_a_run_begins(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = folder / "o.checkpoint"
    source = Source(data=str(folder / "data.npz"))
    calibrate(
        folder / "model.onnx", source, collection=Collection(checkpoint=checkpoint, resume=True)
    )
    assert "from the beginning" in caplog.text
    checkpoint.touch()
    calibrate(folder / "model.onnx", source, collection=Collection(checkpoint=checkpoint))
    assert "--resume goes on" in caplog.text
