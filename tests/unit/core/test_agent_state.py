"""Tests of the agent's own state during a run."""

from dataclasses import replace

import pytest

from agent.core import agent_state
from agent.core.agent_state import AgentPhase, AgentState
from agent.core.reading import Now, State

MINUTE_NS = 60_000_000_000
T0_MS = 1_795_404_000_000


def at(seconds: int) -> Now:
    return Now(mono_ns=1_000_000_000 * (1_000 + seconds), unix_ms=T0_MS + 1_000 * seconds)


def started() -> AgentState:
    return agent_state.enter(AgentState(MINUTE_NS), AgentPhase.STARTING, "looking for monitors", at(0))


def running() -> AgentState:
    return agent_state.enter(started(), AgentPhase.RUNNING, "found 3 monitors", at(2))


def test_an_agent_starts_runs_and_stops_with_a_record_of_each() -> None:
    start, run = started(), running()
    stop = agent_state.enter(run, AgentPhase.STOPPING, "a clean exit", at(9))

    assert [(each.sequence, each.previous, each.since_ms) for each in (start, run, stop)] == [
        (1, None, T0_MS),
        (2, AgentPhase.STARTING, T0_MS + 2_000),
        (3, AgentPhase.RUNNING, T0_MS + 9_000),
    ]


def test_a_running_agent_is_degraded_while_it_has_a_problem() -> None:
    disk_full = agent_state.check(running(), "the disk is full", at(5))
    same = agent_state.check(disk_full, "the disk is full", at(6))
    other = agent_state.check(same, "the spool is damaged", at(15))
    over = agent_state.check(other, None, at(16))

    assert (disk_full.phase, disk_full.detail) == (AgentPhase.DEGRADED, "the disk is full")
    assert (disk_full.previous, disk_full.since_ms) == (AgentPhase.RUNNING, T0_MS + 5_000)
    assert same == disk_full
    assert (other.phase, other.detail, other.sequence) == (AgentPhase.DEGRADED, "the spool is damaged", 4)
    assert (over.phase, over.detail) == (AgentPhase.RUNNING, "recovered from: the spool is damaged")
    assert (over.previous, over.sequence) == (AgentPhase.DEGRADED, 5)


def test_reasons_that_alternate_are_shown_at_once_and_recorded_every_ten_seconds() -> None:
    state = agent_state.check(running(), "kafka.samples: refused", at(5))
    for second in range(6, 26):
        problem = f"kafka.samples: {'refused' if second % 2 else 'timed out'}"
        state = agent_state.check(state, problem, at(second))
        assert state.detail == problem

    assert (state.sequence, state.recorded_detail) == (4, "kafka.samples: timed out")


def test_a_reason_that_settles_is_recorded_without_waiting_for_a_heartbeat() -> None:
    state = agent_state.check(running(), "kafka.samples: refused", at(5))
    for second in range(6, 20):
        state = agent_state.check(state, "kafka.samples: timed out", at(second))

    assert (state.sequence, state.recorded_detail) == (4, "kafka.samples: timed out")


def test_an_agent_without_a_problem_records_nothing() -> None:
    assert agent_state.check(running(), None, at(5)) == running()


@pytest.mark.parametrize("phase", [AgentPhase.STARTING, AgentPhase.STOPPING])
@pytest.mark.parametrize("problem", ["the disk is full", None])
def test_an_agent_that_starts_or_stops_is_not_degraded(phase: AgentPhase, problem: str | None) -> None:
    state = replace(running(), phase=phase)

    assert agent_state.check(state, problem, at(5)) is state


def test_changes_of_state_do_not_move_the_heartbeats() -> None:
    state = agent_state.check(running(), "the disk is full", at(59))
    recorded: list[tuple[int, int]] = []
    for second in range(59, 200, 7):
        before, state = state, agent_state.beat(state, at(second))
        if state is not before:
            recorded.append((second, state.sequence))

    assert recorded == [(66, 4), (122, 5), (185, 6)]
    assert (state.phase, state.since_ms) == (AgentPhase.DEGRADED, T0_MS + 59_000)


def test_a_repeated_state_has_its_own_record_and_moves_no_heartbeat() -> None:
    state = running()
    after = agent_state.repeat(agent_state.repeat(state))

    assert after == replace(state, sequence=4, recorded_detail=state.detail)
    assert agent_state.beat(after, at(61)).sequence == agent_state.beat(state, at(61)).sequence + 2
    assert agent_state.repeat(AgentState(60 * 10**9)) == AgentState(60 * 10**9)


def test_a_record_has_the_state_the_vms_and_the_counters_of_its_instant() -> None:
    found = agent_state.event(running(), T0_MS + 7, {State.REPORTING: 3}, {"samples": 4}, heartbeat=True)

    assert (found.sequence, found.state, found.detail) == (2, AgentPhase.RUNNING, "found 3 monitors")
    assert (found.since_ms, found.observed_at_ms, found.heartbeat) == (T0_MS + 2_000, T0_MS + 7, True)
    assert (found.vms, found.counters) == ({State.REPORTING: 3}, {"samples": 4})
    assert found.next_heartbeat_by_ms == T0_MS + 7 + 66_000


def test_before_the_first_record_the_agent_is_starting() -> None:
    found = agent_state.event(AgentState(MINUTE_NS), T0_MS, {}, {}, heartbeat=True)

    assert (found.sequence, found.state, found.previous_state) == (0, AgentPhase.STARTING, None)
