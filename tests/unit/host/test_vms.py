"""Tests of reading the memory of all VMs: which process and which cgroup belong to which VM."""

from pathlib import Path

from agent.core.address import MonitorPath
from agent.core.reading import Peer
from agent.core.vm_memory import NOTHING_SEEN, Subject
from agent.host.vms import look
from tests.unit.host.test_cgroups import UID, cgroup
from tests.unit.host.test_processes import process

A, B = MonitorPath("/run/vm/a.qmp"), MonitorPath("/run/vm/b.qmp")


def test_the_process_and_its_cgroup_are_those_of_the_peer(tmp_path: Path) -> None:
    process(tmp_path / "proc", 7)
    cgroup(tmp_path / "cgroup", "a.scope", "700")
    subjects = [Subject(A, Peer(7, 4711), None, 1 << 20), Subject(B, Peer(8, 4711), None, 1 << 20)]

    seen = look(subjects, 5, proc=str(tmp_path / "proc"), cgroups=str(tmp_path / "cgroup"))

    memory, cgroup_memory = seen[A].process, seen[A].cgroup
    assert memory is not None
    assert (memory.resident_bytes, memory.swap_bytes, memory.observed_at_ms) == (123456 * 1024, 512 * 1024, 5)
    assert cgroup_memory is not None
    assert cgroup_memory.current_bytes == 700
    assert seen[B] == NOTHING_SEEN


def test_a_process_that_does_not_map_the_guests_memory_is_not_qemu(tmp_path: Path) -> None:
    process(tmp_path / "proc", 7)
    cgroup(tmp_path / "cgroup", "a.scope", "700")
    too_large = Subject(A, Peer(7, 4711), None, 8_000_001 * 1024)

    seen = look([too_large], 5, proc=str(tmp_path / "proc"), cgroups=str(tmp_path / "cgroup"))

    assert seen[A] == NOTHING_SEEN


def test_a_pod_has_its_cgroup_where_its_process_is_in_another_namespace(tmp_path: Path) -> None:
    cgroup(tmp_path / "cgroup", f"kubepods/burstable/pod{UID}", "700", maximum="1000")

    seen = look([Subject(A, None, UID, 0)], 5, proc="/nowhere", cgroups=str(tmp_path / "cgroup"))

    assert seen[A].process is None
    cgroup_memory = seen[A].cgroup
    assert cgroup_memory is not None
    assert (cgroup_memory.path, cgroup_memory.limit_bytes) == (f"/kubepods/burstable/pod{UID}", 1000)
