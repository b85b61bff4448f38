"""Tables: what does not merge, and what damaged files get."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxq import table_file
from onnxq.errors import CalibrationError, OutputError
from onnxq.numerics.observe import observe
from onnxq.table import CalibrationTable, Group, KeptSamples, content_hash

DATA = np.linspace(-1, 1, 50, dtype=np.float32)


def example() -> CalibrationTable:
    feeds = [{"x": np.full((1, 2), i, np.float32), "ids": np.arange(3)} for i in range(3)]
    return CalibrationTable(
        model_sha256="f00",
        groups=(
            Group(
                samples=3,
                tensors={"a": observe(DATA, keep=4), "b": observe(DATA.reshape(5, 10), (2, 0))},
            ),
        ),
        batch_size=1,
        versions={"onnxq": "1"},
        kept=KeptSamples(limit=2).add(feeds),
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    table_file.save(example(), tmp_path / "t.calib")
    return tmp_path / "t.calib"


def message(path: Path) -> str:
    with pytest.raises(CalibrationError) as caught:
        table_file.load(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path: Path, content: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def test_the_example_is_sound(saved: Path) -> None:
    read = table_file.load(saved)
    assert set(read.tensors) == {"a", "b"}
    assert len(read.kept.feeds) == 2
    rewrite(saved, members(saved))
    assert table_file.load(saved).samples == 3


def test_the_same_table_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    table_file.save(example(), tmp_path / "again.calib")
    assert (tmp_path / "again.calib").read_bytes() == saved.read_bytes()


def test_feeds_come_back_with_their_types(saved: Path) -> None:
    for key, feed in table_file.load(saved).kept.feeds.items():
        assert content_hash(feed) == key
        assert feed["ids"].dtype == np.int64


def test_missing_file(tmp_path: Path) -> None:
    assert message(tmp_path / "no.calib").endswith("no such file")


def test_a_folder(tmp_path: Path) -> None:
    assert "cannot be read" in message(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04", b"\x00" * 1000])
def test_no_zip(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.calib").write_bytes(content)
    assert "not a calibration table, or a damaged one" in message(tmp_path / "t.calib")


def test_truncated_anywhere(saved: Path) -> None:
    content = saved.read_bytes()
    for length in range(0, len(content), 97):
        saved.write_bytes(content[:length])
        assert "damaged" in message(saved)


def test_flipped_bytes_never_end_in_a_traceback(saved: Path) -> None:
    content = saved.read_bytes()
    messages = []
    for place in range(0, len(content), 13):
        spoiled = bytearray(content)
        spoiled[place] ^= 0x5A
        saved.write_bytes(spoiled)
        try:
            table_file.load(saved)
        except CalibrationError as error:
            messages.append(str(error))
    assert len(messages) > 20
    assert not any("\n" in text for text in messages)


@pytest.mark.parametrize(
    "missing", ["table.json", "g0.t0.npy", "g0.t1.npy", "g0.t0e.npy", "s0.0.npy"]
)
def test_missing_member(saved: Path, missing: str) -> None:
    content = members(saved)
    del content[missing]
    rewrite(saved, content)
    assert "damaged" in message(saved)


def test_a_pickle_is_not_opened(saved: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.array([Bomb()], dtype=object), allow_pickle=True)
    for content in (stream.getvalue(), pickle.dumps(Bomb())):
        rewrite(saved, {**members(saved), "g0.t0.npy": content})
        assert "damaged" in message(saved)
    assert not (tmp_path / "exploded").exists()


def test_a_huge_claim_is_not_allocated(saved: Path) -> None:
    stream = io.BytesIO()
    header = {"descr": "<i8", "fortran_order": False, "shape": (1 << 60,)}
    np.lib.format.write_array_header_1_0(stream, header)
    rewrite(saved, {**members(saved), "g0.t0.npy": stream.getvalue()})
    assert "damaged" in message(saved)


def test_an_encrypted_member(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[6] |= 1  # the flag of the first local header, and of the first central one
    content[content.index(b"PK\x01\x02") + 8] |= 1
    saved.write_bytes(content)
    assert "damaged" in message(saved)


Edit = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    "edit",
    [
        lambda meta: meta.pop("batch_size"),
        lambda meta: meta["groups"][0].update(tensors=[]),
        lambda meta: meta.update(kept=None),
        lambda meta: meta["groups"][0]["tensors"]["a"].update(lo=[0, 0]),
        lambda meta: meta["groups"][0]["tensors"]["a"].update(lo="low"),
        lambda meta: meta["groups"][0]["tensors"]["a"].update(histograms=[[1, 2]]),
        lambda meta: meta["groups"][0]["tensors"]["a"].update(histograms=7),
        lambda meta: meta["kept"].update(feeds={"k": {"x": "../../etc/passwd"}}),
    ],
)
def test_wrong_content(saved: Path, edit: Edit) -> None:
    content = members(saved)
    meta = json.loads(content["table.json"])
    edit(meta)
    rewrite(saved, {**content, "table.json": json.dumps(meta).encode()})
    assert "damaged" in message(saved)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_wrong_json(saved: Path, text: bytes) -> None:
    rewrite(saved, {**members(saved), "table.json": text})
    assert "damaged" in message(saved)


def test_another_format(saved: Path) -> None:
    content = members(saved)
    meta = {**json.loads(content["table.json"]), "format": 1}
    rewrite(saved, {**content, "table.json": json.dumps(meta).encode()})
    assert message(saved).endswith("table format 1 is not known here: calibrate again")


def test_nowhere_to_write(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        table_file.save(example(), tmp_path / "no" / "t.calib")


def test_tables_of_other_models_do_not_merge() -> None:
    with pytest.raises(CalibrationError, match="different models"):
        example().merge(replace(example(), model_sha256="bad"))


def test_tables_of_other_tensors_do_not_merge() -> None:
    with pytest.raises(CalibrationError, match="different tensors"):
        example().merge(replace(example(), groups=(Group(tensors={"a": observe(DATA)}),)))


def test_tables_of_other_groups_do_not_merge() -> None:
    with pytest.raises(CalibrationError, match="different numbers of groups"):
        example().merge(replace(example(), groups=example().groups * 2))


def test_any_groups_make_a_table() -> None:
    table = replace(example(), groups=example().groups * 3)
    assert table.only([0, 2]).samples == 6
    assert int(table.only([1]).tensors["a"].count) == DATA.size
    with pytest.raises(CalibrationError, match="groups 0 to 2"):
        table.only([3])


def test_a_checkpoint_is_of_one_run(tmp_path: Path) -> None:
    path = tmp_path / "t.calib.checkpoint"
    table_file.save(example(), path, table_file.Checkpoint(run="r", batches=7))
    assert table_file.resume(path, "r")[1] == 7
    with pytest.raises(CalibrationError, match="another run"):
        table_file.resume(path, "other")
    table_file.save(example(), path)
    with pytest.raises(CalibrationError, match="another run"):
        table_file.resume(path, "r")


def test_merging_unlike_tables_warns(caplog: pytest.LogCaptureFixture) -> None:
    example().merge(example())
    assert not caplog.text
    example().merge(replace(example(), batch_size=2))
    assert "different batch sizes" in caplog.text


def test_kept_samples_are_copies() -> None:
    batch = np.zeros((4, 2), np.float32)
    feeds = [{"x": batch[i : i + 1]} for i in range(4)]
    batch[:, 0] = range(4)
    kept = KeptSamples(limit=2).add(feeds)
    batch[:] = -1
    for key, feed in kept.feeds.items():
        assert content_hash(feed) == key
        assert not np.shares_memory(feed["x"], batch)
    assert all(feed["x"].base is batch for feed in feeds)  # the caller's feeds are left alone


def test_one_sample_is_kept_once() -> None:
    kept = KeptSamples(limit=3).add([{"x": np.zeros(2)}] * 3)
    assert len(kept.feeds) == 1
    assert kept.add([{"x": np.zeros(2)}]).feeds.keys() == kept.feeds.keys()


def test_limits_may_be_reached_but_not_passed() -> None:
    feeds = [{"x": np.full(5, i, np.uint8)} for i in range(3)]
    assert len(KeptSamples(limit=3, limit_bytes=15).add(feeds).feeds) == 3
    assert len(KeptSamples(limit=3, limit_bytes=14).add(feeds).feeds) == 2
    assert len(KeptSamples(limit=2, limit_bytes=15).add(feeds).feeds) == 2


def test_a_sample_too_large_ends_the_prefix() -> None:
    feeds = [{"x": np.zeros(size, np.uint8)} for size in (1, 2, 3, 100)]
    order = sorted(feeds, key=content_hash)
    kept = KeptSamples(limit=9, limit_bytes=99).add(feeds)
    large = next(i for i, feed in enumerate(order) if feed["x"].size == 100)
    assert list(kept.feeds) == [content_hash(feed) for feed in order[:large]]
    assert kept.cut == content_hash(order[large])


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({"x": np.array([1.0, 2.0])}, True),
        ({"x": np.array([2.0, 1.0])}, False),
        ({"y": np.array([1.0, 2.0])}, False),
        ({"x": np.array([1.0, 2.0], np.float32)}, False),
        ({"x": np.array([[1.0, 2.0]])}, False),
        ({"x": np.array([1.0, 0.0, 2.0])[::2]}, True),
    ],
)
def test_content_hash(other: dict[str, Any], same: bool) -> None:
    assert (content_hash({"x": np.array([1.0, 2.0])}) == content_hash(other)) is same


def test_a_member_that_claims_too_much(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_file, "LARGEST_MEMBER", 100)
    assert "damaged" in message(saved)
