"""The order of the page and the commands: pressure, unexpected states, and the rest."""

import pytest

from agent.core.pressure import PressureLevel
from agent.core.reading import State
from agent.core.urgency import Urgency, is_well, urgency


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("oom", Urgency.OOM),
        ("pressure", Urgency.PRESSURE),
        ("low", Urgency.LOW),
        ("none", Urgency.NONE),
        (None, Urgency.NONE),
        ("of-a-later-agent", Urgency.NONE),
    ],
)
def test_the_level_decides_while_the_vm_reports(level: str | None, expected: Urgency) -> None:
    assert urgency("reporting", "advancing", level) is expected


@pytest.mark.parametrize(
    ("state", "reason", "expected", "well"),
    [
        ("stalled", "no_advance", Urgency.UNEXPECTED, False),
        ("unreachable", "no_answer", Urgency.UNEXPECTED, False),
        ("off", "contended", Urgency.UNEXPECTED, False),
        ("off", "polling_disabled", Urgency.NONE, True),
        ("paused", "paused", Urgency.NONE, True),
        ("paused", "guest-panicked", Urgency.UNEXPECTED, False),
        ("paused", "io-error", Urgency.UNEXPECTED, False),
        ("gone", "missing", Urgency.NONE, True),
        ("connecting", "first_attempt", Urgency.PENDING, False),
        ("waiting", "no_update_yet", Urgency.PENDING, False),
        ("reporting", "advancing", Urgency.NONE, True),
        ("of-a-later-agent", "x", Urgency.UNEXPECTED, False),
    ],
)
def test_the_state_decides_otherwise(state: str, reason: str, expected: Urgency, well: bool) -> None:
    assert urgency(state, reason, None) is expected
    assert is_well(state, reason) is well


@pytest.mark.parametrize("state", [each for each in State if each is not State.REPORTING])
@pytest.mark.parametrize("level", PressureLevel)
def test_an_old_level_of_a_vm_that_does_not_report_does_not_count(state: State, level: str) -> None:
    assert urgency(state, "x", level) is urgency(state, "x", None)
