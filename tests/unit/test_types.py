"""The four values: what they refuse, what they freeze."""

from typing import Any

import numpy as np
import pytest

from onnxq.numerics.histogram import EMPTY
from onnxq.types import IntType, QuantParams, Range, TensorStats

INT8 = IntType(8, signed=True)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("int8", -128, 127),
        ("uint8", 0, 255),
        ("int4", -8, 7),
        ("uint2", 0, 3),
        ("int32", -(2**31), 2**31 - 1),
        ("uint32", 0, 2**32 - 1),
    ],
)
def test_int_types(name: str, least: int, most: int) -> None:
    dtype = IntType.parse(name)
    assert (dtype.qmin, dtype.qmax, dtype.name) == (least, most, name)


@pytest.mark.parametrize("name", ["float32", "int", "uint1", "int33", "int0", "INT8", " int8", ""])
def test_other_types_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"integer type"):
        IntType.parse(name)


@pytest.mark.parametrize(
    ("lo", "hi", "says"),
    [
        (0.5, 1.0, "contain zero"),
        (-1.0, -0.5, "contain zero"),
        (-np.inf, 1.0, "finite"),
        (0.0, np.nan, "finite"),
        ([0.0], [1.0, 2.0], "shape"),
    ],
)
def test_ranges_refused(lo: Any, hi: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Range(lo, hi)


@pytest.mark.parametrize(
    ("lo", "hi", "expected"),
    [
        (2.0, 3.0, (0.0, 3.0)),
        (-3.0, -2.0, (-3.0, 0.0)),
        (-1.0, 2.0, (-1.0, 2.0)),
        (np.inf, -np.inf, (0.0, 0.0)),
        (np.nan, np.nan, (0.0, 0.0)),
    ],
)
def test_containing_zero(lo: float, hi: float, expected: tuple[float, float]) -> None:
    chosen = Range.containing_zero(lo, hi)
    assert (chosen.lo, chosen.hi) == expected


def test_within_cuts_and_keeps_zero() -> None:
    chosen = Range([-1.0, 0.0], [8.0, 3.0])
    cut = chosen.within(0, 6)
    assert (cut.lo.tolist(), cut.hi.tolist()) == ([0, 0], [6, 3])
    above = chosen.within(2, 6)  # zero stays inside whatever the bounds
    assert (above.lo.tolist(), above.hi.tolist()) == ([0, 0], [6, 3])
    below = chosen.within(-6, -2)
    assert (below.lo.tolist(), below.hi.tolist()) == ([-1, 0], [0, 0])
    open_ended = chosen.within(-np.inf, np.inf)
    assert (open_ended.lo.tolist(), open_ended.hi.tolist()) == ([-1, 0], [8, 3])


def test_arrays_are_frozen_copies() -> None:
    lo = np.array([-1.0])
    chosen = Range(lo, [1.0])
    lo[0] = -5
    assert chosen.lo == [-1]
    with pytest.raises(ValueError, match="read-only"):
        chosen.lo[0] = -2
    params = QuantParams(dtype=INT8, scale=np.float32(1), zero_point=np.int64(0))
    with pytest.raises(ValueError, match="read-only"):
        params.scale[...] = 2
    stats = TensorStats(count=[1], lo=[0], hi=[1])
    with pytest.raises(ValueError, match="read-only"):
        stats.count[0] = 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scale": 0.0}, "positive"),
        ({"scale": -1.0}, "positive"),
        ({"scale": np.inf}, "positive"),
        ({"scale": np.nan}, "positive"),
        ({"scale": 1e-60}, "positive"),
        ({"zero_point": 128}, "int8"),
        ({"zero_point": -129}, "int8"),
        ({"zero_point": [0, 0]}, "one entry a tile"),
        ({"tile": (0, 1)}, "rank"),
    ],
)
def test_params_refused(changes: dict[str, Any], says: str) -> None:
    good: dict[str, Any] = {"dtype": INT8, "scale": 1.0, "zero_point": 0}
    QuantParams(**good)
    with pytest.raises(ValueError, match=says):
        QuantParams(**{**good, **changes})


def test_stats_refused() -> None:
    with pytest.raises(ValueError, match="one entry a tile"):
        TensorStats(count=[1], lo=[0, 0], hi=[1])
    with pytest.raises(ValueError, match="2 histograms for 1 tiles"):
        TensorStats(count=[1], lo=[0], hi=[1], histograms=(EMPTY, EMPTY))
