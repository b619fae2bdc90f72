from dataclasses import replace

import pytest

from agent.core.pressure import PressureLevel
from agent.core.ranking import Attention, attention, level_now
from agent.core.reading import State, VmView
from agent.core.states import Reason
from tests.unit.sinks.views import pressure, sample, view


def under(level: PressureLevel, state: State = State.REPORTING, score: float | None = 0.5) -> VmView:
    newest = sample()
    return replace(view(newest, state=state), pressure=pressure(newest, level, score))


@pytest.mark.parametrize(
    ("shown", "place"),
    [
        (under(PressureLevel.OOM), Attention.OOM),
        (under(PressureLevel.PRESSURE), Attention.PRESSURE),
        (under(PressureLevel.LOW), Attention.LOW),
        (under(PressureLevel.OOM, State.STALLED), Attention.SILENT),
        (view(state=State.UNREACHABLE), Attention.SILENT),
        (under(PressureLevel.NONE), Attention.NONE),
        (under(PressureLevel.OOM, State.PAUSED), Attention.NONE),
        (view(state=State.WAITING), Attention.NONE),
    ],
)
def test_pressure_is_before_silence_and_silence_before_the_rest(shown: VmView, place: Attention) -> None:
    assert attention(shown) is place


def test_polling_that_is_configured_off_is_no_silence() -> None:
    off = view(state=State.OFF)

    configured = replace(off, state=replace(off.state, reason=Reason.POLLING_DISABLED))

    assert (attention(off), attention(configured)) == (Attention.SILENT, Attention.NONE)


def test_a_level_without_a_score_or_without_updates_is_not_known_to_be_true_now() -> None:
    assert level_now(under(PressureLevel.LOW)) is PressureLevel.LOW
    assert level_now(under(PressureLevel.LOW, score=None)) is None
    assert level_now(under(PressureLevel.LOW, State.STALLED)) is None
