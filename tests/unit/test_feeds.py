"""Batches: sizes, limits, shards, what is converted and what is refused."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from onnxq.errors import CalibrationError
from onnxq.feeds import Batch, Cut, batches
from onnxq.readers import InputInfo, Reader
from onnxq.types import Array

X = InputInfo("x", "float32", (None, 3))


@dataclass
class Listed:
    """A reader of given feeds, which counts how many were asked for."""

    name: ClassVar[str] = "listed"
    feeds: Sequence[Mapping[str, Any]]
    stackable: bool = True
    read: int = 0

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for feed in self.feeds:
            self.read += 1
            yield feed


def ramp(rows: int, start: int = 0) -> Array:
    """Rows of three equal numbers: start, start + 1, …."""
    return np.repeat(np.arange(start, start + rows, dtype=np.float32)[:, None], 3, axis=1)


def chunks(*sizes: int) -> Listed:
    """A reader of a ramp in chunks, with the row's number as label."""
    starts = np.cumsum([0, *sizes]).tolist()
    return Listed(
        [
            {"x": ramp(size, start), "label": np.arange(start, start + size)}
            for start, size in zip(starts, sizes, strict=False)
        ]
    )


def cut(reader: Reader | Listed, *inputs: InputInfo, **options: Any) -> list[Batch]:
    return list(batches(reader, inputs or (X,), Cut(**options)))  # type: ignore[arg-type]


def numbers(found: Sequence[Batch]) -> list[list[int]]:
    return [batch.inputs["x"][:, 0].astype(int).tolist() for batch in found]


def refused(reader: Listed, *inputs: InputInfo, **options: Any) -> str:
    with pytest.raises(CalibrationError) as caught:
        cut(reader, *inputs, **options)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4
    return str(caught.value)


@pytest.mark.parametrize("sizes", [(7,), (1,) * 7, (3, 4), (2, 0, 5), (5, 1, 1), (0, 7, 0)])
def test_batches_do_not_depend_on_the_readers_chunks(sizes: tuple[int, ...]) -> None:
    found = cut(chunks(*sizes), batch_size=3)
    assert numbers(found) == [[0, 1, 2], [3, 4, 5], [6]]
    assert [batch.samples for batch in found] == [3, 3, 1]
    assert [batch.labels["label"].tolist() for batch in found] == numbers(found)


def test_arrays_are_contiguous_and_of_the_models_type() -> None:
    (batch,) = cut(Listed([{"x": np.asfortranarray(ramp(4))}]), batch_size=4)
    assert batch.inputs["x"].flags.c_contiguous
    assert batch.inputs["x"].dtype == np.float32


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (1, [[0]]),
        (2, [[0, 1]]),
        (3, [[0, 1], [2]]),
        (4, [[0, 1], [2, 3]]),
        (5, [[0, 1], [2, 3], [4]]),
        (9, [[0, 1], [2, 3], [4]]),
        (None, [[0, 1], [2, 3], [4]]),
    ],
)
def test_samples_limit(samples: int | None, expected: list[list[int]]) -> None:
    assert numbers(cut(chunks(3, 2), batch_size=2, samples=samples)) == expected


def test_no_more_is_read_than_needed() -> None:
    reader = chunks(2, 2, 2, 2)
    cut(reader, batch_size=2, samples=4)
    assert reader.read == 2


def test_shards_part_the_batches() -> None:
    whole = numbers(cut(chunks(4, 7), batch_size=2))
    for count in (1, 2, 3, 6):
        shards = [
            numbers(cut(chunks(4, 7), batch_size=2, shard=(index, count))) for index in range(count)
        ]
        assert sorted(batch for shard in shards for batch in shard) == whole
        assert shards[0] == whole[::count]


def test_an_empty_shard_is_an_error() -> None:
    assert "shard" in refused(chunks(2), batch_size=2, shard=(1, 2))


def test_fixed_batch_of_one() -> None:
    fixed = InputInfo("x", "float32", (1, 3))
    found = cut(chunks(2, 1), fixed, batch_size=8)
    assert numbers(found) == [[0], [1], [2]]
    assert all(batch.splittable and batch.samples == 1 for batch in found)


