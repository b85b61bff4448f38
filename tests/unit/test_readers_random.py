"""Random data: shapes, types, seeds, and the warning."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from calib_readers.random import RandomReader


@dataclass(frozen=True)
class Input:
    name: str
    dtype: str = "float32"
    shape: tuple[int | None, ...] | None = (None, 3)


def first(*inputs: Input, **options: Any) -> dict[str, np.ndarray]:
    return next(iter(RandomReader(None, inputs, **options)))


def test_open_axes_get_one_and_size() -> None:
    feed = first(Input("x", shape=(None, 3, None)), Input("y", shape=()), size="5")
    assert feed["x"].shape == (1, 3, 5)
    assert feed["y"].shape == ()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint8", "bool"])
def test_dtypes(dtype: str) -> None:
    values = first(Input("x", dtype, (1000,)))["x"]
    assert values.dtype == dtype
    if values.dtype.kind == "f":
        assert abs(values.mean()) < 0.2
        assert 0.8 < values.std() < 1.2
    else:
        assert sorted(set(values.tolist())) == [0, 1]


def test_seed_and_samples() -> None:
    x = Input("x")
    a, b = (list(RandomReader(None, [x], samples="3", seed=seed)) for seed in (0, "1"))
    assert len(a) == len(RandomReader(None, [x], samples=3)) == 3
    assert not np.array_equal(a[0]["x"], b[0]["x"])
    assert not np.array_equal(a[0]["x"], a[1]["x"])


def test_stackable_only_when_every_first_axis_is_open() -> None:
    open_, fixed, scalar = Input("a"), Input("b", shape=(1, 3)), Input("c", shape=())
    assert RandomReader(None, [open_]).stackable
    assert not RandomReader(None, [open_, fixed]).stackable
    assert not RandomReader(None, [open_, scalar]).stackable


def test_says_it_is_no_calibration() -> None:
    (note,) = RandomReader(None, [Input("x")]).notes
    assert "not calibrated" in note


@pytest.mark.parametrize(
    ("item", "options", "words"),
    [
        (Input("x", shape=None), {}, "no shape"),
        (Input("x", "str"), {}, "no str"),
        (Input("x", "nonsense"), {}, "no nonsense"),
        (Input("x"), {"samples": 0}, "option samples"),
        (Input("x"), {"samples": "many"}, "option samples"),
        (Input("x"), {"seed": -1}, "option seed"),
        (Input("x"), {"size": "1.5"}, "option size"),
    ],
)
def test_refusals(item: Input, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RandomReader(None, [item], **options)
