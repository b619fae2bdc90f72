"""A deadline that does not expire because the agent itself got no CPU: see agent/core/lateness.py."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

import anyio

from agent.core.lateness import extended


@contextmanager
def answer_within(timeout_s: float) -> Generator[anyio.CancelScope]:
    """Cancel the block after `timeout_s`; look at `cancelled_caught` of the scope for whether it was."""
    loop = asyncio.get_running_loop()

    def set_timer(deadline_s: float) -> asyncio.TimerHandle:
        return loop.call_at(deadline_s, expire, deadline_s)

    def expire(deadline_s: float) -> None:
        nonlocal timer
        deadline_ns = extended(int(deadline_s * 1e9), int(loop.time() * 1e9))
        if deadline_ns is None:
            scope.cancel()
        else:
            timer = set_timer(deadline_ns / 1e9)

    with anyio.CancelScope() as scope:
        timer = set_timer(loop.time() + timeout_s)
        try:
            yield scope
        finally:
            timer.cancel()
