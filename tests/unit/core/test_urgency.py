"""Tests of the order of VMs on the page and in commands: pressure, unexpected states, and the rest."""

from dataclasses import replace

import pytest

from agent.core.pressure import PressureLevel
from agent.core.reading import State, VmView
from agent.core.states import Reason
from agent.core.urgency import Urgency, is_well, level_now, urgency, urgency_of
from tests.unit.sinks.views import pressure, sample, view


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


def under(level: PressureLevel, state: State = State.REPORTING, score: float | None = 0.5) -> VmView:
    newest = sample()
    return replace(view(newest, state=state), pressure=pressure(newest, level, score))


@pytest.mark.parametrize(
    ("shown", "place"),
    [
        (under(PressureLevel.OOM), Urgency.OOM),
        (under(PressureLevel.PRESSURE), Urgency.PRESSURE),
        (under(PressureLevel.LOW), Urgency.LOW),
        (under(PressureLevel.OOM, State.STALLED), Urgency.UNEXPECTED),
        (view(state=State.UNREACHABLE), Urgency.UNEXPECTED),
        (under(PressureLevel.NONE), Urgency.NONE),
        (under(PressureLevel.OOM, State.PAUSED), Urgency.NONE),
        (view(state=State.WAITING), Urgency.PENDING),
    ],
)
def test_a_vm_of_this_agent_has_its_place(shown: VmView, place: Urgency) -> None:
    assert urgency_of(shown) is place


def test_polling_that_is_configured_off_is_not_unexpected() -> None:
    off = view(state=State.OFF)

    configured = replace(off, state=replace(off.state, reason=Reason.POLLING_DISABLED))

    assert (urgency_of(off), urgency_of(configured)) == (Urgency.UNEXPECTED, Urgency.NONE)


def test_a_level_without_a_score_or_without_updates_is_not_current() -> None:
    assert level_now(under(PressureLevel.LOW)) is PressureLevel.LOW
    assert level_now(under(PressureLevel.LOW, score=None)) is None
    assert level_now(under(PressureLevel.LOW, State.STALLED)) is None
