"""Tests that the test suite catches seeded faults: every third one here, all of them in the long form."""

import pytest

from tests.model.seeded_faults import MODELS, caught_by

_LONG = ("simulated", "streams")
SHORT_FORM = {name: model.faults[::3] for name, model in MODELS.items() if name not in _LONG}
"""The faults of the simulator and of the stream jobs run only in the long form: each needs many tests."""


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        pytest.param(name, old, new, marks=() if (old, new) in SHORT_FORM.get(name, ()) else pytest.mark.long)
        for name, model in MODELS.items()
        for old, new in model.faults
    ],
    ids=[f"{name}-{number}" for name, model in MODELS.items() for number, _ in enumerate(model.faults, 1)],
)
@pytest.mark.timeout(1860)
def test_a_seeded_fault_is_caught(name: str, old: str, new: str) -> None:
    assert caught_by(MODELS[name], old, new) is not None, f"no test fails with {new!r} in place of {old!r}"