def test_fixed_batch_leaves_out_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    fixed = InputInfo("x", "float32", (2, 3))
    found = cut(chunks(3, 2), fixed, batch_size=8)
    assert numbers(found) == [[0, 1], [2, 3]]
    assert not any(batch.splittable for batch in found)
    assert "the last 1 samples do not fill a batch of 2" in caplog.text


def test_fixed_batch_with_a_limit() -> None:
    fixed = InputInfo("x", "float32", (2, 3))
    assert numbers(cut(chunks(9), fixed, samples=5)) == [[0, 1], [2, 3]]


@pytest.mark.parametrize("options", [{}, {"samples": 3}])
def test_too_few_for_one_fixed_batch(options: dict[str, int]) -> None:
    message = refused(chunks(3), InputInfo("x", "float32", (4, 3)), **options)
    assert message == "the data holds no batch of 4 samples, the size the model asks for"


def test_feeds_that_do_not_stack_stay_as_they_are() -> None:
    reader = Listed([{"x": ramp(2)}, {"x": ramp(3)}, {"x": ramp(1)}], stackable=False)
    found = cut(reader, batch_size=2)
    assert numbers(found) == [[0, 1], [0, 1, 2], [0]]
    assert [(batch.samples, batch.splittable) for batch in found] == [(1, False)] * 3
    assert len(cut(reader, samples=2)) == 2


def test_rows() -> None:
    (batch,) = cut(chunks(2), batch_size=2)
    assert [row["x"].tolist() for row in batch.rows()] == [[[0, 0, 0]], [[1, 1, 1]]]
    assert [list(row) for row in batch.rows()] == [["x"], ["x"]]  # labels are no input
    (whole,) = cut(Listed([{"x": ramp(2)}], stackable=False))
    assert [row["x"].shape for row in whole.rows()] == [(2, 3)]


def test_labels_of_any_kind_pass_through() -> None:
    feed = {"x": ramp(2), "label": np.array([1, 2]), "label_text": np.array(["a", "b"])}
    (batch,) = cut(Listed([feed]), batch_size=2)
    assert set(batch.labels) == {"label", "label_text"}
    assert batch.labels["label_text"].tolist() == ["a", "b"]


def test_an_input_named_label_is_an_input() -> None:
    (batch,) = cut(Listed([{"label": ramp(1)}]), InputInfo("label", "float32", (None, 3)))
    assert not batch.labels
    assert "label" in batch.inputs


@pytest.mark.parametrize("feeds", [[], [{"x": ramp(0)}]])
def test_no_sample(feeds: list[dict[str, Array]]) -> None:
    assert refused(Listed(feeds)) == "the data holds no sample"
    if not feeds:
        assert refused(Listed(feeds, stackable=False)) == "the data holds no sample"


def test_missing_input() -> None:
    message = refused(Listed([{"label": np.zeros(1), "y": ramp(1)}]), X, InputInfo("y", "f4", None))
    assert message == "input 'x' is missing from the data, which has label, y"


def test_unknown_name() -> None:
    message = refused(Listed([{"x": ramp(1), "X": ramp(1)}]))
    assert "'X'" in message
    assert "rename it to 'x', or to 'label…'" in message


@pytest.mark.parametrize(
    ("expected", "found", "says"),
    [
        ((None, 3), (2, 4), "expected shape ?×3, found 2×4"),
        ((None, 3), (2, 3, 1), "expected shape ?×3, found 2×3×1"),
        ((1, 3, None, 8), (1, 3, 7, 9), "expected shape 1×3×?×8, found 1×3×7×9"),
        ((None, 3), (), "expected shape ?×3, found a scalar"),
        ((), (2,), "expected shape a scalar, found 2"),
    ],
)
def test_wrong_shapes(expected: tuple[int | None, ...], found: tuple[int, ...], says: str) -> None:
    reader = Listed([{"x": np.zeros(found, np.float32)}])
    message = refused(reader, InputInfo("x", "float32", expected))
    assert message == f"input 'x', feed 0: {says}"


