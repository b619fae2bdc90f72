"""Looks every second at how each part of the agent is, for whoever asks."""

from collections.abc import Callable, Mapping, Sequence

import anyio

from agent.core import health
from agent.core.health import Component, Health, Standing
from agent.runtime import clock

_LOOK_EVERY_S = 1.0


class HealthWatch:
    """Remembers since when each part is as it is. Owned by the event loop's thread."""

    def __init__(
        self, parts: Mapping[str, Callable[[], Standing]], needed: Sequence[Callable[[], str | None]]
    ) -> None:
        """Make it.

        Args:
            parts: how each part is, by its name.
            needed: what must be there before the agent is ready; each says what is missing, `None`: nothing.
        """
        self._parts = parts
        self._needed = needed
        self._components: Mapping[str, Component] = {}
        self._stopping = False
        self.look()

    def look(self) -> Mapping[str, Component]:
        """Return how every part is now."""
        standings = {name: standing() for name, standing in self._parts.items()}
        if self._stopping:
            standings["agent"] = Standing(Health.STOPPING, "told to stop")
        self._components = health.follow(self._components, standings, clock.unix_ms())
        return self._components

    def unready(self) -> Sequence[str]:
        """Return what keeps the agent from being ready; empty: it is."""
        if self._stopping:
            return ["stopping"]
        return [missing for missing in (each() for each in self._needed) if missing is not None]

    def stop(self) -> None:
        """The agent stops, from now on."""
        self._stopping = True

    async def run(self) -> None:
        """Look every second, until cancelled."""
        while True:
            self.look()
            await anyio.sleep(_LOOK_EVERY_S)
