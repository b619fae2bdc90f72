"""Compare what libvirt shows of a QEMU with what QEMU itself shows, and what libvirt does on its own."""

import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.hypervisor_kinds import Client
from tests.integration.hypervisor_owned import COUNTS, QEMUS_NAMES, OwnedClient
from tests.lab.libvirt import libvirtd

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("real_libvirt")]

Reading = tuple[int, dict[str, int]]


class Watched(threading.Thread):
    """Reads continuously, and records when each update was first seen."""

    def __init__(self, stats: Callable[[], Reading]) -> None:
        super().__init__()
        self._stats = stats
        self.ended = threading.Event()
        self.seen: dict[int, tuple[float, dict[str, int]]] = {}

    def run(self) -> None:
        while not self.ended.wait(0.004):
            last_update, values = self._stats()
            self.seen.setdefault(last_update, (time.monotonic(), values))


def test_one_qemu_watched_both_ways_shows_the_same_updates_at_the_same_times(folder: Path) -> None:
    with libvirtd(folder, "one") as daemon:
        domain = daemon.domain("g", period_s=1)
        domain.order("churn")  # values that differ from one update to the next
        by_qmp, by_libvirt = Client(domain.truth), OwnedClient(daemon, "g")
        watched = [Watched(by_qmp.stats), Watched(by_libvirt.stats)]
        for each in watched:
            each.start()
        by_qmp_seen, by_libvirt_seen = (each.seen for each in watched)
        deadline = time.monotonic() + 180
        while len(by_qmp_seen.keys() & by_libvirt_seen.keys()) < 14 and time.monotonic() < deadline:
            time.sleep(0.1)
        for each in watched:
            each.ended.set()
        for each in watched:
            each.join()
        by_qmp.close()
        by_libvirt.close()

    # The first update was there before they began. On a busy machine one of them can miss an update.
    both = [each for each in list(by_qmp_seen)[1:] if each in by_libvirt_seen]
    assert len(both) >= 12
    apart_s = [abs(by_qmp_seen[each][0] - by_libvirt_seen[each][0]) for each in both]
    assert statistics.median(apart_s) < 0.5  # the next update comes after a second
    for each in both:
        theirs = by_libvirt_seen[each][1]
        for name, known_as in QEMUS_NAMES.items():
            unit = 1 if name in COUNTS else 1024
            assert theirs[known_as] // unit == by_qmp_seen[each][1][known_as] // unit, (each, name)


def test_a_migration_carries_the_guest_and_libvirt_sets_the_interval_again(folder: Path) -> None:
    with libvirtd(folder, "one") as one, libvirtd(folder, "two") as two:
        here = one.domain("g")
        source = OwnedClient(one, "g")
        assert source.interval(2) == {}
        source.next_update()
        before = source.stats()

        there = here.migrate(two)
        source.close()

        destination = OwnedClient(two, "g")
        assert destination.interval_now() == 2
        with there.monitor() as truth:
            assert truth.interval_s() == 2
        # The new QEMU reads the guest's old buffer again, with a new time.
        assert destination.stats()[0] >= before[0]
        destination.next_update()
        moved = destination.stats()[1]["stat-free-memory"]
        assert abs(moved - before[1]["stat-free-memory"]) < 8 << 20
        destination.close()


def test_a_domain_saved_and_restored_has_its_interval_and_reads_its_old_buffer_again(folder: Path) -> None:
    with libvirtd(folder, "one") as daemon:
        domain = daemon.domain("g", period_s=2)
        before_it = OwnedClient(daemon, "g")
        before_it.next_update()
        before = before_it.stats()
        before_it.close()

        domain.virsh("managedsave")
        domain.start()

        after_it = OwnedClient(daemon, "g")
        assert after_it.interval_now() == 2
        assert after_it.stats()[0] >= before[0]
        after_it.next_update()
        after_it.close()


def test_libvirt_does_not_invent_what_qemu_does_not_report(folder: Path) -> None:
    with libvirtd(folder, "one") as daemon:
        without = OwnedClient(daemon, daemon.domain("none", balloon=False, booted=False).name)
        silent = OwnedClient(daemon, daemon.domain("silent", period_s=1, driver=False).name)

        deadline = time.monotonic() + 120
        while set(without.told()) != {"current", "maximum", "rss"}:  # while it boots, another job may block
            assert time.monotonic() < deadline, without.told()
            time.sleep(0.1)
        assert set(silent.told()) == {"current", "maximum", "rss", "last-update"}
        assert silent.told()["last-update"] == 0
        without.close()
        silent.close()
