"""A stand-in for libvirt-python with any number of simulated domains. Put its folder on `PYTHONPATH`.

It contains only what the agent and `tests.lab.bare_libvirt` call, and uses neither libvirt nor QEMU. So it
shows what hundreds of domains cost a caller and how often the caller asks, but not what a call costs libvirt.
The time for each domain of a bulk call is a setting, since libvirt asks one QEMU after the other. libvirt's
own `test:///` driver cannot be used, because its domains have no balloon statistics.

The settings are `STANDIN_DOMAINS`, `STANDIN_PERIOD_S` and `STANDIN_ANSWER_MS`. Each call is written to
`STANDIN_LOG`: its name and the number of domains.
"""

import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping, Sequence

VIR_CONNECT_LIST_DOMAINS_ACTIVE = 1
VIR_DOMAIN_STATS_STATE = 1
VIR_DOMAIN_STATS_BALLOON = 4
VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE = 1
VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT = 1 << 29
VIR_DOMAIN_AFFECT_LIVE = 1
VIR_DOMAIN_EVENT_ID_LIFECYCLE = 0
VIR_DOMAIN_EVENT_ID_REBOOT = 1
VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE = 13
VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED = 15
VIR_DOMAIN_EVENT_ID_DEVICE_ADDED = 19
VIR_ERR_NO_DOMAIN = 42
VIR_ERR_OPERATION_INVALID = 55

_DOMAINS = int(os.environ.get("STANDIN_DOMAINS", "500"))
_PERIOD_S = int(os.environ.get("STANDIN_PERIOD_S", "10"))
_ANSWER_S = float(os.environ.get("STANDIN_ANSWER_MS", "1")) / 1000
_DRIFT_S = 0.003  # QEMU's timer starts again when the guest has answered
_BEGUN_S = time.time()


class libvirtError(Exception):  # libvirt-python's name
    """The error of libvirt-python. The stand-in never raises it."""

    def get_error_code(self) -> int:
        """Return the error code."""
        return 0


_log = os.open(os.environ.get("STANDIN_LOG", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def _called(name: str, domains: int) -> None:
    os.write(_log, f"{name} {domains}\n".encode())


class virDomain:  # libvirt-python's name
    """A running domain whose guest answers."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._uuid = str(uuid.UUID(int=0xBA << 120 | number + 1))
        self._phase_s = (number * 0.618033988749895) % 1 * _PERIOD_S  # spread evenly, in no particular order
        self.period_s = _PERIOD_S

    def UUIDString(self) -> str:
        """Return the UUID."""
        return self._uuid

    def name(self) -> str:
        """Return the name."""
        return f"vm-{self._number}"

    def ID(self) -> int:
        """Return the id of this run of the domain."""
        return self._number + 1

    def state(self, _flags: int = 0) -> list[int]:
        """Return the state running with the reason booted."""
        _called("state", 1)
        return [1, 1]

    def XMLDesc(self, _flags: int = 0) -> str:
        """Return the parts of the definition that the agent reads."""
        _called("XMLDesc", 1)
        return (
            f"<domain type='kvm' id='{self.ID()}'><name>{self.name()}</name><uuid>{self._uuid}</uuid>"
            "<memory unit='KiB'>4194304</memory><devices><memballoon model='virtio'>"
            f"<stats period='{self.period_s}'/><alias name='balloon0'/></memballoon></devices></domain>"
        )

    def setMemoryStatsPeriod(self, period_s: int, _flags: int = 0) -> int:
        """Set the period."""
        _called("setMemoryStatsPeriod", 1)
        self.period_s = period_s
        return 0

    def stats(self) -> dict[str, int]:
        """Return the groups state and balloon. `minor_fault` is the time of the update, in Unix ms."""
        every_s = _PERIOD_S + _DRIFT_S
        updates = int((time.time() - _BEGUN_S + _PERIOD_S - self._phase_s) / every_s)
        updated_s = _BEGUN_S - _PERIOD_S + self._phase_s + updates * every_s
        return {
            "state.state": 1,
            "state.reason": 1,
            "balloon.current": 4194304,
            "balloon.maximum": 4194304,
            "balloon.swap_in": 0,
            "balloon.swap_out": 0,
            "balloon.major_fault": updates,
            "balloon.minor_fault": round(updated_s * 1000),
            "balloon.unused": 1000000 + self._number * 10 + updates % 10,
            "balloon.available": 4000000,
            "balloon.usable": 2000000,
            "balloon.last-update": int(updated_s),
            "balloon.disk_caches": 800000,
            "balloon.hugetlb_pgalloc": 0,
            "balloon.hugetlb_pgfail": 0,
            "balloon.rss": 3000000,
        }


class virConnect:  # libvirt-python's name
    """A connection that never ends."""

    def __init__(self) -> None:
        self._domains = [virDomain(number) for number in range(_DOMAINS)]

    def listAllDomains(self, _flags: int = 0) -> list[virDomain]:
        """Return all domains."""
        _called("listAllDomains", len(self._domains))
        return list(self._domains)

    def getAllDomainStats(
        self, _stats: int = 0, _flags: int = 0
    ) -> list[tuple[virDomain, Mapping[str, int]]]:
        """Return the statistics of all domains."""
        return self.domainListGetStats(self._domains)

    def domainListGetStats(
        self, domains: Sequence[virDomain], _stats: int = 0, _flags: int = 0
    ) -> list[tuple[virDomain, Mapping[str, int]]]:
        """Return the statistics of domains, which it asks one after the other, as libvirt does."""
        _called("domainListGetStats", len(domains))
        answers: list[tuple[virDomain, Mapping[str, int]]] = []
        for domain in domains:
            time.sleep(_ANSWER_S)
            answers.append((domain, domain.stats()))
        return answers

    def domainEventRegisterAny(
        self, _domain: object, _event: int, _callback: Callable[..., object], _opaque: object
    ) -> int:
        """Accept the callback, but never call it: the domains have no events."""
        return 0

    def domainEventDeregisterAny(self, _number: int) -> int:
        """Do nothing."""
        return 0

    def registerCloseCallback(self, _callback: Callable[..., object], _opaque: object) -> int:
        """Accept the callback, but never call it."""
        return 0

    def unregisterCloseCallback(self) -> int:
        """Do nothing."""
        return 0

    def setKeepAlive(self, _interval_s: int, _count: int) -> int:
        """Do nothing."""
        return 0

    def isAlive(self) -> int:
        """Return that the connection is alive."""
        return 1

    def close(self) -> int:
        """Do nothing."""
        return 0


def open(_uri: str | None = None) -> virConnect:  # libvirt-python's name
    """Return a connection."""
    _add_socket()
    return virConnect()


def openReadOnly(_uri: str | None = None) -> virConnect:  # libvirt-python's name
    """Return a connection."""
    return open()


def registerErrorHandler(_handler: Callable[..., object], _context: object) -> int:
    """Accept the handler, but never call it."""
    return 0


def virEventRegisterImpl(*functions: Callable[..., object]) -> None:
    """Keep the functions. The first adds a handle, the third removes one."""
    _event_functions[:] = functions


def _add_socket() -> None:
    """Add the connection's socket to the event loop, as the library does before it uses it, and close it."""
    if _event_functions:
        ends = socket.socketpair()
        _event_functions[2](_event_functions[0](ends[0].fileno(), 0, print, None))
        for end in ends:
            end.close()


_event_functions: list[Callable[..., object]] = []


def virEventInvokeFreeCallback(_opaque: object) -> None:
    """Do nothing."""
