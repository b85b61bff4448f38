"""Errors survive the way from one process to another."""

import pickle

import pytest

from onnxq.errors import OnnxqError, UnknownNameError, UsageError


@pytest.mark.parametrize(
    "error", [UsageError("a b"), UnknownNameError("range", "mnmax", ["minmax"])]
)
def test_pickled_and_back_it_is_the_same(error: OnnxqError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))
