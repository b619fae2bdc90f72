"""The agent's own state record: at each change, and as a heartbeat in between."""

from collections import Counter
from collections.abc import Callable, Mapping

import anyio

from agent.core.reading import AgentEvent, AgentPhase, State
from agent.runtime import clock
from agent.runtime.recorder import Recorder
from agent.telemetry import Counters

_LOOK_EVERY_S = 1.0


class AgentState:
    """Says where the agent stands. `enter` at each change; `run` repeats it."""

    def __init__(self, recorder: Recorder, counters: Counters, heartbeat_ns: int) -> None:
        self._recorder = recorder
        self._counters = counters
        self._heartbeat_ns = heartbeat_ns
        self._sequence = 0
        self._phase: AgentPhase | None = None
        self._previous: AgentPhase | None = None
        self._detail = ""
        self._since_ms = 0

    def enter(self, phase: AgentPhase, detail: str) -> None:
        """The agent is in `phase` from now on."""
        self._previous, self._phase, self._detail = self._phase, phase, detail
        self._since_ms = clock.now().unix_ms
        self._say(heartbeat=False)

    async def run(self, problem: Callable[[], str | None]) -> None:
        """Repeat the state every heartbeat until cancelled, and say when the agent is degraded, or no longer.

        Args:
            problem: what costs records now; `None`: nothing.
        """
        heartbeat_at_s = anyio.current_time() + self._heartbeat_ns / 1e9
        while True:
            await anyio.sleep_until(min(anyio.current_time() + _LOOK_EVERY_S, heartbeat_at_s))
            found = problem()
            if found is not None and self._phase in (AgentPhase.RUNNING, AgentPhase.DEGRADED):
                if found != self._detail:
                    self.enter(AgentPhase.DEGRADED, found)
            elif found is None and self._phase is AgentPhase.DEGRADED:
                self.enter(AgentPhase.RUNNING, f"it is over: {self._detail}")
            if anyio.current_time() >= heartbeat_at_s:
                heartbeat_at_s += self._heartbeat_ns / 1e9
                self._say(heartbeat=True)

    def _say(self, *, heartbeat: bool) -> None:
        assert self._phase is not None
        self._sequence += 1
        self._recorder.agent_state(self._event(heartbeat=heartbeat))

    def present(self) -> AgentEvent:
        """Return where the agent stands now, as its last record would say it."""
        return self._event(heartbeat=True)

    def _event(self, *, heartbeat: bool) -> AgentEvent:
        now_ms = clock.now().unix_ms
        return AgentEvent(
            sequence=self._sequence,
            state=AgentPhase.STARTING if self._phase is None else self._phase,
            detail=self._detail,
            since_ms=self._since_ms,
            observed_at_ms=now_ms,
            previous_state=self._previous,
            heartbeat=heartbeat,
            next_heartbeat_by_ms=now_ms + self._heartbeat_ns * 11 // 10 // 1_000_000,
            vms=self._count_vms(),
            counters=self._counters.snapshot(),
        )

    def _count_vms(self) -> Mapping[State, int]:
        return Counter(view.state.state for view in self._recorder.views())
