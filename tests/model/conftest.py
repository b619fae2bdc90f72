"""How many histories of each model: profile quick in `make check`, else short or BAROGRAPH_HYPOTHESIS."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

_CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much]

settings.register_profile(
    "short",
    max_examples=150,
    stateful_step_count=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=_CHECKS,
)
settings.register_profile("quick", settings.get_profile("short"), max_examples=40)
settings.register_profile(
    "long", max_examples=10_000, stateful_step_count=60, deadline=None, suppress_health_check=_CHECKS
)
# A seeded fault only has to be caught, so the history that catches it need not be made shorter.
settings.register_profile("seeded", settings.get_profile("short"), phases=[Phase.generate])
_PROFILE = os.environ.get("BAROGRAPH_HYPOTHESIS", "short")
settings.load_profile(_PROFILE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lift the time limit of the long form."""
    if _PROFILE == "long":
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent):
                item.add_marker(pytest.mark.timeout(0))
