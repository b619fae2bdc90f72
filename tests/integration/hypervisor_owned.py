"""VMs that libvirt manages, and a client of libvirt that observes them."""

import threading
import time
import xml.etree.ElementTree as ET
from functools import cache
from typing import Any, Literal, cast

from tests.integration.hypervisor_kinds import AnyKind, Guest, Watcher
from tests.lab.libvirt import Daemon, Domain, bindings, libvirtd

QEMUS_NAMES = {
    "swap_in": "stat-swap-in",
    "swap_out": "stat-swap-out",
    "major_fault": "stat-major-faults",
    "minor_fault": "stat-minor-faults",
    "unused": "stat-free-memory",
    "available": "stat-total-memory",
    "usable": "stat-available-memory",
    "disk_caches": "stat-disk-caches",
    "hugetlb_pgalloc": "stat-htlb-pgalloc",
    "hugetlb_pgfail": "stat-htlb-pgfail",
}
"""libvirt's names of the statistics, and QEMU's (libvirt 9.0, qemu_monitor_json.c, GET_BALLOON_STATS)."""

COUNTS = {"major_fault", "minor_fault", "hugetlb_pgalloc", "hugetlb_pgfail"}
"""The statistics that are counts. All others are sizes in KiB."""

_PAUSE_S = 0.02


class OwnedClient(Watcher):
    """A client of libvirt that reads like the agent: the balloon group of the bulk call, without waiting."""

    def __init__(self, daemon: Daemon, name: str) -> None:
        self._library = _with_event_loop()
        self._connection = self._library.open(daemon.uri)
        self._domain = self._connection.lookupByName(name)
        self.events: list[dict[str, object]] = []
        for event, callback in (
            (self._library.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle),
            (self._library.VIR_DOMAIN_EVENT_ID_REBOOT, self._reboot),
            (self._library.VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE, self._balloon_change),
        ):
            self._connection.domainEventRegisterAny(self._domain, event, callback, None)

    def told(self) -> dict[str, int]:
        """Return the fields of libvirt's balloon group, without their prefix."""
        groups, nowait = self._library.VIR_DOMAIN_STATS_BALLOON, 1 << 29  # ..._STATS_NOWAIT
        assert nowait == self._library.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        ((_, fields),) = self._connection.domainListGetStats([self._domain], groups, nowait)
        return {name.removeprefix("balloon."): value for name, value in fields.items()}

    def stats(self) -> tuple[int, dict[str, int]]:
        deadline = time.monotonic() + 120
        while "last-update" not in (told := self.told()):  # busy, as after a reset
            assert time.monotonic() < deadline, told
        return told["last-update"], {
            QEMUS_NAMES[name]: value if name in COUNTS else value * 1024
            for name, value in told.items()
            if name in QEMUS_NAMES
        }

    def interval(self, value: object) -> object:
        flags = self._library.VIR_DOMAIN_AFFECT_LIVE
        return {} if self._domain.setMemoryStatsPeriod(value, flags) == 0 else "refused"

    def interval_now(self) -> int:
        element = ET.fromstring(self._domain.XMLDesc(0)).find("devices/memballoon/stats")
        return 0 if element is None else int(element.get("period", "0"))

    def pause(self) -> None:
        self._domain.suspend()

    def resume(self) -> None:
        self._domain.resume()

    def reset(self) -> None:
        self._domain.reset()

    def run_state(self) -> str:
        return {1: "running", 3: "paused"}[cast(int, self._domain.state()[0])]

    def resize(self, size_bytes: int) -> None:
        self._domain.setMemory(size_bytes // 1024)

    def actual(self) -> int:
        return self.told()["current"] * 1024

    def wait_for(self, names: list[str], timeout_s: float = 180.0) -> list[dict[str, object]]:
        missing, seen = list(names), list[dict[str, object]]()
        deadline = time.monotonic() + timeout_s
        while missing:
            assert time.monotonic() < deadline, f"no {missing}, but {seen}"
            if not self.events:
                time.sleep(_PAUSE_S)
                continue
            seen.append(self.events.pop(0))
            if seen[-1]["event"] == missing[0]:
                missing.pop(0)
        return seen

    def silence(self, duration_s: float) -> None:
        time.sleep(duration_s)
        assert self.events == []

    def close(self) -> None:
        del self._domain
        self._connection.close()

    # libvirt's events, under QEMU's names

    def _lifecycle(self, _conn: object, _domain: object, event: int, detail: int, _opaque: object) -> None:
        words = {
            self._library.VIR_DOMAIN_EVENT_SUSPENDED: "STOP",
            self._library.VIR_DOMAIN_EVENT_RESUMED: "RESUME",
        }
        self.events.append({"event": words.get(event, f"lifecycle {event}"), "data": {"detail": detail}})

    def _reboot(self, _conn: object, _domain: object, _opaque: object) -> None:
        self.events.append({"event": "RESET", "data": {}})

    def _balloon_change(self, _conn: object, _domain: object, actual_kib: int, _opaque: object) -> None:
        self.events.append({"event": "BALLOON_CHANGE", "data": {"actual": actual_kib * 1024}})


@cache
def _with_event_loop() -> Any:
    """Return the library, with its event loop in a thread.

    The loop must always run: it answers libvirtd's keepalives, and without an answer for 25 s libvirtd closes
    the connection.
    """
    library = bindings()
    library.virEventRegisterDefaultImpl()
    threading.Thread(target=_run_events, args=(library,), name="libvirt-events", daemon=True).start()
    return library


def _run_events(library: Any) -> None:
    while True:
        library.virEventRunDefaultImpl()


class Owned(AnyKind):
    """Creates domains of a libvirtd, and clients for them."""

    def guest(self, shape: Literal["usual", "silent"] = "usual") -> Guest:
        daemon = self.stack.enter_context(libvirtd(self.folder, "one"))
        # No panic device, as in the other kinds: libvirt's reaction to it is not part of the contract.
        return daemon.domain("vm", driver=shape == "usual", on_crash=None)

    def watch(self, guest: Guest) -> OwnedClient:
        domain = cast(Domain, guest)
        client = OwnedClient(domain.daemon, domain.name)
        self.stack.callback(client.close)
        return client
