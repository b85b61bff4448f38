"""``onnxq search`` as a user runs it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from onnxq import recipe as onnxq_recipe
from onnxq.cli.app import app

SAMPLE = Path(__file__).parents[2] / "sample_models" / "fashion_mobilenet"
MODEL, DATA = SAMPLE / "model.onnx", SAMPLE / "calib.npz"
RECIPE = ["--weights", "int4", "--range", "mse"]
HELD = 400  # samples to measure on


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the flags of what is read."""
    held = tmp_path_factory.mktemp("held") / "eval.npz"
    with np.load(SAMPLE / "eval.npz") as data:
        np.savez(held, **{name: data[name][:HELD] for name in data.files})
    return ["--data", str(DATA), "--eval-data", str(held), "--batch-size", "16"]


@pytest.fixture(scope="module")
def asked(read: list[str]) -> list[str]:
    return [*read, "--samples", "96", *RECIPE]


@pytest.fixture(scope="module")
def widths(read: list[str]) -> list[str]:
    return [*read, "--samples", "48", "--factors", "widths"]


def run(output: Path, asked: list[str], *flags: str) -> Result:
    command = ["search", str(MODEL), *asked, "-o", str(output), *flags]
    return CliRunner().invoke(app, command)


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def searched(output: Path, asked: list[str], *flags: str) -> dict[str, Any]:
    lines = output.with_suffix(".jsonl")
    done = run(output, asked, "--json", str(lines), *flags)
    assert done.exit_code == 0, done.output
    return events(lines)[-1]


