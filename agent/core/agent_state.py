"""The agent's own state: which changes and heartbeats are recorded. Pure.

    starting ──► running ◄──► degraded
        └───────────┴─────────────┴──────► stopping

`enter` makes the changes that the app decides (starting, running, stopping); `check` makes those that follow
from the health of the components (core/health.py), so that both report the same; `beat` repeats the state
when that is due, and `repeat` on request.
The caller records `event` of each state with another `sequence`.

Heartbeats lie on a fixed grid that begins with the first record, so changes of state do not move them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from agent.core.reading import Now, State


class AgentPhase(StrEnum):
    """The agent's states."""

    STARTING = "starting"  # the first scan for VMs has not ended
    RUNNING = "running"
    DEGRADED = "degraded"  # a component does not do all of its work; `detail` names it, with the reason
    STOPPING = "stopping"  # a clean exit: the last record of this run


@dataclass(frozen=True, slots=True)
class AgentState:
    """The present state, and when it is repeated next."""

    heartbeat_ns: int
    phase: AgentPhase = AgentPhase.STARTING
    detail: str = ""
    since_ms: int = 0
    previous: AgentPhase | None = None  # None: `phase` is the first one
    sequence: int = 0  # of the newest record, from 1; 0: nothing recorded yet
    heartbeat_at_ns: int = 0
    recorded_detail: str = ""  # of the newest record
    settled_at_ns: int = 0  # when another detail of the same state may be recorded


_SETTLING_NS = 10_000_000_000
"""Between two records of a degraded agent with different details: the reasons of a sink may alternate."""


@dataclass(frozen=True, slots=True)
class AgentEvent:
    """The agent's own state record. Its absence tells a reader that the host is down, not quiet."""

    sequence: int  # per agent run, from 1
    state: AgentPhase
    detail: str
    since_ms: int
    observed_at_ms: int
    previous_state: AgentPhase | None
    heartbeat: bool
    next_heartbeat_by_ms: int
    vms: Mapping[State, int]  # number of VMs in each state; zeros left out
    counters: Mapping[str, int]  # "name" or "name/reason" -> total since start, from telemetry.py


def enter(state: AgentState, phase: AgentPhase, detail: str, now: Now) -> AgentState:
    """Return the state after a change to `phase`, which is always recorded."""
    is_first = state.sequence == 0
    return replace(
        state,
        phase=phase,
        detail=detail,
        since_ms=now.unix_ms,
        previous=None if is_first else state.phase,
        sequence=state.sequence + 1,
        heartbeat_at_ns=now.mono_ns + state.heartbeat_ns if is_first else state.heartbeat_at_ns,
        recorded_detail=detail,
        settled_at_ns=now.mono_ns + _SETTLING_NS,
    )


def check(state: AgentState, problem: str | None, now: Now) -> AgentState:
    """Return the state after a look at `problem`: what is degraded now, and why; `None`: nothing.

    Only a running agent is degraded by it. Another problem than before is a change of its own, recorded once
    the last one is 10 s old; `detail` is the newest one at once.
    """
    if state.phase not in (AgentPhase.RUNNING, AgentPhase.DEGRADED):
        return state
    if problem is None:
        is_over = state.phase is AgentPhase.DEGRADED
        return enter(state, AgentPhase.RUNNING, f"recovered from: {state.detail}", now) if is_over else state
    is_other = problem != state.recorded_detail and now.mono_ns >= state.settled_at_ns
    if state.phase is AgentPhase.RUNNING or is_other:
        return enter(state, AgentPhase.DEGRADED, problem, now)
    return replace(state, detail=problem)


def beat(state: AgentState, now: Now) -> AgentState:
    """Return the state after a heartbeat, where one is due."""
    if now.mono_ns < state.heartbeat_at_ns:
        return state
    return replace(
        state,
        sequence=state.sequence + 1,
        heartbeat_at_ns=state.heartbeat_at_ns + state.heartbeat_ns,
        recorded_detail=state.detail,
    )


def repeat(state: AgentState) -> AgentState:
    """Return the state after a heartbeat out of turn, which moves no other one."""
    if not state.sequence:
        return state
    return replace(state, sequence=state.sequence + 1, recorded_detail=state.detail)


def event(
    state: AgentState, now_ms: int, vms: Mapping[State, int], counters: Mapping[str, int], *, heartbeat: bool
) -> AgentEvent:
    """Return `state` as the record that is made of it at `now_ms`.

    The next heartbeat is promised a tenth of the period late, for the time the record itself takes.
    """
    return AgentEvent(
        sequence=state.sequence,
        state=state.phase,
        detail=state.detail,
        since_ms=state.since_ms,
        observed_at_ms=now_ms,
        previous_state=state.previous,
        heartbeat=heartbeat,
        next_heartbeat_by_ms=now_ms + state.heartbeat_ns * 11 // 10 // 1_000_000,
        vms=vms,
        counters=counters,
    )
