"""The folder of a search: one process gets a claim, and results survive whatever happens."""

import json
import logging
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from onnxq.errors import CalibrationError, OutputError
from onnxq.search.store import PATIENCE, Store

ABOUT = {"space": "0r3k", "metric": "noise", "objectives": ["quality", "size"]}
CODES = [f"0r3k-{number:03}" for number in range(40)]
PROCESSES = 4


def store(folder: Path, **more: Any) -> Store:
    made = Store(folder, **more)
    made.open(ABOUT, go_on=True)
    return made


def result(code: str, score: float = 0.5) -> dict[str, Any]:
    return {"code": code, "score": score, "units": [0.25, 0.75], "latency": None}


def file_of(folder: Path, code: str) -> Path:
    """Return where a result is, from what it holds."""
    (found,) = (
        each
        for each in (folder / "results").iterdir()
        if json.loads(each.read_text())["code"] == code
    )
    return found


def claims(folder: Path) -> list[Path]:
    return list((folder / "claims").iterdir())


def aged(folder: Path, seconds: float) -> None:
    """Let all claims be so old."""
    then = time.time() - seconds
    for claim in claims(folder):
        os.utime(claim, (then, then))


def test_a_claim_is_anothers_no_more(tmp_path: Path) -> None:
    one, other = store(tmp_path), store(tmp_path)
    assert one.claim("a")
    assert not other.claim("a")
    assert not one.claim("a"), "nor by another thread of the same process"
    assert other.claim("b")


def test_what_is_released_can_be_claimed(tmp_path: Path) -> None:
    one, other = store(tmp_path), store(tmp_path)
    assert one.claim("a")
    one.release("a")
    one.release("a")
    assert other.claim("a")


def test_what_has_a_result_is_not_claimed(tmp_path: Path) -> None:
    one, other = store(tmp_path), store(tmp_path)
    assert one.claim("a")
    one.add(result("a"))
    assert claims(tmp_path) == []
    assert not other.claim("a")
    assert other.result("a") == result("a")


def test_a_claim_of_what_has_a_result_is_not_left_behind(tmp_path: Path) -> None:
    one, other = store(tmp_path), store(tmp_path)
    one.add(result("a"))
    assert not other.claim("a")
    assert claims(tmp_path) == []


def test_a_stale_claim_is_taken_over_and_a_fresh_one_is_not(tmp_path: Path) -> None:
    one, other = store(tmp_path), store(tmp_path)
    assert one.claim("a")
    aged(tmp_path, PATIENCE - 30)
    assert not other.claim("a")
    aged(tmp_path, PATIENCE + 30)
    assert other.claim("a")
    assert not one.claim("a"), "it is fresh again"


def test_patience_can_be_chosen(tmp_path: Path) -> None:
    patient, other = store(tmp_path, patience=1000.0), store(tmp_path, patience=1.0)
    assert patient.claim("a")
    aged(tmp_path, 500)
    assert not patient.claim("a")
    assert other.claim("a")


def test_claims_are_forgotten(tmp_path: Path) -> None:
    one, other = store(tmp_path), store(tmp_path)
    for code in CODES:
        assert one.claim(code)
    one.add(result(CODES[0]))
    other.forget_claims()
    assert claims(tmp_path) == []
    assert [other.claim(code) for code in CODES] == [False] + [True] * (len(CODES) - 1)


def test_results_survive(tmp_path: Path) -> None:
    one = store(tmp_path)
    for code in reversed(CODES):
        one.add(result(code, int(code[-3:]) / 7))
    assert list(one.results()) == CODES[::-1]
    again = Store(tmp_path)
    assert again.open(ABOUT, go_on=True) == len(CODES)
    assert {code: found["score"] for code, found in again.results().items()} == {
        code: int(code[-3:]) / 7 for code in CODES
    }
    assert again.result(CODES[3]) == result(CODES[3], 3 / 7)
    assert again.result("other") is None


def test_results_of_others_are_seen_and_the_order_of_those_known_stays(tmp_path: Path) -> None:
    one, other = store(tmp_path), store(tmp_path)
    one.add(result("z"))
    other.add(result("a"))
    assert other.result("z") == result("z")
    one.results()
    other.add(result("b"))
    assert list(one.results()) == ["z", "a", "b"]
    assert one.result("b") == result("b")


def test_a_result_may_be_given_again(tmp_path: Path) -> None:
    one = store(tmp_path)
    one.add(result("a", 0.1))
    one.add(result("a", 0.2))
    assert store(tmp_path).result("a") == result("a", 0.2) == one.result("a")
    assert len(store(tmp_path).results()) == 1


