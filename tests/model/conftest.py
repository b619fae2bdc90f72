"""The long form of the models has no time limit."""

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lift the time limit of the long form."""
    if os.environ.get("BAROGRAPH_HYPOTHESIS") == "long":
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent):
                item.add_marker(pytest.mark.timeout(0))
