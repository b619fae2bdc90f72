"""The one file that knows libvirt-python: what is called there, and what it raises.

Everything here blocks, but for what a handle knows of itself: for the threads of calls.py. Nothing is
imported before the first connection, since libvirt-python is an extra.
"""

import os
import re
import threading
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Protocol

from agent.core.events import LinkEvent, MonitorEvent, MonitorEventKind
from agent.errors import LibvirtRefused, LibvirtUnreachable, LinkFault
from agent.libvirt import words
from agent.libvirt.settings import WAY_TO_GET_IT, owner_of, socket_of, uri_of_socket

KEEPALIVE_S, KEEPALIVES = 5, 3
"""A daemon that does not answer for some 20 s is given up, and with it every call that waits for it."""


class _Handle(Protocol):
    """A domain as libvirt-python has it."""

    def UUIDString(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Found:
    """A running domain."""

    uuid: str
    id: int  # another one at each start
    definition: words.Definition


@dataclass(frozen=True, slots=True)
class Look:
    """How one domain is now."""

    definition: words.Definition
    run_state: str


class Subscriber(Protocol):
    """Called with events, in libvirt's own thread."""

    def lifecycle(self, uuid: str, event: int, detail: int) -> None: ...
    def event(self, uuid: str, event: LinkEvent) -> None: ...
    def closed(self, why: str) -> None: ...


class Connection:
    """One open connection. Made by `open_connection`."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library = library
        self._handle = handle
        self._callbacks: list[int] = []
        # Nobody else has them: whoever lets go of the last one closes the connection, which may block.
        self._domains: dict[str, Any] = {}

    def subscribe(self, subscriber: Subscriber) -> None:
        """Pass events to `subscriber` from now on."""
        library, handle = self._library, self._handle

        def lifecycle(_conn: object, domain: _Handle, event: int, detail: int, _opaque: object) -> None:
            subscriber.lifecycle(domain.UUIDString(), event, detail)

        def reboot(_conn: object, domain: _Handle, _opaque: object) -> None:
            subscriber.event(domain.UUIDString(), MonitorEvent(MonitorEventKind.RESET))

        def balloon(_conn: object, domain: _Handle, actual_kib: int, _opaque: object) -> None:
            event = words.balloon_changed(actual_kib)
            if event is not None:
                subscriber.event(domain.UUIDString(), event)

        def device(_conn: object, domain: _Handle, _alias: str, _opaque: object) -> None:
            subscriber.event(domain.UUIDString(), MonitorEvent(MonitorEventKind.DEVICE_DELETED))

        def closed(_conn: object, reason: int, _opaque: object) -> None:
            why = {1: "it closed the connection", 2: "it does not answer"}.get(reason, "it has gone")
            subscriber.closed(why)

        with self._translating():
            for name, callback in (
                ("LIFECYCLE", lifecycle),
                ("REBOOT", reboot),
                ("BALLOON_CHANGE", balloon),
                ("DEVICE_REMOVED", device),
                ("DEVICE_ADDED", device),
            ):
                number = getattr(library, f"VIR_DOMAIN_EVENT_ID_{name}")
                self._callbacks.append(handle.domainEventRegisterAny(None, number, callback, None))
            handle.registerCloseCallback(closed, None)
            handle.setKeepAlive(KEEPALIVE_S, KEEPALIVES)

    def is_alive(self) -> bool:
        """Whether the connection is, as far as this end knows."""
        return self._handle.isAlive() == 1

    def look_around(self, known: Mapping[str, int]) -> tuple[Collection[str], Sequence[Found]]:
        """Return the uuids of the running domains, and those that are not `known` under their present id."""
        domains: dict[str, Any] = {}
        new: list[Found] = []
        with self._translating():
            handles = self._handle.listAllDomains(self._library.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        for handle in handles:
            uuid, number = str(handle.UUIDString()), int(handle.ID())
            if number < 0:
                continue  # it has just stopped
            if known.get(uuid) != number:
                try:
                    definition = words.parse_definition(handle.XMLDesc(0))
                except (self._library.libvirtError, ValueError):
                    continue  # gone meanwhile, most likely: the next look tells
                new.append(Found(uuid, number, definition))
            domains[uuid] = handle
        self._domains = domains
        return domains.keys(), new

    def look(self, path: str, uuid: str) -> Look:
        """Ask how a domain is. Neither question waits for QEMU."""
        with self._translating(path):
            handle = self._domain(path, uuid)
            state, reason = handle.state()
            if state == words.SHUT_OFF:
                raise LibvirtUnreachable(path, LinkFault.MISSING, "libvirt says: it is shut off")
            try:
                definition = words.parse_definition(handle.XMLDesc(0))
            except ValueError as error:
                raise LibvirtRefused(f"{path}: {error}") from error
        return Look(definition, words.run_state(state, reason))

    def stats(self, uuids: Sequence[str]) -> Mapping[str, Mapping[str, object]]:
        """Return balloon and state statistics by uuid: one call for all.

        NOWAIT: of a domain that somebody else is asking something there is no balloon in it. One whose QEMU
        does not answer holds up the call; asked again meanwhile, it is such a busy one.
        """
        library, domains = self._library, self._domains
        groups = library.VIR_DOMAIN_STATS_BALLOON | library.VIR_DOMAIN_STATS_STATE
        flags = library.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        handles = [domains[uuid] for uuid in uuids if uuid in domains]
        if not handles:
            return {}
        with self._translating():
            records = self._handle.domainListGetStats(handles, groups, flags)
        return {record[0].UUIDString(): record[1] for record in records}

    def set_period(self, path: str, uuid: str, period_s: int) -> None:
        """Set a running domain's polling period."""
        with self._translating(path):
            self._domain(path, uuid).setMemoryStatsPeriod(period_s, self._library.VIR_DOMAIN_AFFECT_LIVE)

    def _domain(self, path: str, uuid: str) -> Any:
        handle = self._domains.get(uuid)
        if handle is None:
            raise LibvirtUnreachable(path, LinkFault.MISSING, "libvirt has no such domain running")
        return handle

    def close(self) -> None:
        """Leave. Nothing more is heard."""
        library, handle = self._library, self._handle
        self._domains = {}
        for step in (
            *(lambda number=number: handle.domainEventDeregisterAny(number) for number in self._callbacks),
            handle.unregisterCloseCallback,
            handle.close,
        ):
            try:
                step()
            except library.libvirtError:
                continue  # it has ended already

    @contextmanager
    def _translating(self, path: str = "") -> Generator[None]:
        """Let what libvirt raises out as an error of ours."""
        library = self._library
        try:
            yield
        except library.libvirtError as error:
            said, code = f"libvirt says: {error}", error.get_error_code()
            if code in (library.VIR_ERR_NO_DOMAIN, library.VIR_ERR_OPERATION_INVALID):
                raise LibvirtUnreachable(path, LinkFault.MISSING, said) from error
            if not self.is_alive():
                raise LibvirtUnreachable(path, LinkFault.DISCONNECTED, said) from error
            raise LibvirtRefused(f"{path}: {said}" if path else said) from error


def open_connection(place: str, *, read_only: bool) -> Connection:
    """Connect to a libvirt: its URI, or the path of its socket.

    Raises:
        LibvirtUnreachable: DISCONNECTED.
    """
    try:
        library = _library()
    except ImportError as error:
        raise LibvirtUnreachable(place, LinkFault.DISCONNECTED, WAY_TO_GET_IT) from error
    uri = place if "://" in place else uri_of_socket(place, owner_of(place))
    try:
        with _Reached(uri) as reached:
            handle = library.openReadOnly(reached.uri) if read_only else library.open(reached.uri)
    except (library.libvirtError, OSError) as error:
        said = _NEAR.sub("", f"no connection to libvirt: {error}")
        if "user record" in said or "group record" in said:
            said += ": its daemon takes only clients whose ids it can name; be nobody there (65534), or root"
        raise LibvirtUnreachable(place, LinkFault.DISCONNECTED, said) from error
    return Connection(library, handle)


_NEAR = re.compile(r"/proc/self/fd/[0-9]+/")


class _Reached:
    """A URI whose socket is near: libvirt refuses a path over 107 bytes, and KubeVirt's are longer."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._descriptor: int | None = None

    def __enter__(self) -> "_Reached":
        socket = socket_of(self.uri)
        if socket is not None and len(socket.encode()) > 107:
            folder, name = os.path.split(socket)
            self._descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self.uri = f"{self.uri.partition('?')[0]}?socket=/proc/self/fd/{self._descriptor}/{name}"
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


@cache
def _library() -> Any:
    """Return libvirt-python, its event loop running: one for the process, as libvirt has it."""
    library: Any = import_module("libvirt")
    library.registerErrorHandler(_silent, None)  # else it writes every error to stderr
    library.virEventRegisterDefaultImpl()
    run: Callable[[], object] = library.virEventRunDefaultImpl

    def forever() -> None:
        while True:
            run()

    threading.Thread(target=forever, name="libvirt events", daemon=True).start()
    return library


def _silent(_context: object, _error: object) -> None:
    return
