"""Only one agent watches a monitor. Locks belong to open files, so one process can act as two agents."""

import os
import stat
from pathlib import Path

import pytest

from agent.core.address import MonitorPath
from agent.core.reading import NO_LABELS, Access, SocketMark
from agent.core.shares import ROOT
from agent.discovery import locks
from agent.discovery.locks import Locks, default_path
from agent.discovery.scan import RefusedPath, RefusedReason, Scan, Seen


def scan(*inodes: int) -> Scan:
    seen = (
        Seen(MonitorPath(f"/run/{inode}.qmp"), SocketMark(1, inode, 5), Access.HOLD, None, NO_LABELS)
        for inode in inodes
    )
    return Scan(tuple(seen), ())


def paths(found: Scan) -> list[str]:
    return [str(seen.address) for seen in found.seen]


def test_a_second_agent_refuses_the_monitors_of_the_first_until_it_ends(tmp_path: Path) -> None:
    first, second = (Locks(tmp_path / "run" / "monitors.lock") for _ in range(2))
    assert paths(first.claim(scan(1, 2))) == ["/run/1.qmp", "/run/2.qmp"]

    found = second.claim(scan(1, 2, 3))

    assert paths(found) == ["/run/3.qmp"]
    assert [(each.path, each.reason) for each in found.refused] == [
        ("/run/1.qmp", RefusedReason.OTHER_AGENT),
        ("/run/2.qmp", RefusedReason.OTHER_AGENT),
    ]
    first.close()
    assert paths(second.claim(scan(1, 2, 3))) == ["/run/1.qmp", "/run/2.qmp", "/run/3.qmp"]
    second.close()


def test_other_users_cannot_read_or_lock_the_file_even_of_an_earlier_version(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Locks(tmp_path / "new" / "monitors.lock").close()
    finally:
        os.umask(before)
    (tmp_path / "monitors.lock").touch()
    (tmp_path / "monitors.lock").chmod(0o644)
    Locks(tmp_path / "monitors.lock").close()

    paths = (tmp_path / "new", tmp_path / "new" / "monitors.lock", tmp_path / "monitors.lock")
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o700, 0o600, 0o600]


def test_monitors_that_are_no_longer_seen_are_unlocked(tmp_path: Path) -> None:
    first, second = (Locks(tmp_path / "monitors.lock") for _ in range(2))
    first.claim(scan(1, 2))
    first.claim(scan(2))

    assert paths(second.claim(scan(1, 2))) == ["/run/1.qmp"]
    assert paths(first.claim(scan(1, 2))) == ["/run/2.qmp"]
    first.close()
    second.close()


def test_only_monitors_below_a_directory_that_cannot_be_read_stay_locked(tmp_path: Path) -> None:
    first, second = (Locks(tmp_path / "monitors.lock") for _ in range(2))
    first.claim(scan(1, 2))
    unreadable = RefusedPath("/run/2.qmp", RefusedReason.UNREADABLE, "cannot be read")

    first.claim(Scan((), (unreadable,)))

    assert paths(second.claim(scan(1, 2))) == ["/run/1.qmp"]
    first.close()
    second.close()


def test_the_locks_of_monitors_that_are_not_looked_for_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "HELD_MAX", 5)
    first, second = (Locks(tmp_path / "monitors.lock") for _ in range(2))
    for number in range(10):
        first.claim(Scan(scan(number).seen, (), left_out=frozenset({ROOT})))

    assert len(second.claim(scan(*range(10))).refused) <= 6
    first.close()
    second.close()


def test_a_libvirt_belongs_to_one_agent_until_it_lets_go_or_ends(tmp_path: Path) -> None:
    first, second = (Locks(tmp_path / "monitors.lock") for _ in range(2))
    assert first.take("qemu:///system")
    assert first.take("qemu:///system")  # taking it again succeeds

    assert not second.take("qemu:///system")
    assert second.take("qemu:///session")
    first.claim(scan(1))  # the libvirt is not among the monitors, and stays locked
    assert not second.take("qemu:///system")

    first.let_go("qemu:///system")
    assert second.take("qemu:///system")
    second.close()
    assert first.take("qemu:///system")
    first.close()


def test_without_a_lock_file_every_monitor_is_watched_and_the_problem_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    locks = Locks(tmp_path / "file" / "monitors.lock")

    assert locks.problem is not None
    assert paths(locks.claim(scan(1))) == ["/run/1.qmp"]
    assert locks.take("qemu:///system")
    locks.let_go("qemu:///system")
    assert Locks(None).problem is None


def test_the_default_path_of_the_lock_file() -> None:
    assert default_path(0, None, None) == Path("/run/barograph/monitors.lock")
    assert default_path(1000, "/run/user/1000", None) == Path("/run/user/1000/barograph/monitors.lock")
    assert default_path(1000, None, None) is None
    assert default_path(104, None, "/run/barograph:/run/b") == Path("/run/barograph/monitors.lock")
