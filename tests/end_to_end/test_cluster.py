"""Calibrating on a Dask cluster gives the bytes of a local run, whatever happens to the workers."""

import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster
from typer.testing import CliRunner, Result

from onnxq import Cut, Source, cluster
from onnxq.cli.app import app
from onnxq.errors import OnnxqError

SAMPLE = Path(__file__).parents[2] / "sample_models" / "fashion_mobilenet"

READER = """
import os, time
from pathlib import Path
import numpy as np

class Fatal:
    '''Its first iteration hangs after some batches: whoever runs it is to be killed.'''
    stackable = True
    notes = "the reader says hello"
    def __init__(self, here):
        self.here = Path(here)
    def __iter__(self):
        for number, value in enumerate(np.load(self.here / "calib.npz")["image"]):
            if number == 40:
                try:
                    with open(self.here / "victim", "x") as file:
                        file.write(f"{os.getpid()}\\n")
                except FileExistsError:
                    pass
                else:
                    time.sleep(600)
            yield {"image": value[None]}

class Endless:
    stackable = True
    def __init__(self, here):
        self.here = Path(here)
    def __iter__(self):
        value = np.zeros((1, 1, 28, 28), np.float32)
        while True:
            (self.here / "started").touch()
            time.sleep(0.01)
            yield {"image": value}

class Deadly:
    def __iter__(self):
        os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        local_directory=str(tmp_path_factory.mktemp("dask")),
    ) as local:
        yield local


@pytest.fixture
def scheduler(both: LocalCluster) -> LocalCluster:
    """A cluster with both of its workers, whatever became of them before."""
    both.wait_for_workers(2, timeout=60)
    return both


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the module `odd_readers` is: one place, since processes import a module once."""
    place = tmp_path_factory.mktemp("readers")
    (place / "odd_readers.py").write_text(READER)
    return str(place)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("model.onnx", "calib.npz"):
        shutil.copy(SAMPLE / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def own(name: str, readers: str, folder: Path) -> list[str]:
    """Flags for a class of `READER`."""
    return ["-d", f"odd_readers:{name}", "--import-path", readers, "-D", f"here={folder}"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["calibrate", "model.onnx", *arguments])


def error_of(result: Result) -> str:
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.output
    return lines[0]


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def test_a_killed_worker_changes_nothing(
    folder: Path, readers: str, scheduler: LocalCluster
) -> None:
    victim = folder / "victim"
    data = (*own("Fatal", readers, folder), "--groups", "2")

    def kill() -> int:
        wait_for(lambda: victim.exists() and victim.read_text().endswith("\n"))
        os.kill(pid := int(victim.read_text()), signal.SIGKILL)
        return pid

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill)
        address = scheduler.scheduler_address
        done = run(*data, "-o", "cluster.calib", "--scheduler", address, "--shards", "3")
        assert killed.result() != os.getpid()
    assert done.exit_code == 0, done.output
    assert done.stderr.count("the reader says hello") == 1
    assert run(*data, "-o", "local.calib", "--threads", "1").exit_code == 0
    assert (folder / "cluster.calib").read_bytes() == (folder / "local.calib").read_bytes()


def test_as_many_shards_as_there_are_batches_at_most(scheduler: LocalCluster) -> None:
    seen: list[tuple[int, int | None]] = []
    work = cluster.Work(
        model=Path("model.onnx"), source=Source(data="calib.npz", cut=Cut(batch_size=100))
    )
    where = cluster.Cluster(address=scheduler.scheduler_address)
    table = cluster.calibrate_on(where, work, lambda p: seen.append((p.done, p.total)))
    samples = len(np.load("calib.npz")["image"])
    assert len(seen) == min(-(-samples // 100), 4)
    assert seen[-1] == (samples, samples) == (table.samples, samples)


def test_shards_beyond_data_of_unknown_length_stay_empty(
    folder: Path, readers: str, scheduler: LocalCluster
) -> None:
    (folder / "victim").touch()
    data = (*own("Fatal", readers, folder), "--samples", "16")
    address = scheduler.scheduler_address
    done = run(*data, "-o", "some.calib", "--scheduler", address, "--shards", "3")
    assert done.exit_code == 0, done.output
    assert "16 samples" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("-d nan.npz", 4, "NaN"),
        ("-d calib.npz --reader nzp", 5, "did you mean 'npz'"),
        ("-d calib.npz --provider nonsense", 2, "nonsense"),
        ("-d odd_readers:Nobody", 4, "no class 'Nobody'"),
        ("-d calib.npz --shard 0/2", 2, "--shard"),
        ("-d calib.npz --resume", 2, "--resume"),
    ],
)
def test_errors_come_back_as_they_are(
    arguments: str, code: int, said: str, readers: str, scheduler: LocalCluster
) -> None:
    image = np.load("calib.npz")["image"]
    np.savez("nan.npz", image=np.where(image > 0.9, np.nan, image))
    cluster_flags = ("--import-path", readers, "--scheduler", scheduler.scheduler_address)
    result = run(*arguments.split(), "-o", "out", *cluster_flags)
    assert result.exit_code == code, result.output
    assert said in error_of(result)
    assert not Path("out").exists()


