"""Tests of the log lines of state changes: they are bounded per second, and the others are counted."""

from collections import Counter
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from agent.core.reading import State, StateEvent
from agent.runtime.state_lines import LINES_MAX, StateLines
from tests.unit.sinks.views import view


def changes(state: State, reason: str, count: int) -> list[StateEvent]:
    return [replace(view(state=state).state, reason=reason) for _ in range(count)]


@pytest.mark.parametrize(
    ("state", "level"), [(State.REPORTING, "info"), (State.STALLED, "warning"), (State.CONNECTING, "debug")]
)
def test_a_change_is_one_line_at_the_level_of_its_state(state: State, level: str) -> None:
    lines = StateLines()
    with capture_logs() as written:
        for event in changes(state, "any", 1):
            lines.write(event)
        lines.end_second()

    assert [(line["event"], line["log_level"], line["state"]) for line in written] == [
        ("vm state", level, state.value)
    ]


def test_a_thousand_changes_in_a_second_are_some_lines_and_a_summary() -> None:
    lines = StateLines()
    with capture_logs() as written:
        for event in [
            *changes(State.REPORTING, "advancing", 1000),
            *changes(State.STALLED, "no_advance", LINES_MAX + 5),
            *changes(State.EMPTY, "all_unset", 2),
        ]:
            lines.write(event)
        lines.end_second()
        lines.end_second()

    levels = Counter(line["log_level"] for line in written if line["event"] == "vm state")
    assert levels == {"info": LINES_MAX, "warning": LINES_MAX, "debug": 1000 - LINES_MAX + 5 + 2}
    assert [
        (line["log_level"], line["changes"], line["states"])
        for line in written
        if line["event"] == "vm states"
    ] == [("info", 1000 - LINES_MAX, f"{1000 - LINES_MAX} reporting"), ("warning", 7, "5 stalled, 2 empty")]


def test_the_next_second_has_lines_again() -> None:
    lines = StateLines()
    with capture_logs() as written:
        for _ in range(2):
            for event in changes(State.REPORTING, "advancing", LINES_MAX):
                lines.write(event)
            lines.end_second()

    assert {line["log_level"] for line in written} == {"info"}
    assert len(written) == 2 * LINES_MAX
