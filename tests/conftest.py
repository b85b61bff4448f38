"""Profiles of hypothesis: `ci` repeats exactly, `deep` looks further."""

import os

from hypothesis import HealthCheck, settings

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
