"""Clients of a VM's monitor and of its guest's order port. They share no code with the agent, on purpose."""

import json
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import cast

BALLOON = "/machine/peripheral/balloon0"


class Monitor:
    """A blocking QMP client, for a monitor other than the agent's."""

    def __init__(self, path: Path, timeout_s: float = 60.0, *, patience_s: float = 60.0) -> None:
        """Connect. Wait at most `patience_s` for a listener, and at most `timeout_s` for each answer."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        self._stream = self._socket.makefile("rwb")
        self._event_ms: dict[str, float] = {}
        try:
            self._connect(path, patience_s)
            self.greeting = self._read()
            self.command("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def _connect(self, path: Path, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                self._socket.connect(str(path))
                return
            except (
                FileNotFoundError,
                ConnectionRefusedError,
                BlockingIOError,
            ):  # BlockingIOError: the queue of the socket is full
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def command(self, name: str, **arguments: object) -> object:
        """Run a QMP command and return the `return` of the answer.

        Raises:
            RuntimeError: QEMU refused.
        """
        self._stream.write(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
        self._stream.flush()
        while True:
            message = self._read()
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise RuntimeError(f"{name}: {message['error']}")
            self._note(message)

    def event_ms(self, name: str) -> float:
        """Wait for an event since the monitor was opened, and return its time in Unix milliseconds."""
        while name not in self._event_ms:
            self._note(self._read())
        return self._event_ms[name]

    def _note(self, message: dict[str, object]) -> None:
        if "event" in message:
            at = cast(dict[str, int], message["timestamp"])
            self._event_ms[str(message["event"])] = at["seconds"] * 1000 + at["microseconds"] / 1000

    @property
    def version(self) -> tuple[int, int, int]:
        """Return QEMU's version from its greeting."""
        said = cast(dict[str, dict[str, dict[str, int]]], self.greeting["QMP"])["version"]["qemu"]
        return said["major"], said["minor"], said["micro"]

    def human(self, words: str) -> None:
        """Run a command of the human monitor.

        Raises:
            RuntimeError: the command printed something, which is how it reports an error.
        """
        said = self.command("human-monitor-command", **{"command-line": words})
        if said:
            raise RuntimeError(f"{words}: {said}")

    def get(self, name: str, path: str = BALLOON) -> object:
        """Return a QOM property."""
        return self.command("qom-get", path=path, property=name)

    def guest_stats(self) -> tuple[int, dict[str, int]]:
        """Return `last-update` and the statistics under QEMU's names."""
        answer = cast(dict[str, object], self.get("guest-stats"))
        return cast(int, answer["last-update"]), cast(dict[str, int], answer["stats"])

    def set_interval(self, interval_s: int) -> None:
        """Set the polling interval, as another client would."""
        self.command("qom-set", path=BALLOON, property="guest-stats-polling-interval", value=interval_s)

    def interval_s(self) -> int:
        """Return the polling interval."""
        return cast(int, self.get("guest-stats-polling-interval"))

    def wait_for_update(self, timeout_s: float = 180.0) -> int:
        """Return the `last-update` of the first update after now. The interval must be set.

        Raises:
            TimeoutError: no update came: the guest has no driver, or does not answer.
        """
        before, _ = self.guest_stats()
        deadline = time.monotonic() + timeout_s
        while (now := self.guest_stats()[0]) <= before:
            if time.monotonic() > deadline:
                raise TimeoutError(f"last-update is still {now} after {timeout_s} s")
            time.sleep(0.01)
        return now

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect. If QEMU has closed the connection, unsent commands are not an error."""
        with suppress(ConnectionError):
            self._stream.close()
        self._socket.close()

    def _read(self) -> dict[str, object]:
        line = self._stream.readline()
        if not line:
            raise ConnectionError("QEMU has hung up")
        return cast(dict[str, object], json.loads(line))


class Orders:
    """A guest's second serial port, from which it reads orders (`guest_init.sh`)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def give(self, words: str, timeout_s: float = 30.0) -> None:
        """Give an order and wait until it has been carried out.

        Raises:
            RuntimeError: the guest could not carry it out, or its QEMU has ended.
        """
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(str(self._path))
        self._socket.settimeout(timeout_s)
        self._socket.sendall(words.encode() + b"\n")
        answer = b""
        try:
            while not answer.endswith(b"\n"):
                got = self._socket.recv(100)
                if not got:
                    raise RuntimeError(f"{self._path.stem}: {words}: QEMU is gone")
                answer += got
        except BaseException:
            self.forget()  # a late answer must not be taken for that of the next order
            raise
        if answer.strip() != b"ok":
            raise RuntimeError(f"{self._path.stem}: {words}: the guest says {answer!r}")

    def forget(self) -> None:
        """Disconnect from the port. The next order connects again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
