"""Conformance suites: what every plug-in must hold, ours and those of others.

Plain functions that raise AssertionError; run them from any test runner::

    import pytest
    from onnxq.testing import METRIC_CHECKS, RANGE_CHECKS, metric_cases, range_cases

    @pytest.mark.parametrize("case", range_cases(), ids=str)
    @pytest.mark.parametrize("check", RANGE_CHECKS)
    def test_range(check, case):
        check(MyRange(), case)

    @pytest.mark.parametrize("check", METRIC_CHECKS)
    def test_metric(check):
        check(MyMetric(), metric_cases()["classes"])
"""

from onnxq.testing.metrics import METRIC_CHECKS, MetricCase, MetricCheck, metric_cases
from onnxq.testing.ranges import RANGE_CHECKS, RangeCase, RangeCheck, range_cases, statistics

__all__ = [
    "METRIC_CHECKS",
    "RANGE_CHECKS",
    "MetricCase",
    "MetricCheck",
    "RangeCase",
    "RangeCheck",
    "metric_cases",
    "range_cases",
    "statistics",
]
