"""Bounds the links that are being opened. Owners have their turns one after the other (core/shares.py)."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from agent.core.shares import FairQueue, Owner

PATIENCE_S = 0.05
"""A free QEMU greets and answers within milliseconds."""


class Openings:
    """So many places. Owned by the event loop's thread."""

    def __init__(self, at_once: int) -> None:
        """Create it; `at_once` links are opened at the same time, while none is silent."""
        self._free = at_once
        self._waiting = FairQueue[asyncio.Future[None]]()

    @asynccontextmanager
    async def turn(self, owner: Owner) -> AsyncGenerator[None]:
        """Wait for a place, and have it within the block; for `PATIENCE_S` at most, so that others go on."""
        loop = asyncio.get_running_loop()
        if self._free:
            self._free -= 1
        else:
            place = loop.create_future()
            self._waiting.put(owner, place)
            try:
                await place
            except asyncio.CancelledError:
                if place.cancelled():
                    self._waiting.discard(owner, place)
                else:
                    self._release()
                raise
        held = True

        def release() -> None:
            nonlocal held
            if held:
                held = False
                self._release()

        timer = loop.call_later(PATIENCE_S, release)
        try:
            yield
        finally:
            timer.cancel()
            release()

    def _release(self) -> None:
        while self._waiting:
            place = self._waiting.take()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1
