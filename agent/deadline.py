"""A deadline that does not expire because the agent itself got no CPU: see agent/core/lateness.py."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

import anyio

from agent.core.lateness import extended


@contextmanager
def answer_within(timeout_s: float) -> Generator[anyio.CancelScope]:
    """Cancel the block after `timeout_s`; look at `cancelled_caught` of the scope for whether it was."""
    with anyio.CancelScope() as scope:
        deadline = _Deadline(scope, timeout_s)
        try:
            yield scope
        finally:
            deadline.timer.cancel()


class _Deadline:
    """Cancels a scope. A canceled timer lets go of it, so no cycle is left for the garbage collector."""

    def __init__(self, scope: anyio.CancelScope, timeout_s: float) -> None:
        self._scope = scope
        self._loop = asyncio.get_running_loop()
        self.timer = self._set_timer(self._loop.time() + timeout_s)

    def _set_timer(self, deadline_s: float) -> asyncio.TimerHandle:
        return self._loop.call_at(deadline_s, self._expire, deadline_s)

    def _expire(self, deadline_s: float) -> None:
        deadline_ns = extended(int(deadline_s * 1e9), int(self._loop.time() * 1e9))
        if deadline_ns is None:
            self._scope.cancel()
        else:
            self.timer = self._set_timer(deadline_ns / 1e9)
