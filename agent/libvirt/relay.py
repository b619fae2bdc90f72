"""Stands between libvirt's client library and a daemon that any user may run.

The library accepts messages of up to 32 MiB, also unfinished ones, and has no setting for it. A relay passes
messages up to a length (core/message_limit.py), and ends the connection at a longer one. It takes no
descriptors: the kernel closes those that the daemon sends, in the thread of the relay.

The library connects by itself, so path, user and credentials are the same as without a relay. Before it reads
or writes, it adds its socket to the event loop (event_loops.py). The relay then takes over this socket, and
replaces the library's descriptor by one end of a pair of sockets. So nothing listens: that would need a
directory, which other users may fill, or a name that they can connect to.
"""

import os
import select
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress

from agent.core.message_limit import Position, pass_messages, refusal

MESSAGE_MAX_BYTES = 256 * 1024
"""Of a libvirt that is found by its socket. The longest message of a libvirt with 64 domains is that with the
definition of one of them, or the statistics of all."""

_CHUNK_BYTES = 32 * 1024
"""Read at a time, and kept until the other side has taken it."""

_ENDED = select.POLLHUP | select.POLLERR | select.POLLNVAL


class Relay:
    """The relay of one connection. Its thread ends with the connection."""

    def __init__(self, message_max_bytes: int) -> None:
        """Create it; `step_in` starts the thread.

        Raises:
            OSError: there is no descriptor left.
        """
        self.problem: str | None = None
        """Why the relay has ended the connection; `None`: it has not."""
        self._message_max_bytes = message_max_bytes
        self._ours, self._librarys = socket.socketpair()
        for end in (self._ours, self._librarys):
            end.setblocking(False)
        self._thread: threading.Thread | None = None

    @property
    def has_stepped_in(self) -> bool:
        """Whether all that the daemon sends goes through the relay."""
        return self._thread is not None

    def step_in(self, descriptor: int) -> None:
        """Pass on what goes through a connected socket of the library's, which it has not used yet.

        If that is not possible, the connection ends.

        Raises:
            OSError: there is no descriptor left, or the relay has another socket already.
            RuntimeError: there is no thread left.
        """
        try:
            with ExitStack() as undo:
                undo.callback(_shut_down, descriptor)  # the library would go on without the event loop
                if self._thread is not None:
                    raise OSError("libvirt's client library uses a second socket")
                daemon = undo.enter_context(socket.fromfd(descriptor, socket.AF_UNIX, socket.SOCK_STREAM))
                daemon.setblocking(False)
                thread = threading.Thread(target=self._run, args=(daemon,), name="libvirt relay", daemon=True)
                os.dup2(self._librarys.fileno(), descriptor, inheritable=False)
                self._librarys.close()
                thread.start()
                self._thread = thread
                undo.pop_all()
        except (OSError, RuntimeError) as error:
            self.problem = f"the size of messages cannot be limited: {error}"
            raise

    def close(self) -> None:
        """Wait for the thread, once the library has closed its socket or has opened none.

        That takes as long as descriptors that the daemon has sent take to close.
        """
        self._librarys.close()
        if self._thread is None:
            self._ours.close()
        else:
            self._thread.join()

    # --- in the thread ---

    def _run(self, daemon: socket.socket) -> None:
        with self._ours, daemon, suppress(OSError, MemoryError):
            self._pass_on(daemon)

    def _pass_on(self, daemon: socket.socket) -> None:
        ours, position = self._ours, Position()

        def limited(data: bytes) -> bytes:
            nonlocal position
            passed = pass_messages(position, data, self._message_max_bytes)
            if passed.refused_bytes is not None:
                self.problem = refusal(passed.refused_bytes, self._message_max_bytes)
                raise ConnectionAbortedError
            position = passed.position
            return passed.data

        down, up = _Flow(daemon, ours, limited), _Flow(ours, daemon, bytes)
        poll, is_polled = select.poll(), False
        while True:
            # The kernel reports an end that nothing waits for as well: of the daemon's socket this would keep
            # the thread busy until the library has read the rest.
            poll.register(ours, up.events_of_source | down.events_of_target)
            if events := down.events_of_source | up.events_of_target:
                poll.register(daemon, events)
            elif is_polled:
                poll.unregister(daemon)
            is_polled = events != 0
            ready = dict(poll.poll())
            of_ours, of_daemon = ready.get(ours.fileno(), 0), ready.get(daemon.fileno(), 0)
            if of_ours & _ENDED:  # the library has closed its end
                return
            if not (down.move(of_daemon, of_ours) and up.move(of_ours, of_daemon)):
                return


class _Flow:
    """Bytes on their way in one direction."""

    def __init__(
        self, source: socket.socket, target: socket.socket, select_bytes: Callable[[bytes], bytes]
    ) -> None:
        self._source = source
        self._target = target
        self._select_bytes = select_bytes
        self._waiting = b""  # what the target has yet to take

    @property
    def events_of_source(self) -> int:
        return 0 if self._waiting else select.POLLIN

    @property
    def events_of_target(self) -> int:
        return select.POLLOUT if self._waiting else 0

    def move(self, of_source: int, of_target: int) -> bool:
        """Move what is possible after these events; return whether the source goes on."""
        with suppress(BlockingIOError):
            if self._waiting:
                if of_target:
                    self._send()
            elif of_source:
                data = self._source.recv(_CHUNK_BYTES)
                if not data:
                    return False
                self._waiting = self._select_bytes(data)
                self._send()
        return True

    def _send(self) -> None:
        if self._waiting:
            self._waiting = self._waiting[self._target.send(self._waiting) :]


def _shut_down(descriptor: int) -> None:
    with suppress(OSError):
        one = socket.socket(fileno=descriptor)
        try:
            one.shutdown(socket.SHUT_RDWR)
        finally:
            one.detach()
