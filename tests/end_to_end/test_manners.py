"""Bad input, interruptions, help: what the command line does when things are not as planned."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from onnxq.cli.app import app

SAMPLES = Path(__file__).parents[2] / "sample_models"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small calibration table of the sample that `folder` holds."""
    path = tmp_path_factory.mktemp("table") / "model.calib"
    sample = SAMPLES / "fashion_resnet"
    arguments = ["calibrate", sample / "model.onnx", "-d", sample / "calib.npz", "-o", path]
    result = CliRunner().invoke(app, [*map(str, arguments), "--samples", "16"])
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture
def folder(tmp_path: Path, table: Path) -> Path:
    """A folder with everything a user has, good and bad."""
    sample = SAMPLES / "fashion_resnet"
    shutil.copy(sample / "model.onnx", tmp_path)
    shutil.copy(table, tmp_path)
    shutil.copy(SAMPLES / "fashion_mobilenet" / "model.onnx", tmp_path / "other.onnx")
    image = np.load(sample / "calib.npz")["image"][:16]
    np.savez(tmp_path / "good.npz", image=image)
    np.savez(tmp_path / "name.npz", picture=image)
    np.savez(tmp_path / "shape.npz", image=image[:, :, :20])
    np.savez(tmp_path / "text.npz", image=image.astype(str))
    np.savez(tmp_path / "nan.npz", image=np.where(image > 0.9, np.nan, image))
    np.savez(tmp_path / "none.npz", image=image[:0])
    (tmp_path / "truncated.onnx").write_bytes((tmp_path / "model.onnx").read_bytes()[:5000])
    (tmp_path / "text.onnx").write_text("this is no model")
    (tmp_path / "broken.calib").write_bytes((tmp_path / "model.calib").read_bytes()[:900])
    (tmp_path / "typo.yaml").write_text("wieghts: {granularity: tensor}\n")
    (tmp_path / "unused.yaml").write_text("rules: [{name: nothing-has-this, quantize: false}]\n")
    (tmp_path / "syntax.yaml").write_text("rules: [\n")
    (tmp_path / "empty").mkdir()
    return tmp_path


QUANTIZE = "quantize model.onnx --calib model.calib -o out.onnx"
BAD = [
    ("calibrate missing.onnx --data good.npz -o out", 2),
    ("calibrate model.onnx --data missing.npz -o out", 2),
    ("calibrate model.onnx --data good.npz --shard 4/4 -o out", 2),
    ("calibrate model.onnx --data good.npz --provider nonsense -o out", 2),
    ("quantize model.onnx -o out.onnx", 2),
    (f"{QUANTIZE} --range-option nonsense", 2),
    (f"{QUANTIZE} --reduce-range --weights int8", 2),
    (f"{QUANTIZE} --weight-range-option nonsense", 2),
    (f"{QUANTIZE} --outlier-var --range mse", 2),
    (f"{QUANTIZE} --outlier-var --weight-range mse", 2),
    (f"{QUANTIZE} --outlier-var --alpha -1", 2),
    (f"{QUANTIZE} --alpha 2", 2),
    (f"{QUANTIZE} --range percentile --extremes all", 2),
    ("calibrate text.onnx --data good.npz -o out", 3),
    ("calibrate truncated.onnx --data good.npz -o out", 3),
    (f"{QUANTIZE} --exclude-op Conv --exclude-op Gemm", 3),
    ("compare model.onnx other.onnx --data name.npz", 4),
    ("calibrate model.onnx --data name.npz -o out", 4),
    ("calibrate model.onnx --data shape.npz -o out", 4),
    ("calibrate model.onnx --data text.npz -o out", 4),
    ("calibrate model.onnx --data nan.npz -o out", 4),
    ("calibrate model.onnx --data none.npz -o out", 4),
    ("calibrate model.onnx --data empty -o out", 4),
    ("calibrate model.onnx --data good.npz --shard 2/3 -o out", 4),
    ("calibrate model.onnx --data no_such_module:Reader -o out", 4),
    ("quantize other.onnx --calib model.calib -o out.onnx", 4),
    (f"{QUANTIZE} --outlier-var --k1 1.5", 5),
    (f"{QUANTIZE} --outlier-var --variance absolute", 5),
    (f"{QUANTIZE} --weight-range outlier-var --weight-range-option k3=5", 5),
    ("quantize model.onnx --calib broken.calib -o out.onnx", 4),
    ("merge model.calib broken.calib -o out.calib", 4),
    (f"{QUANTIZE} --range minmx", 5),
    (f"{QUANTIZE} --range percentile --range-option percent=99", 5),
    (f"{QUANTIZE} --range percentile --range-option percentile=10", 5),
    (f"{QUANTIZE} --target cpuu", 5),
    (f"{QUANTIZE} --weights int", 5),
    (f"{QUANTIZE} --recipe typo.yaml", 5),
    (f"{QUANTIZE} --recipe unused.yaml", 5),
    (f"{QUANTIZE} --recipe syntax.yaml", 5),
    (f"{QUANTIZE} --exclude no-node-has-this", 5),
    ("calibrate model.onnx --data good.npz --reader nzp -o out", 5),
    (f"{QUANTIZE} --weights uint4", 6),
    (f"{QUANTIZE} --max-opset 12", 6),
    (f"{QUANTIZE} --min-cosine 1.0", 7),
    ("compare model.onnx model.onnx --data good.npz --json no/such/folder.json", 8),
    ("quantize model.onnx --calib model.calib -o model.onnx", 8),
    ("quantize model.onnx --calib model.calib -o empty", 8),
    ("quantize model.onnx --calib model.calib -o no/such/folder.onnx", 8),
    ("merge model.calib -o model.calib", 8),
]


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize(("command", "code"), BAD, ids=[command for command, _ in BAD])
def test_bad_input_is_one_line_and_leaves_everything_as_it_was(
    command: str, code: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    before = digests(folder)
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    usage_error_of_the_parser = code == 2 and "Usage:" in result.stderr
    assert len(lines) == 1 or usage_error_of_the_parser, result.output
    assert "Traceback" not in result.output
    assert digests(folder) == before
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


LOADED = (
    "import sys; print([m for m in ('onnxruntime', 'onnx', 'numba', 'numpy') if m in sys.modules])"
)


@pytest.mark.parametrize(
    "command", ["", "calibrate", "quantize", "compare", "merge", "inspect", "list"]
)
def test_help_loads_nothing_heavy_and_shows_an_example(command: str) -> None:
    arguments = [command, "--help"] if command else ["--help"]
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "120"})
    assert shown.exit_code == 0
    assert "onnxq" in shown.output
    code = (
        f"from typer.testing import CliRunner; from onnxq.cli.app import app;"
        f"CliRunner().invoke(app, {arguments!r}); {LOADED}"
    )
    assert python(code) == "[]"


