"""A libvirt daemon that turns hostile: a real daemon behind a relay that can corrupt its messages."""

import socket
import struct
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.lab.lingering import lingering

_HEADER = struct.Struct(">IIIIIII")  # length, program, version, procedure, type, serial, status
_PROGRAM, _EVENT_TYPE = 0x20008086, 2
_LINGERS_S = 300


class HostileLibvirt:
    """A relay between clients of `path` and a daemon."""

    def __init__(self, path: Path, daemon: Path) -> None:
        self._daemon = daemon
        self._stack = ExitStack()
        self._ends = threading.Event()
        self._honest = threading.Event()
        self._honest.set()
        self._spoiled: Callable[[socket.socket, bytes], None] = socket.socket.sendall
        self._clients: list[socket.socket] = []
        self._event = b""
        self._has_event = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def wait_for_event(self) -> None:
        """Wait until the daemon has sent an event to a client."""
        assert self._has_event.wait(60)

    # --- attacks on the clients ---

    def send_lingering_descriptors(self) -> None:
        """Send each client an event together with a descriptor that takes minutes to close.

        The clients must not read yet, because closing the last copy takes that long here too.
        """
        for client in list(self._clients):
            one = self._stack.enter_context(lingering(_LINGERS_S))
            socket.send_fds(client, [self._event], [one.fileno()])
            one.close()  # the last copy is in the message

    def stop(self) -> None:
        """Relay nothing more, in either direction."""
        self._honest.clear()

    def flood(self) -> None:
        """Send the event without end."""
        self._each(lambda client: client.sendall(self._event * 100))

    def send_bytes_one_by_one(self) -> None:
        """Send the event a byte at a time, without end."""

        def send(client: socket.socket) -> None:
            for byte in self._event:
                client.sendall(bytes([byte]))
                if self._ends.wait(0.002):
                    return

        self._each(send)

    def announce_a_huge_message(self) -> None:
        """Announce a message of 2 GiB and send bytes of it without end."""
        for client in list(self._clients):
            client.sendall(struct.pack(">I", 0x7FFFFFFF))
        self._each(lambda client: client.sendall(bytes(4096)))

    def _each(self, action: Callable[[socket.socket], None]) -> None:
        self._honest.clear()

        def repeat(client: socket.socket) -> None:
            with suppress(OSError):
                while not self._ends.is_set():
                    action(client)

        for client in list(self._clients):
            self._start(repeat, client)

    # --- relaying ---

    def _start(self, function: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            daemon = socket.socket(socket.AF_UNIX)
            daemon.connect(str(self._daemon))
            self._clients.append(client)
            for one in (client, daemon):
                self._stack.callback(_close, one)
            self._start(self._relay, client, daemon)
            self._start(self._relay_messages, daemon, client)

    def _relay(self, source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not self._honest.is_set():
                    return
                to.sendall(data)
            to.shutdown(socket.SHUT_RDWR)

    def _relay_messages(self, source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError), source.makefile("rb") as stream:
            while len(length := stream.read(4)) == 4:
                message = length + stream.read(struct.unpack(">I", length)[0] - 4)
                if not self._honest.is_set():
                    return
                if _HEADER.unpack_from(message)[1::3] == (_PROGRAM, _EVENT_TYPE):
                    self._event = message
                    self._has_event.set()
                to.sendall(message)
            to.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Close all connections."""
        self._ends.set()
        _close(self._listener)
        self._stack.close()
        for thread in self._threads:
            thread.join()


def _close(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)  # ends the calls of other threads on it
    one.close()


class UnfinishedMessages:
    """A daemon at `path` that sends each client a message without its last byte, and keeps the connection."""

    def __init__(self, path: Path, length_bytes: int) -> None:
        self._unfinished = struct.pack(">I", length_bytes) + bytes(length_bytes - 5)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._clients: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        self.sent = threading.Event()
        """Set once the whole message was sent to a client."""

    @property
    def clients(self) -> int:
        """Return how many clients have connected."""
        return len(self._clients)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._clients.append(client)
                self._threads.append(threading.Thread(target=self._send, args=(client,), daemon=True))
                self._threads[-1].start()

    def _send(self, client: socket.socket) -> None:
        with suppress(OSError):
            client.sendall(self._unfinished)
            self.sent.set()

    def end(self) -> None:
        """Close all connections."""
        for one in (self._listener, *self._clients):
            _close(one)
        for thread in self._threads:
            thread.join()


@contextmanager
def hostile_libvirt(path: Path, daemon: Path) -> Generator[HostileLibvirt]:
    """Run a relay from the socket `path` to the socket `daemon` until the block ends."""
    one = HostileLibvirt(path, daemon)
    try:
        yield one
    finally:
        one.end()
