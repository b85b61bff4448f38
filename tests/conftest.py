"""Profiles of hypothesis: `ci` repeats exactly, `deep` looks further; a fresh log."""

import logging
import os

import pytest
from hypothesis import HealthCheck, settings

from onnxq.graph.session import Runtime

SLOW = (HealthCheck.too_slow,)  # the first call compiles, and machines are busy

settings.register_profile(
    "ci",
    derandomize=True,
    max_examples=30,
    deadline=None,
    database=None,
    suppress_health_check=SLOW,
)
settings.register_profile("deep", max_examples=1000, deadline=None, suppress_health_check=SLOW)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def _one_thread(self: Runtime) -> None:
    """Leave the other cores to the other workers: threads that wait for work take theirs."""
    if self.threads == 0:
        object.__setattr__(self, "threads", 1)


if "PYTEST_XDIST_WORKER" in os.environ:
    Runtime.__post_init__ = _one_thread  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _fresh_log() -> None:
    """Undo what commands run inside of earlier tests and fixtures did to the log."""
    log = logging.getLogger("onnxq")
    log.handlers.clear()
    log.propagate = True
    log.setLevel(logging.NOTSET)
