"""Long responses, rendered in slices so that collection does not wait, and shared by all clients.

After each slice the rendering rests for three times as long as the slice took, and a response is reused while
it is younger than nine times what it cost. So rendering never takes more than a quarter of the event loop
while it runs, and a tenth in the long run, regardless of the number of requests.

Responses are compressed while they are rendered and kept in that form, which needs little memory and CPU.
"""

import time
import zlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterator

import anyio

_REST = 3  # times what a slice took
_FRESH = 9  # times what the response took
_FREE_S = 0.002  # a response that takes no longer needs no rest

KEPT_MAX = 32
"""Responses of one kind that are kept, for different keys."""

_LEVEL = 1  # higher levels cost much more CPU and save little
_GZIP = zlib.MAX_WBITS | 16  # zlib: with gzip's header and checksum
_PART_BYTES = 65_536
_PACKED_PART_BYTES = 8_192


class Rendering:
    """One response, rendered on demand."""

    def __init__(self, make: Callable[[], Iterator[str]], fresh_s: float = 0.0) -> None:
        """Render nothing yet.

        Args:
            make: returns the parts of the response, and reads its values when called.
            fresh_s: how long a response is reused at least.
        """
        self._make = make
        self._fresh_s = fresh_s
        self._lock = anyio.Lock()
        self._body = b""
        self._fresh_until_s = 0.0

    async def get(self) -> bytes:
        """Return the response as gzip data; the one at hand while it is fresh."""
        async with self._lock:
            if time.monotonic() >= self._fresh_until_s:
                self._body = await self._render()
            return self._body

    async def _render(self) -> bytes:
        packed = bytearray()
        parts, gzip = self._make(), zlib.compressobj(_LEVEL, wbits=_GZIP)
        busy_s = 0.0
        while True:
            began_s = time.monotonic()
            part = next(parts, None)
            packed += gzip.flush() if part is None else gzip.compress(part.encode("utf-8", "replace"))
            took_s = time.monotonic() - began_s
            busy_s += took_s
            if part is None:
                break
            if busy_s > _FREE_S:
                await anyio.sleep(took_s * _REST)
        self._fresh_until_s = time.monotonic() + max(self._fresh_s, busy_s * _FRESH)
        return bytes(packed)


class Renderings:
    """Responses of one kind by key. One is built at a time; the least recently used are forgotten."""

    def __init__(
        self, make: Callable[[str], Iterator[str]], fresh_s: float, kept_max: int = KEPT_MAX
    ) -> None:
        """Render nothing yet. `make` returns the parts of the response for a key."""
        self._make = make
        self._fresh_s = fresh_s
        self._kept_max = kept_max
        self._kept: OrderedDict[str, Rendering] = OrderedDict()
        self._turn = anyio.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    async def get(self, key: str) -> bytes:
        """Return the response for a key as gzip data; the one at hand while it is fresh."""
        async with self._turn:
            rendering = self._kept.pop(key, None) or Rendering(lambda: self._make(key), self._fresh_s)
            self._kept[key] = rendering
            while len(self._kept) > self._kept_max:
                self._kept.popitem(last=False)
            began_s = time.monotonic()
            packed = await rendering.get()
            await anyio.sleep((time.monotonic() - began_s) * _REST)
            return packed


async def in_parts(packed: bytes) -> AsyncGenerator[bytes, None]:
    """Yield data as it is, in parts."""
    for start in range(0, len(packed), _PART_BYTES):
        yield packed[start : start + _PART_BYTES]


async def unpacked(packed: bytes) -> AsyncGenerator[bytes, None]:
    """Yield gzip data unpacked, in parts, for a client that does not accept gzip."""
    gzip = zlib.decompressobj(_GZIP)
    ahead = 0
    while not gzip.eof:
        # In small parts: zlib copies what it has not unpacked yet.
        part = gzip.unconsumed_tail
        if not part:
            part = packed[ahead : ahead + _PACKED_PART_BYTES]
            ahead += _PACKED_PART_BYTES
        yield gzip.decompress(part, _PART_BYTES)


def unpacked_size(packed: bytes) -> int:
    """Return the unpacked size in bytes: gzip data ends with it (RFC 1952, section 2.3.1)."""
    return int.from_bytes(packed[-4:], "little")
