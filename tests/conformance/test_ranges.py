"""The same questions to every range algorithm, ours and those of installed packages."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from onnxq.errors import CalibrationError
from onnxq.numerics.observe import observe
from onnxq.ranges import RANGES
from onnxq.ranges.minmax import MinMax
from onnxq.ranges.mse import Mse
from onnxq.ranges.outlier_var import OutlierVar
from onnxq.ranges.percentile import Percentile
from onnxq.registry import find, known
from onnxq.testing import ranges as testing
from onnxq.types import IntType, QuantSpec, Range, RangeAlgorithm, TensorStats

REGISTERED = [find("ranges", name, RANGES)() for name in sorted(known("ranges", RANGES))]
VARIANTS = [
    Percentile(percentile=100),
    Percentile(percentile=50.001),
    Mse(candidates=1),
    Mse(candidates=7, smallest=0.001),
    OutlierVar(k1=3, k2=0.2, alpha=float("inf"), beta=0),
    OutlierVar(k1=500, k2=0.4, variance="raw", extremes="all"),
]
CASES = testing.range_cases()


@pytest.mark.parametrize("check", testing.RANGE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("algorithm", [*REGISTERED, *VARIANTS], ids=repr)
def test_range(algorithm: RangeAlgorithm, check: testing.RangeCheck) -> None:
    for case in CASES:
        try:
            check(algorithm, case)
        except Exception as error:
            error.add_note(f"case: {case}")
            raise


@pytest.mark.parametrize("algorithm", REGISTERED, ids=repr)
def test_options_are_frozen_and_equal_algorithms_are_equal(algorithm: RangeAlgorithm) -> None:
    assert type(algorithm)() == algorithm
    assert isinstance(algorithm.name, str)
    with pytest.raises(AttributeError):
        algorithm.name = "other"  # type: ignore[misc]


@dataclass(frozen=True, kw_only=True)
class Spoiled:
    """Min–max with one fault."""

    name: ClassVar[str] = "spoiled"
    needs_histogram: ClassVar[bool] = True
    needs_ends: ClassVar[bool] = False
    fault: str

    def __call__(self, stats: TensorStats, spec: QuantSpec) -> Range:
        chosen = MinMax()(stats, spec)
        if self.fault == "shape":
            return Range(chosen.lo.reshape(-1), chosen.hi.reshape(-1))
        if self.fault == "NaN":
            return _unchecked(np.full_like(chosen.lo, np.nan), chosen.hi)
        if self.fault == "above zero":
            return _unchecked(chosen.lo + 1, chosen.hi + 2)
        if self.fault == "random":
            return Range(chosen.lo, chosen.hi + np.random.default_rng().random())
        if self.fault.startswith("mutates"):
            _mutate(stats, self.fault)
        return chosen


def _mutate(stats: TensorStats, fault: str) -> None:
    arrays = [histogram.positive for histogram in stats.histograms]
    if fault == "mutates ends":
        arrays = [held.largest for held in stats.ends]
    for array in arrays:
        array.flags.writeable = True
        array[:] = 0


def _unchecked(lo: Any, hi: Any) -> Range:
    chosen = object.__new__(Range)
    object.__setattr__(chosen, "lo", lo)
    object.__setattr__(chosen, "hi", hi)
    return chosen


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("shape", testing.check_range_fits_tiles),
        ("NaN", testing.check_range_fits_tiles),
        ("above zero", testing.check_range_fits_tiles),
        ("random", testing.check_range_repeats),
        ("mutates", testing.check_range_keeps_statistics),
        ("mutates ends", testing.check_range_keeps_statistics),
    ],
)
def test_the_suite_finds_faults(fault: str, check: testing.RangeCheck) -> None:
    with pytest.raises(AssertionError):
        run(check, Spoiled(fault=fault))


@pytest.mark.parametrize("check", testing.RANGE_CHECKS, ids=lambda check: check.__name__)
def test_the_suite_lets_the_unspoiled_pass(check: testing.RangeCheck) -> None:
    run(check, Spoiled(fault="none"))


def run(check: testing.RangeCheck, algorithm: RangeAlgorithm) -> None:
    for case in testing.range_cases():  # new ones: a faulty algorithm may spoil them
        check(algorithm, case)


def test_cases_name_themselves_once() -> None:
    assert len({str(case) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("algorithm", [*REGISTERED, *VARIANTS], ids=repr)
def test_extremes_alone_are_enough_or_refused(algorithm: RangeAlgorithm) -> None:
    spec = QuantSpec(dtype=IntType(8, signed=True), symmetric=True, range=algorithm)
    stats = observe(np.array([-1.0, 2.0]), histogram=False)
    if not (algorithm.needs_histogram or algorithm.needs_ends):
        assert algorithm(stats, spec).hi == 2
        return
    needed = "a histogram" if algorithm.needs_histogram else "the ends"
    with pytest.raises(CalibrationError, match=f"needs {needed}"):
        algorithm(stats, spec)


@pytest.mark.parametrize("algorithm", [*REGISTERED, *VARIANTS], ids=repr)
def test_what_is_not_asked_for_is_not_read(algorithm: RangeAlgorithm) -> None:
    spec = QuantSpec(dtype=IntType(8, signed=True), symmetric=True, range=algorithm)
    whole = testing.statistics(np.linspace(-1, 2, 300, dtype=np.float32))
    less = replace(
        whole,
        histograms=whole.histograms if algorithm.needs_histogram else (),
        ends=whole.ends if algorithm.needs_ends else (),
    )
    assert algorithm(less, spec) == algorithm(whole, spec)