def test_a_file_that_workers_do_not_have_is_named_with_the_host(
    folder: Path, scheduler: LocalCluster
) -> None:
    result = run("-d", "gone.npz", "-o", "out", "--scheduler", scheduler.scheduler_address)
    assert result.exit_code == 2
    assert f"{folder / 'gone.npz'}: the worker on host {platform.node()}" in error_of(result)


@pytest.mark.skipif(os.name == "nt", reason="SIGINT is sent another way there")
def test_ctrl_c_frees_the_cluster_and_exits_130(
    folder: Path, readers: str, scheduler: LocalCluster
) -> None:
    address = scheduler.scheduler_address
    data = own("Endless", readers, folder)
    more = ["-o", "out", "--shards", "4", "--scheduler", address]
    with subprocess.Popen(
        [sys.executable, "-B", "-m", "onnxq", "calibrate", "model.onnx", *data, *more],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        try:
            wait_for((folder / "started").exists)
            running.send_signal(signal.SIGINT)
            _, stderr = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 130, stderr
    assert stderr.splitlines() == ["interrupted: nothing was written"]
    with Client(address, set_as_default=False) as client:
        again = client.submit(sum, [1, 2], pure=False)
        assert again.result(timeout=60) == 3
        wait_for(lambda: not any(client.run(executing).values()))


def executing(dask_worker: Any) -> int:
    return len(dask_worker.state.executing) + len(dask_worker.state.long_running)


def test_a_shard_that_kills_its_workers_is_given_up(
    readers: str, scheduler: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler.scheduler, "allowed_failures", 0)
    address = ("--scheduler", scheduler.scheduler_address, "--shards", "1")
    result = run("-d", "odd_readers:Deadly", "--import-path", readers, "-o", "out", *address)
    assert result.exit_code == 4, result.output
    assert "1 workers died" in error_of(result)


@pytest.mark.parametrize(
    ("met", "said"),
    [(CancelledError(), "scheduler was lost"), (ModuleNotFoundError("No onnxq"), "No onnxq")],
)
def test_what_dask_meets_is_one_line_too(met: Exception, said: str) -> None:
    future: Future[None] = Future()
    future.set_exception(met)
    with pytest.raises(OnnxqError, match=said):
        cluster._answer(future, set())


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense", "x.json", "empty.json"])
def test_a_scheduler_that_does_not_answer_is_one_line(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("empty.json").write_text("{}")
    monkeypatch.setattr(cluster, "TIMEOUT", 0.5)
    result = run("-d", "calib.npz", "-o", "out", "--scheduler", address)
    assert result.exit_code == 2, result.output
    assert address in error_of(result)
    assert result.stderr.count("\n") == 1


def test_without_the_extra_its_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    result = run("-d", "calib.npz", "-o", "out", "--scheduler", "tcp://127.0.0.1:1")
    assert result.exit_code == 2
    assert "pip install 'onnxq[dask]'" in error_of(result)


def test_shards_need_a_scheduler() -> None:
    result = run("-d", "calib.npz", "-o", "out", "--shards", "2")
    assert result.exit_code == 2
    assert "--scheduler" in error_of(result)


def test_shards_of_the_command_line_merge_to_the_whole() -> None:
    data = ("-d", "calib.npz", "--samples", "60", "--groups", "2")
    for shard in ("0/3", "1/3", "2/3"):
        assert run(*data, "--shard", shard, "-o", f"part-{shard[0]}.calib").exit_code == 0
    parts = [f"part-{number}.calib" for number in (2, 0, 1)]
    assert CliRunner().invoke(app, ["merge", *parts, "-o", "merged.calib"]).exit_code == 0
    assert run(*data, "-o", "whole.calib").exit_code == 0
    assert Path("merged.calib").read_bytes() == Path("whole.calib").read_bytes()
