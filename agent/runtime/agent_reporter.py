"""Records the agent's own state at each change, and as a heartbeat in between."""

from collections import Counter
from collections.abc import Callable

import anyio
import structlog

from agent.core import agent_state
from agent.core.agent_state import AgentEvent, AgentPhase, AgentState
from agent.runtime import clock
from agent.runtime.recorder import Recorder
from agent.telemetry import Counters

log = structlog.get_logger("barograph")

_CHECK_EVERY_S = 1.0


class AgentReporter:
    """Holds the state; core/agent_state.py decides on it. Owned by the event loop's thread."""

    def __init__(self, recorder: Recorder, counters: Counters, heartbeat_ns: int) -> None:
        self._recorder = recorder
        self._counters = counters
        self._state = AgentState(heartbeat_ns)

    def enter(self, phase: AgentPhase, detail: str) -> None:
        """Record a change to `phase`."""
        self._follow(agent_state.enter(self._state, phase, detail, clock.now()), heartbeat=False)

    async def run(self, problem: Callable[[], str | None]) -> None:
        """Record heartbeats, and changes to and from degraded, until cancelled. Call `enter` first.

        Args:
            problem: what is degraded now, and why; `None`: nothing.
        """
        while True:
            check_at_s = anyio.current_time() + _CHECK_EVERY_S
            await anyio.sleep_until(min(check_at_s, self._state.heartbeat_at_ns / 1e9))
            self._recorder.end_second()
            self._follow(agent_state.check(self._state, problem(), clock.now()), heartbeat=False)
            self._follow(agent_state.beat(self._state, clock.now()), heartbeat=True)

    def repeat(self) -> None:
        """Record the state again, as a heartbeat."""
        self._follow(agent_state.repeat(self._state), heartbeat=True)

    def present(self) -> AgentEvent:
        """Return the state now, in the form of a heartbeat."""
        return self._event(heartbeat=True)

    def _follow(self, state: AgentState, *, heartbeat: bool) -> None:
        before, self._state = self._state, state
        if state.sequence == before.sequence:
            return
        if AgentPhase.DEGRADED in (state.phase, before.phase) and state.phase is not before.phase:
            write = log.warning if state.phase is AgentPhase.DEGRADED else log.info
            write(f"agent {state.phase}", detail=state.detail)
        self._recorder.agent_state(self._event(heartbeat=heartbeat))

    def _event(self, *, heartbeat: bool) -> AgentEvent:
        vms = Counter(view.state.state for view in self._recorder.views())
        counters = self._counters.snapshot()
        return agent_state.event(self._state, clock.unix_ms(), vms, counters, heartbeat=heartbeat)
