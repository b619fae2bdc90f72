"""Long answers, made in slices so that collection does not wait for them, once for all who ask.

Between two slices others have the loop for three times as long as the slice took, and an answer is given
again while it is younger than nine times what it cost: so making answers never takes more than a quarter of
the loop while one is made, and a tenth in the long run, whoever asks and however often.
"""

import time
from collections.abc import Callable, Iterator

import anyio

_REST = 3
_FRESH = 9
_FREE_S = 0.002  # an answer that costs no more needs no rest


class Rendering:
    """One kind of answer."""

    def __init__(self, make: Callable[[], Iterator[str]]) -> None:
        """Make it; `make` yields the answer's parts, and takes all it shows before it yields the first."""
        self._make = make
        self._lock = anyio.Lock()
        self._body = b""
        self._fresh_until_s = 0.0

    async def get(self) -> bytes:
        """Return the answer, a made one where it is fresh."""
        async with self._lock:
            if time.monotonic() >= self._fresh_until_s:
                self._body = await self._made()
            return self._body

    async def _made(self) -> bytes:
        parts: list[str] = []
        made = self._make()
        busy_s = 0.0
        while True:
            began_s = time.monotonic()
            part = next(made, None)
            took_s = time.monotonic() - began_s
            busy_s += took_s
            if part is None:
                break
            parts.append(part)
            if busy_s > _FREE_S:
                await anyio.sleep(took_s * _REST)
        self._fresh_until_s = time.monotonic() + busy_s * _FRESH
        return "".join(parts).encode("utf-8", "replace")