@pytest.mark.parametrize(
    "text", ["", "{", '{"code": "a", "score": 0.5, "un', "\x00\xff", "[1]", "null", '{"score": 1}']
)
def test_a_broken_result_is_dropped_and_evaluated_again(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = store(tmp_path)
    one.add(result("a"))
    one.add(result("b"))
    broken = file_of(tmp_path, "a")
    broken.write_bytes(text.encode("latin-1"))
    again = Store(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert again.open(ABOUT, go_on=True) == 1
    assert f"{broken} cannot be read: it will be evaluated again" in caplog.text
    assert not broken.exists()
    assert again.result("a") is None
    assert again.claim("a")
    again.add(result("a"))
    assert store(tmp_path).results() == {"a": result("a"), "b": result("b")}


def test_half_a_result_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = store(tmp_path)
    assert one.claim("a")

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OutputError, match="No space left"):
        one.add(result("a"))
    monkeypatch.undo()
    assert list((tmp_path / "results").iterdir()) == []
    assert store(tmp_path).results() == {}


def test_long_codes_have_files(tmp_path: Path) -> None:
    codes = ["0" * 5000, "0" * 4999 + "1"]
    one = store(tmp_path)
    assert [one.claim(code) for code in codes] == [True, True]
    for code in codes:
        one.add(result(code))
    assert list(store(tmp_path).results()) in (codes, codes[::-1])


def test_a_folder_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "er"
    assert Store(folder).open(ABOUT, go_on=False) == 0
    assert json.loads((folder / "search.json").read_text()) == ABOUT
    empty = tmp_path / "empty"
    empty.mkdir()
    assert Store(empty).open(ABOUT, go_on=False) == 0


@pytest.mark.parametrize(
    ("key", "value"), [("space", "1"), ("metric", "cosine"), ("objectives", ["quality"])]
)
def test_a_folder_of_another_search_is_refused(tmp_path: Path, key: str, value: object) -> None:
    store(tmp_path).add(result("a"))
    before = (tmp_path / "search.json").read_text()
    with pytest.raises(CalibrationError, match=rf"\A.*a search with another {key}; name another.*"):
        Store(tmp_path).open({**ABOUT, key: value}, go_on=True)
    assert (tmp_path / "search.json").read_text() == before
    assert store(tmp_path).results() == {"a": result("a")}


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\xff"])
def test_a_folder_whose_description_is_broken_is_refused(tmp_path: Path, text: str) -> None:
    store(tmp_path)
    (tmp_path / "search.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CalibrationError, match="another format"):
        Store(tmp_path).open(ABOUT, go_on=True)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(CalibrationError, match="not empty, and no folder of a search"):
        Store(tmp_path).open(ABOUT, go_on=True)
    assert [each.name for each in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_folder_that_another_process_is_about_to_open_is_none_of_something_else(
    tmp_path: Path,
) -> None:
    for name in ("results", "claims", ".search.json.k3jx8a"):
        (tmp_path / name).mkdir()
    assert Store(tmp_path).open(ABOUT, go_on=True) == 0
    assert json.loads((tmp_path / "search.json").read_text()) == ABOUT


def test_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.open({}, go_on=False)
    assert store.claim("busy")
    with ThreadPoolExecutor(2) as pool:
        added = pool.submit(
            lambda: [store.add({"code": f"c{i}", "seconds": 1.0}) for i in range(400)]
        )
        while not added.done():
            assert not store.claim("busy")
        added.result()


def test_results_are_not_used_unasked(tmp_path: Path) -> None:
    one = store(tmp_path)
    assert Store(tmp_path).open(ABOUT, go_on=False) == 0
    one.add(result("a"))
    with pytest.raises(OutputError, match=r"holds 1 strategies .* --resume"):
        Store(tmp_path).open(ABOUT, go_on=False)
    assert Store(tmp_path).open(ABOUT, go_on=True) == 1


@pytest.mark.parametrize("name", ["file", "file/inside"])
def test_a_folder_that_cannot_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"\A.*file.*: .+\Z"):
        Store(tmp_path / name).open(ABOUT, go_on=False)


def test_a_claim_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    one = store(tmp_path)
    (tmp_path / "claims").rmdir()
    with pytest.raises(OutputError, match=r"\A.*claims.*: cannot be written: .+\Z"):
        one.claim("a")


RACE = """
import json, sys, time
from pathlib import Path
from onnxq.search.store import Store
folder, about, codes = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
store = Store(folder)
store.open(about, go_on=True)
claimed = []
for code in codes:
    if store.result(code) is None and store.claim(code):
        claimed.append(code)
        if len(claimed) % 2:
            store.add({"code": code, "by": sys.argv[4]})
print(json.dumps(claimed))
"""


def test_of_several_processes_one_gets_each_claim(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    command = [sys.executable, "-c", RACE, str(folder), json.dumps(ABOUT), json.dumps(CODES)]
    racers = [
        subprocess.Popen([*command, str(number)], stdin=-1, stdout=-1, stderr=-1, text=True)
        for number in range(PROCESSES)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:  # all are at the start
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    told = [racer.communicate() for racer in racers]
    assert all(racer.returncode == 0 for racer in racers), [each[1] for each in told]
    claimed = [code for out, _ in told for code in json.loads(out)]
    assert sorted(claimed) == CODES
    again = store(folder)
    found = {code: int(each["by"]) for code, each in again.results().items()}
    assert all(code in json.loads(told[by][0]) for code, by in found.items())
    assert len(found) + len(claims(folder)) == len(CODES)
