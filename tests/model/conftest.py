"""How many histories: a hundred at each change, ten thousand where BAROGRAPH_HYPOTHESIS=long."""

import os

from hypothesis import HealthCheck, settings

_CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much]

settings.register_profile(
    "short",
    max_examples=150,
    stateful_step_count=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=_CHECKS,
)
settings.register_profile(
    "long", max_examples=10_000, stateful_step_count=60, deadline=None, suppress_health_check=_CHECKS
)
settings.load_profile(os.environ.get("BAROGRAPH_HYPOTHESIS", "short"))
