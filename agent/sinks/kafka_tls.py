"""TLS to a broker on the event loop: what comes without data is bounded.

OpenSSL handles all records without data (session tickets, key updates) inside one call, for as long as there
are any. A broker that sends nothing else, at 200 KB a second, would keep the event loop busy for good. So
OpenSSL gets what has come in pieces, and the connection ends when they contain too little data.
"""

import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from agent.sinks.kafka_faults import UnusableAnswer

T = TypeVar("T")

WITHOUT_DATA_BYTES_MAX = 32 * 1024
"""Encrypted bytes between two pieces of data. The longest record has 16 KiB, and two tickets a few KiB."""

_PIECE_BYTES = 4 * 1024


class BoundedTls(ssl.SSLObject):
    """Set as `sslobject_class` of an `ssl.SSLContext`. Used by asyncio and uvloop, on their thread."""

    _come: ssl.MemoryBIO  # filled by the event loop
    _pieces: ssl.MemoryBIO  # read by OpenSSL
    _left: int  # encrypted bytes that may come before the next data

    @classmethod
    def _create(cls, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **options: Any) -> "BoundedTls":
        # `ssl.SSLContext.wrap_bio` calls it.
        pieces = ssl.MemoryBIO()
        created = super()._create(pieces, outgoing, **options)  # pyrefly: ignore[missing-attribute]
        created._come, created._pieces, created._left = incoming, pieces, WITHOUT_DATA_BYTES_MAX
        return created

    def do_handshake(self) -> None:
        """See `ssl.SSLObject`. OpenSSL itself bounds what comes before the end of the handshake."""
        while True:
            try:
                super().do_handshake()
            except ssl.SSLWantReadError:
                if not self._give_piece():
                    raise
            else:
                break
        self._left = WITHOUT_DATA_BYTES_MAX

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        """See `ssl.SSLObject`.

        Raises:
            UnusableAnswer: too much has come since the last data.
        """
        data = self._in_pieces(partial(super().read, len, buffer))
        self._left = WITHOUT_DATA_BYTES_MAX
        return data

    def unwrap(self) -> Any:
        """See `ssl.SSLObject`.

        Raises:
            ssl.SSLError: also if too much comes before the peer ends the connection.
        """
        try:
            return self._in_pieces(super().unwrap)
        except UnusableAnswer as error:
            raise ssl.SSLError(str(error)) from error  # the event loop expects no other

    def _in_pieces(self, function: Callable[[], T]) -> T:
        while True:
            try:
                return function()
            except ssl.SSLWantReadError:
                if not self._give_piece():
                    raise
            if self._left < 0:
                raise UnusableAnswer("sends TLS records without data; check that it is your broker")

    def _give_piece(self) -> bool:
        """Let OpenSSL have more of what has come; return whether there was any."""
        if piece := self._come.read(_PIECE_BYTES):
            self._left -= len(piece)
            self._pieces.write(piece)
        elif self._come.eof:
            self._pieces.write_eof()
        else:
            return False
        return True
