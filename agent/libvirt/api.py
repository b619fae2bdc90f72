"""The only module that uses libvirt-python: its calls, and the errors they raise.

Everything here blocks, except what a handle knows itself: call it in the threads of calls.py. libvirt-python
is an extra, so it is imported with the first connection.
"""

import os
import re
import threading
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import Any, Protocol

from agent.core.events import LinkEvent, MonitorEvent, MonitorEventKind
from agent.core.reading import SocketMark
from agent.core.wording import printable
from agent.errors import LibvirtRefused, LibvirtUnreachable, LinkFault
from agent.libvirt import qmp_terms
from agent.libvirt.event_loops import EventLoop, event_loops
from agent.libvirt.qmp_terms import LabelSources
from agent.libvirt.relay import Relay
from agent.libvirt.targets import NOT_INSTALLED, owner_of, socket_of, uri_of_socket

KEEPALIVE_S, KEEPALIVES = 5, 3
"""After about 20 s without an answer from the daemon the connection ends, and with it every call on it."""

_MESSAGE_MAX_CHARACTERS = 512


@dataclass(frozen=True, slots=True)
class FoundSocket:
    """The socket of a libvirt, as discovery found it."""

    path: str
    mark: SocketMark


class _Handle(Protocol):
    """A domain of libvirt-python."""

    def UUIDString(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Found:
    """A running domain."""

    uuid: str
    id: int  # a new one at each start
    definition: qmp_terms.Definition


@dataclass(frozen=True, slots=True)
class Listing:
    """The running domains of a libvirt."""

    running: Collection[str]  # uuids of those that are used
    new: Sequence[Found]  # those of them that were not known
    unusable: Mapping[str, str]  # why a domain is not used, by uuid
    left_out: int  # domains over the bound


@dataclass(frozen=True, slots=True)
class Look:
    """One domain's definition and run state."""

    definition: qmp_terms.Definition
    run_state: str
    resident_bytes: int | None = None  # of a domain without a balloon: no reading brings it


class Subscriber(Protocol):
    """Called with events, in the thread of the connection's event loop."""

    def lifecycle(self, uuid: str, event: int, detail: int) -> None: ...
    def event(self, uuid: str, event: LinkEvent) -> None: ...
    def closed(self, why: str) -> None: ...


class Connection:
    """One open connection. Made by `open_connection`."""

    def __init__(self, library: Any, handle: Any, loop: EventLoop, relay: Relay | None = None) -> None:
        self._library = library
        self._handle = handle
        self._loop = loop
        self._relay = relay
        self._changed = threading.Condition()
        self._calls = 0  # in progress
        self._closing = False
        self._callbacks: list[int] = []
        # Kept only here: releasing the last handle closes the connection, which may block.
        self._domains: dict[str, Any] = {}

    def subscribe(self, subscriber: Subscriber) -> None:
        """Pass events to `subscriber` from now on."""
        library, handle = self._library, self._handle

        def lifecycle(_conn: object, domain: _Handle, event: int, detail: int, _opaque: object) -> None:
            subscriber.lifecycle(domain.UUIDString(), event, detail)

        def reboot(_conn: object, domain: _Handle, _opaque: object) -> None:
            subscriber.event(domain.UUIDString(), MonitorEvent(MonitorEventKind.RESET))

        def balloon(_conn: object, domain: _Handle, actual_kib: int, _opaque: object) -> None:
            event = qmp_terms.balloon_changed(actual_kib)
            if event is not None:
                subscriber.event(domain.UUIDString(), event)

        def device(_conn: object, domain: _Handle, _alias: str, _opaque: object) -> None:
            subscriber.event(domain.UUIDString(), MonitorEvent(MonitorEventKind.DEVICE_DELETED))

        def closed(_conn: object, reason: int, _opaque: object) -> None:
            why = {1: "the daemon closed the connection", 2: "the daemon does not answer"}
            subscriber.closed(_problem_of(self._relay) or why.get(reason, "the connection ended"))

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
        """Return whether the connection is open, as far as this end knows."""
        return self._handle.isAlive() == 1

    def look_around(
        self,
        known: Mapping[str, int],
        domains_max: int | None = None,
        sources: LabelSources = qmp_terms.NO_SOURCES,
    ) -> Listing:
        """Return the running domains, up to a bound: those that are `known`, by id, and then the oldest."""
        domains: dict[str, Any] = {}
        new: list[Found] = []
        unusable: dict[str, str] = {}
        with self._translating():
            handles = self._handle.listAllDomains(self._library.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            listed = [(str(handle.UUIDString()), int(handle.ID()), handle) for handle in handles]
        running = [each for each in listed if each[1] >= 0]  # the others have just stopped
        running.sort(key=lambda each: (each[0] not in known, each[1]))
        for uuid, number, handle in running[:domains_max]:
            if known.get(uuid) != number:
                try:
                    definition = qmp_terms.parse_definition(handle.XMLDesc(0), sources)
                except self._library.libvirtError:
                    continue  # most likely gone; the next listing shows
                except ValueError as error:
                    unusable[uuid] = str(error)
                    continue
                new.append(Found(uuid, number, definition))
            domains[uuid] = handle
        self._domains = domains
        return Listing(domains.keys(), new, unusable, len(running) - len(running[:domains_max]))

    def look(self, path: str, uuid: str) -> Look:
        """Return a domain's definition and run state, and the memory of one without a balloon.

        No call waits for QEMU: libvirt asks it for the statistics of a balloon only.
        """
        with self._translating(path):
            handle = self._domain(path, uuid)
            state, reason = handle.state()
            if state == qmp_terms.SHUT_OFF:
                raise LibvirtUnreachable(path, LinkFault.MISSING, "libvirt reports the domain as shut off")
            try:
                definition = qmp_terms.parse_definition(handle.XMLDesc(0))
            except ValueError as error:
                raise LibvirtRefused(f"{path}: {error}") from error
        resident_bytes = self._resident_bytes(uuid) if definition.balloon is None else None
        return Look(definition, qmp_terms.run_state(state, reason), resident_bytes)

    def _resident_bytes(self, uuid: str) -> int | None:
        try:
            return qmp_terms.resident_bytes(self.stats([uuid]).get(uuid, {}))
        except LibvirtRefused:
            return None

    def stats(self, uuids: Sequence[str]) -> Mapping[str, Mapping[str, object]]:
        """Return balloon and state statistics by uuid, in one call.

        NOWAIT: a domain on which another job runs comes without balloon statistics. A QEMU that does not
        answer holds up the call; in a second call meanwhile its domain is such a busy one.
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
            raise LibvirtUnreachable(path, LinkFault.MISSING, "libvirt has no running domain with this uuid")
        return handle

    def close(self) -> None:
        """Close the connection and wait until its event loop and relay have ended. No more events come.

        It waits for the calls in progress as well: libvirt frees a connection once its last reference is
        released, even if another thread is making a call on it.
        """
        with self._changed:
            self._closing = True
        try:
            self._domains = {}
            self._unsubscribe()
            with self._changed:
                self._changed.wait_for(lambda: not self._calls)
            self._domains = {}
            self._unsubscribe()  # what a call in progress has subscribed to
            for step in (self._handle.unregisterCloseCallback, self._handle.close):
                self._try(step)
        finally:
            _end(self._loop, self._relay)

    def _unsubscribe(self) -> None:
        while self._callbacks:
            self._try(partial(self._handle.domainEventDeregisterAny, self._callbacks.pop()))

    def _try(self, step: Callable[[], object]) -> None:
        """Go on if the connection has ended already, or the daemon refuses."""
        with suppress(self._library.libvirtError, UnicodeDecodeError):
            step()

    @contextmanager
    def _translating(self, path: str = "") -> Generator[None]:
        """Turn libvirt's exceptions into the agent's errors, and keep the connection open meanwhile."""
        with self._in_progress(path), event_loops().using(self._loop):
            library = self._library
            try:
                yield
            except library.libvirtError as error:
                said, code = _said(error), error.get_error_code()
                if code in (library.VIR_ERR_NO_DOMAIN, library.VIR_ERR_OPERATION_INVALID):
                    raise LibvirtUnreachable(path, LinkFault.MISSING, said) from error
                if not self.is_alive():
                    said = _problem_of(self._relay) or said
                    raise LibvirtUnreachable(path, LinkFault.DISCONNECTED, said) from error
                raise LibvirtRefused(f"{path}: {said}" if path else said) from error
            except UnicodeDecodeError as error:  # also instead of an error whose message is not UTF-8
                raise LibvirtRefused(f"{path}: {_NOT_UTF8}" if path else _NOT_UTF8) from error

    @contextmanager
    def _in_progress(self, path: str) -> Generator[None]:
        with self._changed:
            if self._closing:
                raise LibvirtUnreachable(path, LinkFault.DISCONNECTED, "the connection was closed")
            self._calls += 1
        try:
            yield
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()


def open_connection(
    place: str,
    *,
    read_only: bool,
    expected: FoundSocket | None = None,
    message_max_bytes: int | None = None,
) -> Connection:
    """Connect to a libvirt, given its URI or the path of its socket.

    Args:
        place: the URI or path.
        read_only: whether the connection is read-only.
        expected: nothing is connected if the path leads to any other socket: discovery has not judged that
            one, and the user who owns the directory may have made the path lead there.
        message_max_bytes: the connection ends at a longer message of the daemon's; `None`: the library has
            the only limit, 32 MiB.

    Raises:
        LibvirtUnreachable: DISCONNECTED.
    """
    try:
        library = _library()
    except ImportError as error:
        raise LibvirtUnreachable(place, LinkFault.DISCONNECTED, NOT_INSTALLED) from error
    uri = place if "://" in place else uri_of_socket(place, owner_of(place))
    relay = None
    try:
        relay = None if message_max_bytes is None else Relay(message_max_bytes)
        with _new_loop(relay) as loop, _ShortPath(uri, expected) as short:
            handle = library.openReadOnly(short.uri) if read_only else library.open(short.uri)
            if relay is not None and not relay.has_stepped_in:
                handle.close()
                raise LibvirtUnreachable(place, LinkFault.DISCONNECTED, _UNBOUNDED)
    except (library.libvirtError, OSError) as error:
        if (problem := _problem_of(relay)) is not None:
            raise LibvirtUnreachable(place, LinkFault.DISCONNECTED, problem) from error
        said = _DESCRIPTOR_PATH.sub("", f"no connection to {_said(error)}")
        said = _DESCRIPTOR.sub("the socket", said)
        if "user record" in said or "group record" in said:
            said += (
                ": the daemon accepts only clients whose user and group it can look up; run the agent as a"
                " user that exists on the daemon's system, as uid 65534, or as root"
            )
        raise LibvirtUnreachable(place, LinkFault.DISCONNECTED, said) from error
    except UnicodeDecodeError as error:
        raise LibvirtUnreachable(place, LinkFault.DISCONNECTED, _NOT_UTF8) from error
    return Connection(library, handle, loop, relay)


@contextmanager
def _new_loop(relay: Relay | None) -> Generator[EventLoop]:
    """Use a new event loop in the block. If that raises, the loop and the relay end."""
    try:
        loop = event_loops().open(None if relay is None else relay.step_in)
    except BaseException:
        if relay is not None:
            relay.close()
        raise
    try:
        with event_loops().using(loop):
            yield loop
    except BaseException:
        _end(loop, relay)
        raise


def _end(loop: EventLoop, relay: Relay | None) -> None:
    """Wait until both have ended: so a daemon that keeps one busy holds a thread that is counted."""
    loop.close()
    loop.join()
    if relay is not None:
        relay.close()


def _problem_of(relay: Relay | None) -> str | None:
    return None if relay is None else relay.problem


_UNBOUNDED = (
    "the size of messages cannot be limited: libvirt's client library has not added its socket to the event"
    " loop; use another version of libvirt, or configure this libvirt by `uri`"
)


def _said(error: Exception) -> str:
    """Return an error of libvirt as text. The daemon, which any user may run, chooses most of it."""
    return printable(f"libvirt: {error}", _MESSAGE_MAX_CHARACTERS)


_NOT_UTF8 = "libvirt: the daemon sent text that is not UTF-8; find out which program created the socket"

_DESCRIPTOR_PATH = re.compile(r"/proc/self/fd/[0-9]+/")
_DESCRIPTOR = re.compile(r"/proc/self/fd/[0-9]+")


class _ShortPath:
    """A URI with a short socket path: libvirt refuses paths over 107 bytes, and KubeVirt's are longer.

    With an expected socket it is the path of a descriptor, which leads nowhere else and has no characters
    that mean something in a URI.
    """

    def __init__(self, uri: str, expected: FoundSocket | None = None) -> None:
        self.uri = uri
        self._expected = expected
        self._descriptor: int | None = None

    def __enter__(self) -> "_ShortPath":
        socket, expected = socket_of(self.uri), self._expected
        if expected is not None:
            self._descriptor = os.open(expected.path, os.O_PATH | os.O_CLOEXEC)
            status = os.fstat(self._descriptor)
            if (status.st_dev, status.st_ino) != (expected.mark.device, expected.mark.inode):
                os.close(self._descriptor)
                raise OSError(f"{expected.path} is not the socket that was found")
            self.uri = f"{self.uri.partition('?')[0]}?socket=/proc/self/fd/{self._descriptor}"
        elif socket is not None and len(socket.encode()) > 107:
            folder, name = os.path.split(socket)
            self._descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self.uri = f"{self.uri.partition('?')[0]}?socket=/proc/self/fd/{self._descriptor}/{name}"
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


@cache
def _loaded_library() -> Any:
    library: Any = import_module("libvirt")
    library.registerErrorHandler(_silent, None)  # the default writes every error to stderr
    event_loops().register(library)
    return library


def _library() -> Any:
    """Return libvirt-python, which uses our event loops."""
    with _LOADING:
        return _loaded_library()


_LOADING = threading.Lock()


def _silent(_context: object, _error: object) -> None:
    return