@pytest.fixture(scope="module")
def found(
    asked: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    output = tmp_path_factory.mktemp("search") / "best.onnx"
    page = output.with_suffix(".html")
    return output, searched(output, asked, "--evaluations", "44", "--html", str(page))


def test_what_is_found_is_better_on_samples_not_searched_on(
    found: tuple[Path, dict[str, Any]],
) -> None:
    output, result = found
    assert output.exists()
    assert len(result["evaluations"]) == 44
    assert result["chosen"]["score"] > result["uniform"]["score"] >= result["default"]["score"]
    gain = result["gain"]["over_default"]
    assert gain["difference"] > gain["half_width"]
    assert result["chosen"]["held_sqnr"] > result["default"]["held_sqnr"]
    assert "<svg" in output.with_suffix(".html").read_text(encoding="utf-8")


def test_every_evaluation_and_generation_is_told_as_it_happens(
    found: tuple[Path, dict[str, Any]],
) -> None:
    told = events(found[0].with_suffix(".jsonl"))
    kinds = [each["event"] for each in told]
    assert kinds.count("evaluation") == 44
    assert kinds.count("generation") == len(found[1]["generations"]) > 0
    assert kinds[-1] == "result"


def test_command_and_code_write_the_same_bytes(
    found: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    output, result = found
    again, command = tmp_path / "again.onnx", result["command"].split()
    assert command[:2] == ["onnxq", "quantize"]
    command[-1] = str(again)
    assert CliRunner().invoke(app, command[1:]).exit_code == 0
    assert again.read_bytes() == output.read_bytes()
    calib = next(word for word in command if word.startswith("--calib="))
    by_code = ["quantize", str(MODEL), calib, *RECIPE, "-o", str(again)]
    again.unlink()
    done = CliRunner().invoke(app, [*by_code, "--strategy", result["chosen"]["code"]])
    assert done.exit_code == 0, done.output
    assert again.read_bytes() == output.read_bytes()


def test_a_code_of_another_space_is_refused(
    found: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    output, result = found
    calib = output.with_name("best.onnx.search") / "table.calib"
    command = ["quantize", str(MODEL), "--calib", str(calib), "--weights", "int5"]
    command += ["--strategy", result["chosen"]["code"], "-o", str(tmp_path / "no.onnx")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 5
    assert "for another recipe" in done.output
    assert not list(tmp_path.iterdir())


def test_workers_and_processes_that_share_a_store_change_nothing(
    asked: list[str], found: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    flags = ["--evaluations", "44", "--store", str(tmp_path / "store"), "-q", "--workers", "1"]
    outputs = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    script = "from onnxq.cli.app import main; main()"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, "search", str(MODEL), *asked, "-o", str(each), *flags]
        )
        for each in outputs
    ]
    assert [each.wait(timeout=300) for each in running] == [0, 0]
    assert outputs[0].read_bytes() == outputs[1].read_bytes() == found[0].read_bytes()
    assert len(list((tmp_path / "store" / "results").iterdir())) == 44
    assert not list((tmp_path / "store" / "claims").iterdir())


def test_nothing_evaluated_is_lost_by_a_kill(
    asked: list[str], found: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    output = tmp_path / "best.onnx"
    results = tmp_path / "best.onnx.search" / "results"
    command = ["search", str(MODEL), *asked, "-o", str(output), "--evaluations", "44", "-q"]
    for least in (5, 20):
        script = "from onnxq.cli.app import main; main()"
        process = subprocess.Popen([sys.executable, "-c", script, *command, "--resume"])
        while process.poll() is None and (
            not results.exists() or len(list(results.glob("*.json"))) < least
        ):
            time.sleep(0.05)
        process.kill()
        process.wait()
        assert not output.exists()
    kept = {each.name: each.read_bytes() for each in results.iterdir() if each.suffix == ".json"}
    assert len(kept) >= 20
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 8
    assert "--resume" in refused.output
    assert "calibrate" not in refused.output, "nothing is done before"
    assert CliRunner().invoke(app, [*command, "--resume"]).exit_code == 0
    assert output.read_bytes() == found[0].read_bytes()
    assert {name: (results / name).read_bytes() for name in kept} == kept


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGINT for a child there")
def test_ctrl_c_writes_the_best_so_far(asked: list[str], tmp_path: Path) -> None:
    output = tmp_path / "best.onnx"
    results = tmp_path / "best.onnx.search" / "results"
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from onnxq.cli.app import main; main()"
    )
    command = ["search", str(MODEL), *asked, "-o", str(output), "--budget", "10m", "-q"]
    process = subprocess.Popen([sys.executable, "-c", script, *command], stderr=subprocess.PIPE)
    while not results.exists() or len(list(results.iterdir())) < 5:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert b"--resume goes on" in told
    assert output.exists()
    assert output.with_name("best.onnx.recipe.yaml").exists()


def test_smallest_model_within_a_bound(widths: list[str], tmp_path: Path) -> None:
    flags = ["--min-cosine", "0.98", "--evaluations", "90"]
    result = searched(tmp_path / "small.onnx", widths, *flags)
    assert result["reached"]
    assert result["chosen"]["cosine"] >= 0.98
    assert result["chosen"]["size_bits"] < result["uniform"]["size_bits"]
    chosen = {rule.dtype for rule in onnxq_recipe.load(Path(result["recipe"])).tensors.values()}
    assert len(chosen - {None}) > 1


def test_unreachable_bounds_write_nothing(asked: list[str], tmp_path: Path) -> None:
    output = tmp_path / "small.onnx"
    done = run(output, asked, "--min-cosine", "0.9999999", "--evaluations", "6")
    assert done.exit_code == 7
    assert "asked for 0.9999999" in done.output
    assert not output.exists()
    flags = ["--min-cosine", "0.9999999", "--evaluations", "6", "--best-effort", "--resume"]
    done = run(output, asked, *flags)
    assert done.exit_code == 0
    assert "no strategy holds the bounds" in done.output


def test_front_of_quality_and_size(widths: list[str], tmp_path: Path) -> None:
    flags = ["--objective", "quality", "--objective", "size", "--evaluations", "90"]
    result = searched(tmp_path / "front.onnx", widths, *flags)
    front = [(each["score"], each["size_bits"]) for each in result["front"]]
    assert len(front) > 3
    assert front == sorted(front, reverse=True)
    assert result["chosen"]["score"] == front[0][0]


def test_space_is_printed_and_nothing_is_searched(asked: list[str], tmp_path: Path) -> None:
    done = run(tmp_path / "no.onnx", asked, "--show-space", "--factors", "ranges")
    assert done.exit_code == 0
    assert "outlier-var" in done.output
    assert not list(tmp_path.iterdir())


def test_random_search_evaluates_as_many(asked: list[str], tmp_path: Path) -> None:
    result = searched(tmp_path / "r.onnx", asked, "--searcher", "random", "--evaluations", "8")
    origins = [each["origin"] for each in result["evaluations"]]
    assert origins == ["default"] + ["random"] * 7


def test_a_run_with_another_budget_loses_nothing(
    asked: list[str], found: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    output = tmp_path / "best.onnx"
    shutil.copytree(found[0].with_name("best.onnx.search"), tmp_path / "best.onnx.search")
    result = searched(output, asked, "--resume", "--evaluations", "8")
    assert len(result["evaluations"]) == 44
    assert result["chosen"]["code"] == found[1]["chosen"]["code"]
    assert output.read_bytes() == found[0].read_bytes()


def test_generations_come_soon_and_a_target_ends_all(
    asked: list[str], read: list[str], tmp_path: Path
) -> None:
    flags = ["--samples", "48", "--factors", "ranges", "--generations", "1"]
    result = searched(tmp_path / "g.onnx", [*read, *flags])
    origins = Counter(each["origin"] for each in result["evaluations"])
    assert origins["uniform"] > 24, "all pairs of ranges are tried"
    assert origins["probe"] <= result["space"]["genes"]
    assert len(result["generations"]) == 1
    flags = ["--target-metric", "-1", "--evaluations", "30"]
    assert len(searched(tmp_path / "t.onnx", asked, *flags)["evaluations"]) == 1


def test_fitness_of_labels_and_outputs(tmp_path: Path) -> None:
    flags = ["--metric", "fitness", "--metric-option", "weight=0.5", "--evaluations", "1"]
    labelled = ["--data", str(DATA), "--samples", "60", "--factors", "repairs"]
    result = searched(tmp_path / "f.onnx", labelled, *flags)
    assert result["metric"] == "fitness"
    assert 0 < result["chosen"]["score"] < 1


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (["--objective", "size", "--evaluations", "5"], 2, "a bound"),
        (["--objective", "speed", "--evaluations", "5"], 2, "write quality, size, latency"),
        (["--factors", "colours", "--evaluations", "5"], 2, "no factor 'colours'"),
        (["--searcher", "luck", "--evaluations", "5"], 2, "evolution or random"),
        (["--budget", "soon"], 2, "write a time"),
        (["--max-drop", "0.01", "--evaluations", "5"], 2, "--metric"),
        (["--best-effort", "--evaluations", "5"], 2, "give --min-cosine"),
        (["--metric", "recognition", "--evaluations", "5"], 5, "recognition"),
        (["--html", str(MODEL), "--evaluations", "5"], 8, "input"),
        (["--html", str(DATA), "--evaluations", "5"], 8, "input"),
        (["--html", "a.html", "--json", "a.html", "--evaluations", "5"], 8, "a.html"),
    ],
)
def test_what_means_nothing_is_refused_in_one_line(
    flags: list[str], code: int, told: str, asked: list[str], tmp_path: Path
) -> None:
    done = run(tmp_path / "no.onnx", asked, *flags)
    assert done.exit_code == code, done.output
    assert told in done.output
    assert not (tmp_path / "no.onnx").exists()
