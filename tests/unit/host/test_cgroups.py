"""Tests of the memory of cgroups, on trees of files as the kernel and the kubelet make them."""

import os
from pathlib import Path

import pytest

from agent.core.psi import Psi, Stall
from agent.core.reading import CgroupMemory
from agent.host.cgroups import ENTRIES_MAX, Cgroups

PRESSURE = """some avg10=1.50 avg60=0.30 avg300=0.00 total=123456
full avg10=0.25 avg60=0.10 avg300=0.00 total=65432
"""
UID = "5f0c1e4e-28a6-4f0e-9a5f-0123456789ab"


def cgroup(
    root: Path, path: str, current: str, maximum: str = "max", swap: str = "0", pressure: str = PRESSURE
) -> None:
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.max").write_text(f"{maximum}\n")
    (folder / "memory.swap.current").write_text(f"{swap}\n")
    (folder / "memory.pressure").write_text(pressure)


def test_the_figures_of_a_scope_and_the_lowest_limit_above_it(tmp_path: Path) -> None:
    cgroup(tmp_path, "machine.slice", "900", maximum="8000")
    cgroup(tmp_path, "machine.slice/a.scope", "700", maximum="9000", swap="50")

    assert Cgroups(str(tmp_path)).memory("/machine.slice/a.scope", 5) == CgroupMemory(
        path="/machine.slice/a.scope",
        current_bytes=700,
        limit_bytes=8000,
        swap_bytes=50,
        pressure=Psi(Stall(1.5, 0.3, 0.0, 123456), Stall(0.25, 0.1, 0.0, 65432)),
        observed_at_ms=5,
    )


def test_max_is_no_limit_and_the_values_of_missing_files_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "memory.current").write_text("700\n")
    (tmp_path / "a" / "memory.max").write_text("max\n")

    assert Cgroups(str(tmp_path)).memory("/a", 5) == CgroupMemory("/a", 700, None, None, None, 5)


def test_a_cgroup_without_memory_accounting_has_the_figures_of_its_parent(tmp_path: Path) -> None:
    cgroup(tmp_path, "machine.slice/q.scope", "700")
    (tmp_path / "machine.slice/q.scope/libvirt/emulator").mkdir(parents=True)

    memory = Cgroups(str(tmp_path)).memory("/machine.slice/q.scope/libvirt/emulator", 5)

    assert memory is not None
    assert memory.path == "/machine.slice/q.scope"


@pytest.mark.parametrize("path", ["/absent", "/../a", "/a/../../etc", "/" + "x/" * 40, "/" + "x" * 2000])
def test_a_path_without_a_cgroup_below_the_root_has_no_figures(tmp_path: Path, path: str) -> None:
    cgroup(tmp_path, "", "700")
    cgroup(tmp_path, "a", "700")

    assert Cgroups(str(tmp_path / "a")).memory(path, 5) is None


@pytest.mark.parametrize("path", ["/", "/unaccounted"])
def test_the_root_of_a_container_has_figures_and_that_of_the_host_has_none(tmp_path: Path, path: str) -> None:
    (tmp_path / "host/unaccounted").mkdir(parents=True)
    cgroup(tmp_path, "container", "700", maximum="1000")
    cgroup(tmp_path, "container/accounted", "600", maximum="2000")
    (tmp_path / "container/unaccounted").mkdir()

    assert Cgroups(str(tmp_path / "host")).memory(path, 5) is None
    memory = Cgroups(str(tmp_path / "container")).memory(path, 5)
    assert memory is not None
    assert (memory.path, memory.current_bytes, memory.limit_bytes) == ("/", 700, 1000)
    memory = Cgroups(str(tmp_path / "container")).memory("/accounted", 5)
    assert memory is not None
    assert (memory.path, memory.limit_bytes) == ("/accounted", 1000)


@pytest.mark.parametrize("odd", ["", "-1", "1e3", "9007199254740992", "7 7", "max"])
def test_a_value_that_is_not_a_size_is_ignored(tmp_path: Path, odd: str) -> None:
    cgroup(tmp_path, "a", odd)

    assert Cgroups(str(tmp_path)).memory("/a", 5) is None


def test_no_link_is_followed_and_no_pipe_is_read(tmp_path: Path) -> None:
    cgroup(tmp_path, "real", "700")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    cgroup(tmp_path, "linked", "700")
    (tmp_path / "linked/memory.current").unlink()
    (tmp_path / "linked/memory.current").symlink_to(tmp_path / "real/memory.current")
    cgroup(tmp_path, "pipe", "700")
    (tmp_path / "pipe/memory.current").unlink()
    os.mkfifo(tmp_path / "pipe/memory.current")

    look = Cgroups(str(tmp_path))

    assert [look.memory(f"/{path}", 5) for path in ("link", "linked", "pipe")] == [None, None, None]


def test_one_look_reads_a_file_once_and_the_next_one_again(tmp_path: Path) -> None:
    cgroup(tmp_path, "a", "700")
    look = Cgroups(str(tmp_path))
    first = look.memory("/a", 5)
    (tmp_path / "a/memory.current").write_text("800\n")

    assert look.memory("/a", 5) == first
    again = Cgroups(str(tmp_path)).memory("/a", 5)
    assert again is not None
    assert again.current_bytes == 800


@pytest.mark.parametrize(
    "path",
    [
        f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID.replace('-', '_')}.slice",
        f"kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice",
        f"kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID.replace('-', '_')}.slice",
        f"kubepods/burstable/pod{UID}",
        f"kubepods/pod{UID}",
    ],
)
def test_a_pod_is_found_as_either_driver_of_the_kubelet_names_it(tmp_path: Path, path: str) -> None:
    cgroup(tmp_path, path, "700", maximum="1000")
    cgroup(tmp_path, f"{path}/cri-containerd-0.scope", "600")
    cgroup(tmp_path, f"system.slice/pod{UID}", "1")  # not the kubelet's
    look = Cgroups(str(tmp_path))

    assert look.pod(UID) == path
    assert look.pod(UID.replace("5", "6")) is None
    memory = look.memory(f"/{path}", 5)
    assert memory is not None
    assert (memory.current_bytes, memory.limit_bytes) == (700, 1000)


def test_the_search_for_pods_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ENTRIES_MAX >= 10_000
    monkeypatch.setattr("agent.host.cgroups.ENTRIES_MAX", 3)
    for number in range(10):
        (tmp_path / f"kubepods{number}").mkdir()
    cgroup(tmp_path, f"kubepods0/pod{UID}", "700")

    assert Cgroups(str(tmp_path)).pod(UID) is None


def test_the_limit_of_a_container_is_that_of_its_root(tmp_path: Path) -> None:
    cgroup(tmp_path, "", "900", maximum="7000")
    cgroup(tmp_path, "a.slice", "900", maximum="8000")

    found = Cgroups(str(tmp_path))

    assert (found.limit_bytes("/"), found.limit_bytes("/a.slice"), found.limit_bytes("/../x")) == (
        7000,
        7000,
        None,
    )