def test_merge_runs_without_onnxruntime(folder: Path) -> None:
    arguments = ["merge", str(folder / "model.calib"), "-o", str(folder / "merged.calib")]
    code = (
        f"import sys; from typer.testing import CliRunner; from onnxq.cli.app import app;"
        f"r = CliRunner().invoke(app, {arguments!r}); assert r.exit_code == 0, r.output;"
        f"print('onnxruntime' in sys.modules)"
    )
    assert python(code) == "False"


def test_a_broken_model_is_refused_without_onnxruntime(folder: Path) -> None:
    data = str(folder / "good.npz")
    arguments = ["calibrate", str(folder / "text.onnx"), "--data", data, "-o", "x.calib"]
    code = (
        f"import sys; from typer.testing import CliRunner; from onnxq.cli.app import app;"
        f"r = CliRunner().invoke(app, {arguments!r}); assert r.exit_code == 3, r.output;"
        f"print('onnxruntime' in sys.modules)"
    )
    assert python(code) == "False"


SLOW_READER = """
import time
import numpy as np

class Slow:
    def __init__(self):
        self.left = 1000
    def get_next(self):
        self.left -= 1
        time.sleep(0.05)
        if self.left < 997:  # in the middle of the work, not of an import
            open("started", "w").close()
        return {"image": np.zeros((1, 1, 28, 28), np.float32)} if self.left else None
"""


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()


@pytest.mark.skipif(os.name == "nt", reason="SIGINT is sent another way there")
def test_ctrl_c_leaves_a_checkpoint_and_exits_130(folder: Path) -> None:
    (folder / "slow.py").write_text(SLOW_READER)
    before = digests(folder)
    command = [
        "calibrate",
        "model.onnx",
        "-d",
        "slow:Slow",
        "--import-path",
        ".",
        "-o",
        "out.calib",
    ]
    with subprocess.Popen(
        [sys.executable, "-B", "-m", "onnxq", *command],
        cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        try:
            wait_for((folder / "started").exists)
            running.send_signal(signal.SIGINT)
            _, stderr = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "--resume" in stderr
    (folder / "started").unlink()
    (folder / "out.calib.checkpoint").unlink()
    assert digests(folder) == before


def test_a_runtimes_reader_class_calibrates(folder: Path) -> None:
    (folder / "mine.py").write_text(SLOW_READER.replace("1000", "3").replace("0.05", "0"))
    command = ["calibrate", "model.onnx", "-d", "mine:Slow", "--import-path", ".", "-o", "m.calib"]
    subprocess.run([sys.executable, "-m", "onnxq", *command], cwd=folder, check=True)
    assert (folder / "m.calib").is_file()


def test_json_on_stdout_is_alone(folder: Path) -> None:
    command = ["compare", "model.onnx", "model.onnx", "-d", "good.npz", "--json", "-", "-v"]
    done = subprocess.run(
        [sys.executable, "-m", "onnxq", *command],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["samples"] == 16
    assert "cosine" in done.stderr


def test_random_data_only_by_name_and_with_a_warning(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "onnxq", "calibrate", "model.onnx", "-d", "random", "-o", "r.calib"],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "not calibrated" in done.stderr.replace("\n", " ")


def test_no_samples_kept_means_not_verified(folder: Path) -> None:
    run = CliRunner().invoke
    base = ["calibrate", str(folder / "model.onnx"), "-d", str(folder / "good.npz")]
    table = str(folder / "bare.calib")
    assert run(app, [*base, "--keep-samples", "0", "-o", table]).exit_code == 0
    done = run(
        app,
        ["quantize", str(folder / "model.onnx"), "--calib", table, "-o", str(folder / "o.onnx")],
    )
    assert done.exit_code == 0
    assert "not checked" in done.output


@pytest.mark.parametrize(
    "command",
    [
        ("inspect", "model.onnx", "--json", "model.onnx"),
        ("compare", "model.onnx", "model.onnx", "-d", "good.npz", "--json", "good.npz"),
        ("quantize", "model.onnx", "-d", "good.npz", "-o", "q.onnx", "--json", "./model.onnx"),
        ("quantize", "model.onnx", "-d", "good.npz", "-o", "q.onnx", "--json", "q.onnx"),
        ("quantize", "model.onnx", "-d", "good.npz", "-o", "q.onnx", "--json", "q.onnx.json"),
    ],
)
def test_the_json_replaces_nothing_of_the_command(folder: Path, command: tuple[str, ...]) -> None:
    before = digests(folder)
    run = [sys.executable, "-B", "-m", "onnxq", *command]
    done = subprocess.run(run, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 8, done.stderr
    assert "would replace" in done.stderr
    assert digests(folder) == before
