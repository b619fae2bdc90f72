"""Tests of reading processes in /proc: those of a made-up tree, and a real one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.core.reading import Peer
from agent.host.processes import ProcessFiles, cgroup_path, identify, read_process, start_ticks

STAT = "{pid} ((qemu) 1 2) S " + " ".join(str(field) for field in range(4, 22)) + " {start} 99\n"
STATUS = """Name:	qemu-kvm
Uid:	1000	107	107	107
VmPeak:	 9000000 kB
VmSize:	 8000000 kB
VmRSS:	  123456 kB
RssAnon:	  100000 kB
VmSwap:	     512 kB
HugetlbPages:	    2048 kB
"""


def process(
    proc: Path, pid: int, *, start: int = 4711, status: str = STATUS, cgroup: str = "0::/a.scope\n"
) -> None:
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    (folder / "stat").write_text(STAT.format(pid=pid, start=start))
    (folder / "status").write_text(status)
    (folder / "cgroup").write_text(cgroup)


def test_the_files_of_the_process_that_was_connected_to_are_read(tmp_path: Path) -> None:
    process(tmp_path, 7, cgroup="9:memory:/x\n0::/machine.slice/a.scope\n")

    peer = identify(7, 107, str(tmp_path))

    assert peer == Peer(7, 4711)
    assert peer is not None
    assert read_process(peer, str(tmp_path)) == ProcessFiles(
        resident_bytes=123456 * 1024,
        swap_bytes=512 * 1024,
        hugetlb_bytes=2048 * 1024,
        mapped_bytes=8_000_000 * 1024,
        cgroup="/machine.slice/a.scope",
    )


def test_another_process_with_the_same_pid_is_not_read(tmp_path: Path) -> None:
    process(tmp_path, 7, start=4712)

    assert read_process(Peer(7, 4711), str(tmp_path)) is None
    assert read_process(Peer(7, 4712), str(tmp_path)) is not None


@pytest.mark.parametrize(
    ("user_id", "is_known"), [(0, True), (107, True), (1000, True), (108, False), (10, False)]
)
def test_a_process_of_another_user_is_not_taken_for_the_listener(
    tmp_path: Path, user_id: int, is_known: bool
) -> None:
    process(tmp_path, 7)

    assert identify(7, user_id, str(tmp_path)) == (Peer(7, 4711) if is_known else None)


@pytest.mark.parametrize(
    ("users", "user_id"),
    [("0 0 0 0", 0), ("107 107 107 107", 107), ("1000 107 107 107", 107), ("107 107 0 107", 0)],
)
def test_a_process_that_can_become_root_again_counts_as_root(
    tmp_path: Path, users: str, user_id: int
) -> None:
    process(tmp_path, 7, status=f"Name:\tqemu\nUid:\t{users.replace(' ', chr(9))}\n")

    peer = identify(7, 0, str(tmp_path))

    assert peer is not None
    assert peer.user_id == user_id


def test_a_service_manager_is_not_a_vm(tmp_path: Path) -> None:
    process(tmp_path, 1)

    assert identify(1, 0, str(tmp_path)) is None


def test_a_process_without_users_is_not_known(tmp_path: Path) -> None:
    process(tmp_path, 7, status="Name:\tUid:\nVmRSS:\t 5 kB\n")

    assert identify(7, 107, str(tmp_path)) is None


def test_values_that_the_kernel_does_not_show_are_unknown(tmp_path: Path) -> None:
    process(tmp_path, 7, status="VmSize:\t 10 kB\nVmRSS:\t 5 kB\n", cgroup="1:name=systemd:/\n")
    process(tmp_path, 8, status="Name:\tqemu\nState:\tZ (zombie)\n")

    assert read_process(Peer(7, 4711), str(tmp_path)) == ProcessFiles(5120, None, None, 10240, None)
    assert read_process(Peer(8, 4711), str(tmp_path)) is None
    assert read_process(Peer(9, 4711), str(tmp_path)) is None
    assert identify(9, 107, str(tmp_path)) is None


def test_neither_links_nor_pipes_are_read(tmp_path: Path) -> None:
    process(tmp_path, 7)
    (tmp_path / "secret").write_text(STATUS)
    (tmp_path / "7" / "status").unlink()
    (tmp_path / "7" / "status").symlink_to(tmp_path / "secret")
    process(tmp_path, 8)
    (tmp_path / "8" / "status").unlink()
    os.mkfifo(tmp_path / "8" / "status")
    (tmp_path / "9").symlink_to(tmp_path / "7")

    assert read_process(Peer(7, 4711), str(tmp_path)) is None
    assert read_process(Peer(8, 4711), str(tmp_path)) is None
    assert identify(9, 107, str(tmp_path)) is None


def test_a_file_of_a_process_is_read_up_to_its_bound(tmp_path: Path) -> None:
    process(tmp_path, 7, status="x" * 20_000 + "\n" + STATUS)

    assert read_process(Peer(7, 4711), str(tmp_path)) is None


@pytest.mark.parametrize(
    ("stat", "ticks"),
    [
        (STAT.format(pid=1, start=12).encode(), 12),
        (b"", None),
        (b"7 (qemu) S 1 2", None),
        (STAT.format(pid=1, start="x").encode(), None),
    ],
)
def test_the_start_is_the_22nd_field_whatever_the_name(stat: bytes, ticks: int | None) -> None:
    assert start_ticks(stat) == ticks


@pytest.mark.parametrize(
    ("cgroup", "path"),
    [
        (b"0::/user.slice/a.scope\n", "/user.slice/a.scope"),
        (b"12:memory:/a\n0::/\n", "/"),
        (b"0::/a.scope (deleted)\n", "/a.scope"),
        (b"0::/../../machine.slice/a.scope\n", None),
        (b"1:name=systemd:/a\n", None),
        (b"", None),
    ],
)
def test_the_cgroup_is_the_one_of_version_2(cgroup: bytes, path: str | None) -> None:
    assert cgroup_path(cgroup) == path


def test_a_real_process_is_found_and_after_its_end_it_is_not() -> None:
    program = "print(flush=True); import sys; sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()  # until then its memory is that of the fork
        peer = identify(child.pid, os.getuid())
        assert peer is not None
        files = read_process(peer)
        assert files is not None
        assert 0 < files.resident_bytes < files.mapped_bytes

    assert read_process(peer) is None
