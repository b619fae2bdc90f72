"""The agent's present, for those who ask over HTTP."""

from collections.abc import Callable, Mapping, Sequence

from agent.contract.encode import Agent
from agent.core.agent_state import AgentEvent
from agent.core.health import Component
from agent.core.reading import VmView
from agent.runtime.agent_reporter import AgentReporter
from agent.runtime.health_watch import HealthWatch
from agent.runtime.recorder import Recorder
from agent.telemetry import Snapshot


class Answers:
    """Owned by the event loop's thread, as all it asks. See web/source.py."""

    def __init__(
        self,
        identity: Agent,
        recorder: Recorder,
        state: AgentReporter,
        health: HealthWatch,
        look: Callable[[], Snapshot],
    ) -> None:
        self._identity = identity
        self._recorder = recorder
        self._state = state
        self._health = health
        self._look = look

    @property
    def identity(self) -> Agent:
        """Who speaks."""
        return self._identity

    def unready(self) -> Sequence[str]:
        """Return what keeps the agent from being ready; empty: it is."""
        return self._health.not_ready()

    def components(self) -> Mapping[str, Component]:
        """Return how each part is."""
        return self._health.check()

    def agent(self) -> AgentEvent:
        """Return where the agent itself stands."""
        return self._state.present()

    def telemetry(self) -> Snapshot:
        """Return what the agent knows of itself, all of this instant."""
        return self._look()

    def views(self) -> Sequence[VmView]:
        """Return the newest of every VM."""
        return self._recorder.views()
