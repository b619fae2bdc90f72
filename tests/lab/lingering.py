"""Descriptors that take long to close. A hostile peer may send them to block the receiving thread."""

import socket
import struct
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def lingering(lingers_s: int) -> Generator[socket.socket]:
    """Yield a TCP socket that takes `lingers_s` to close, or until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, lingers_s))
        one.connect(server.getsockname())
        peer, _ = server.accept()
        one.setblocking(False)
        for _ in range(1_000):  # closing waits for the data that cannot be sent
            try:
                one.send(bytes(1 << 20))
            except BlockingIOError:
                break
        yield one
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()  # resets the connection, which ends the wait
