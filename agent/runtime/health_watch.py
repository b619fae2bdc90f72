"""Asks each part of the agent for its health: every second for the reporter, and whenever a probe comes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from agent.core import health
from agent.core.health import Component, Status
from agent.runtime import clock


class HealthWatch:
    """Holds the components; core/health.py decides on them. Owned by the event loop's thread."""

    def __init__(
        self,
        parts: Mapping[str, Callable[[], Status]],
        needed: Sequence[Callable[[], str | None]],
        redact: Callable[[str], str] = str,
    ) -> None:
        """Check once.

        Args:
            parts: the status of each component, by its name.
            needed: the requirements of readiness; each returns what is missing, `None`: nothing.
            redact: returns a text without secrets; a peer may repeat one in its answer.
        """
        self._parts = parts
        self._needed = needed
        self._redact = redact
        self._components: Mapping[str, Component] = {}
        self._stopping = False
        self.check()

    def check(self) -> Mapping[str, Component]:
        """Return the health of every component now."""
        statuses = {name: self._shown(status()) for name, status in self._parts.items()}
        self._components = health.update(self._components, statuses, clock.unix_ms(), stopping=self._stopping)
        return self._components

    def problem(self) -> str | None:
        """Return what is degraded now, and why; `None`: nothing."""
        return health.problem(self.check())

    def not_ready(self) -> Sequence[str]:
        """Return the reasons why the agent is not ready; empty: it is."""
        return health.not_ready((missing() for missing in self._needed), stopping=self._stopping)

    def stop(self) -> None:
        """From now on the agent is stopping, and not ready."""
        self._stopping = True

    def _shown(self, status: Status) -> Status:
        return replace(status, why=self._redact(status.why))