def test_unknown_rank_takes_any_shape() -> None:
    (batch,) = cut(Listed([{"x": np.zeros((1, 2, 3))}]), InputInfo("x", "float32", None))
    assert batch.inputs["x"].shape == (1, 2, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value: float) -> None:
    spoiled = ramp(2)
    spoiled[1, 2] = value
    message = refused(Listed([{"x": ramp(1)}, {"x": spoiled}]))
    assert message == "input 'x', feed 1: the data holds NaN or infinite values"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("float64", "float32"),
        ("float16", "float32"),
        ("uint8", "float32"),
        ("bool", "float32"),
        ("int64", "float32"),
        ("float32", "float16"),
        ("int32", "int64"),
        ("int64", "int32"),
        ("uint8", "int64"),
        ("uint16", "uint8"),
        ("bool", "int64"),
        (">f4", "float32"),
        (">i8", "int64"),
    ],
)
def test_conversions(found: str, expected: str) -> None:
    values = np.array([[0, 1, 1]]).astype(found)
    (batch,) = cut(Listed([{"x": values}]), InputInfo("x", expected, (None, 3)))
    converted = batch.inputs["x"]
    assert converted.dtype == np.dtype(expected)
    assert converted.dtype.isnative
    assert converted.tolist() == [[0, 1, 1]]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("float32", "int64"),
        ("float64", "uint8"),
        ("int64", "uint8"),
        ("int64", "bool"),
        ("float32", "bool"),
        ("complex64", "float32"),
        ("<U3", "float32"),
        ("<U3", "int64"),
    ],
)
def test_conversions_refused(found: str, expected: str) -> None:
    message = refused(Listed([{"x": np.zeros((1, 3), found)}]), InputInfo("x", expected, (None, 3)))
    assert message == f"input 'x', feed 0: expected {expected}, found {found}"


@pytest.mark.parametrize(
    ("value", "found", "expected"),
    [
        (1e39, "float64", "float32"),
        (-1e5, "float32", "float16"),
        (70000, "int64", "float16"),
        (2**40, "int64", "int32"),
        (-129, "int64", "int8"),
        (256, "uint16", "uint8"),
        (2**63, "uint64", "int64"),
    ],
)
def test_values_beyond_the_type_are_refused(value: float, found: str, expected: str) -> None:
    values = np.array([[0, value, 0]], found)
    message = refused(Listed([{"x": values}]), InputInfo("x", expected, (None, 3)))
    assert message.startswith(f"input 'x', feed 0: expected {expected}, found {found} with values")


def test_a_conversion_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cut(Listed([{"x": ramp(1).astype(np.float64)}] * 3))
    assert caplog.text.count("float64 converted to float32") == 1


def test_uneven_feeds_are_refused() -> None:
    message = refused(Listed([{"x": ramp(4), "label": np.zeros(3)}]), batch_size=2)
    assert message == "the first axis must count samples in every array, found 'x' 4×3, 'label' 3"


def test_scalars_do_not_stack() -> None:
    reader = Listed([{"s": np.float32(1)}])
    assert "found 's' a scalar" in refused(reader, InputInfo("s", "float32", ()))


def test_feeds_with_other_arrays_do_not_join() -> None:
    reader = Listed([{"x": ramp(1), "label": np.zeros(1)}, {"x": ramp(1)}])
    assert refused(reader, batch_size=2).startswith("label is in some of the data only")


def test_samples_of_other_shapes_do_not_join() -> None:
    free = InputInfo("x", "float32", (None, None))
    feeds = [{"x": np.zeros((1, 3))}, {"x": np.zeros((1, 4))}]
    message = refused(Listed(feeds), free, batch_size=2)
    assert message.startswith("'x': samples of shape 3 and 4 do not join into a batch")
    assert [b.inputs["x"].shape for b in cut(Listed(feeds), free)] == [(1, 3), (1, 4)]


@pytest.mark.parametrize("error", [ValueError("bad file"), OSError("bad disk")])
def test_a_readers_errors_are_ours(error: Exception) -> None:
    class Failing(Listed):
        def __iter__(self) -> Iterator[Mapping[str, Any]]:
            yield {"x": ramp(1)}
            raise error

    assert refused(Failing([])) == str(error)


def test_a_readers_bug_is_a_bug() -> None:
    class Broken(Listed):
        def __iter__(self) -> Iterator[Mapping[str, Any]]:
            yield {"x": ramp(1)}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cut(Broken([]))
