"""Tells systemd where we stand, where it has started us: ready, reloading, stopping, and that the loop turns.

The protocol is datagrams of `NAME=value` lines to the socket in `NOTIFY_SOCKET`: sd_notify(3),
sd_watchdog_enabled(3). Nothing here can hold up the loop or end the agent: what cannot be told is not told.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping

import anyio
import structlog

log = structlog.get_logger("barograph")

_STATUS_EVERY_S = 10.0


class ServiceManager:
    """The one that started us; where nobody did, nobody is told anything."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET")
        self._every_s = _STATUS_EVERY_S
        self._standing: tuple[str, ...] = ()
        if environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            watchdog_us = int(environ.get("WATCHDOG_USEC") or 0)
            # Twice in the time, as sd_watchdog_enabled(3) recommends.
            self._every_s = min(self._every_s, watchdog_us / 2e6) if watchdog_us else self._every_s

    def ready(self) -> None:
        """The start, or the reload, is done."""
        # Told again each time: where the socket's queue is full we do not wait.
        self._standing = ("READY=1",)
        self._tell(*self._standing)

    def reloading(self) -> None:
        """The configuration is read anew, until `ready`."""
        self._standing = ()
        # The time is for those with Type=notify-reload, from systemd 253.
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The end has begun."""
        self._standing = ("STOPPING=1",)
        self._tell(*self._standing)

    async def run(self, status: Callable[[], str]) -> None:
        """Say that the loop turns, and in a few words how things are, until cancelled."""
        if self._address is None:
            return
        while True:
            self._tell("WATCHDOG=1", f"STATUS={status()}", *self._standing)
            await anyio.sleep(self._every_s)

    def _tell(self, *fields: str) -> None:
        if self._address is None:
            return
        # A leading @ stands for the zero byte of an abstract socket: unix(7).
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as telling:
                telling.sendto("\n".join(fields).encode(), address)
        except OSError as error:
            log.debug("the service manager was not told", fields=fields, problem=str(error))
