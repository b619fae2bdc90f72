"""What the pages ask of the agent."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from agent.contract.encode import Agent
from agent.core.agent_state import AgentEvent
from agent.core.health import Component
from agent.core.reading import VmView
from agent.telemetry import Snapshot


class Source(Protocol):
    """The present, in values."""

    @property
    def identity(self) -> Agent:
        """Who speaks."""
        ...

    def unready(self) -> Sequence[str]:
        """Return what keeps the agent from being ready; empty: it is."""
        ...

    def components(self) -> Mapping[str, Component]:
        """Return how each part is."""
        ...

    def agent(self) -> AgentEvent:
        """Return where the agent itself stands."""
        ...

    def telemetry(self) -> Snapshot:
        """Return what the agent knows of itself, all of this instant."""
        ...

    def views(self) -> Sequence[VmView]:
        """Return the newest of every VM."""
        ...
