"""A proxy for a real QEMU's monitor. It serves one client at a time, like QEMU, and times each connection."""

import selectors
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


class Turnstile:
    """A proxy for a monitor, with the durations of the connections so far."""

    def __init__(self, path: Path, monitor: Path) -> None:
        self.visits_ms: list[float] = []  # from the accepted connection to its end
        self._monitor = monitor
        self._ending = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._listener.settimeout(0.1)
        self._thread = threading.Thread(target=self._run, name="turnstile")
        self._thread.start()

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            begun_s = time.monotonic()
            with client, socket.socket(socket.AF_UNIX) as monitor:
                monitor.connect(str(self._monitor))
                self._pass_on(client, monitor)
            self.visits_ms.append((time.monotonic() - begun_s) * 1000)

    def _pass_on(self, client: socket.socket, monitor: socket.socket) -> None:
        other = {client: monitor, monitor: client}
        with selectors.DefaultSelector() as selector:
            for each in other:
                selector.register(each, selectors.EVENT_READ, each)
            while not self._ending.is_set():
                for key, _ in selector.select(0.1):
                    try:
                        said = key.data.recv(65536)
                        other[key.data].sendall(said)
                    except OSError:
                        return
                    if not said:
                        return

    def close(self) -> None:
        """Stop the proxy and end the current connection."""
        self._ending.set()
        self._thread.join()
        self._listener.close()


@contextmanager
def turnstile(path: Path, monitor: Path) -> Generator[Turnstile]:
    """Run a proxy for `monitor` on `path` until the block ends."""
    between = Turnstile(path, monitor)
    try:
        yield between
    finally:
        between.close()
