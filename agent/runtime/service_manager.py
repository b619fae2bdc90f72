"""Notifies systemd, if it started the agent: ready, reloading, stopping, watchdog and status.

The protocol is datagrams of `NAME=value` lines to the socket in `NOTIFY_SOCKET`: sd_notify(3),
sd_watchdog_enabled(3). Nothing here blocks the event loop or ends the agent: a notification that cannot be
sent is dropped.
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
    """Sends notifications to the service manager. Without `NOTIFY_SOCKET` it does nothing."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET")
        self._every_s = _STATUS_EVERY_S
        self._state: tuple[str, ...] = ()
        if environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            watchdog_us = int(environ.get("WATCHDOG_USEC") or 0)
            # Twice in the time, as sd_watchdog_enabled(3) recommends.
            self._every_s = min(self._every_s, watchdog_us / 2e6) if watchdog_us else self._every_s

    def ready(self) -> None:
        """Report that the start, or the reload, has finished."""
        # Repeated with each notification, since this one is lost if the socket's queue is full.
        self._state = ("READY=1",)
        self._notify(*self._state)

    def reloading(self) -> None:
        """Report that a reload has begun, until `ready`."""
        self._state = ()
        # Type=notify-reload, from systemd 253 on, requires the time.
        self._notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that the agent is stopping."""
        self._state = ("STOPPING=1",)
        self._notify(*self._state)

    async def run(self, status: Callable[[], str]) -> None:
        """Send watchdog notifications and a status line until canceled; they show that the loop runs."""
        if self._address is None:
            return
        while True:
            self._notify("WATCHDOG=1", f"STATUS={status()}", *self._state)
            await anyio.sleep(self._every_s)

    def _notify(self, *fields: str) -> None:
        if self._address is None:
            return
        # A leading @ stands for the zero byte of an abstract socket: unix(7).
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.sendto("\n".join(fields).encode(), address)
        except OSError as error:
            log.debug("service manager not notified", fields=fields, problem=str(error))
