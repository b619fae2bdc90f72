"""Compare the cgroup in memory records with the files of a real kernel that uses cgroups of version 2."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import need
from tests.lab.cgroup_host import observe
from tests.lab.cgroup_scenario import BOX, CONTAINER, EMULATOR, MIB, POD, SCOPE, SERVICES

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]

LIBVIRT = f"{SCOPE}/libvirt"
Files = Mapping[str, str | None]


def number(files: Files, name: str) -> int:
    """Return the number in a file."""
    text = files[name]
    assert text is not None
    return int(text)


def assert_beside(seen: Mapping[str, Any], path: str, limit_bytes: int | None, *, shown: str = "") -> None:
    """Assert that a record has the figures of the cgroup at `path`, and names it `shown` or `path`."""
    cgroup, before, after = seen["cgroup"], seen["before"][path], seen["after"][path]
    assert cgroup is not None
    assert cgroup["path"] == (shown or f"/{path}")
    assert cgroup.get("limit_bytes") == limit_bytes
    usage = sorted((number(before, "memory.current"), number(after, "memory.current")))
    assert usage[0] - 4 * MIB <= cgroup["current_bytes"] <= usage[1] + 4 * MIB
    assert cgroup["swap_bytes"] == 0
    for kind in ("some", "full"):
        first, last, stall = stall_of(before, kind), stall_of(after, kind), cgroup["pressure"][kind]
        assert first["total"] <= stall["total_us"] <= last["total"]
        for share in ("avg10", "avg60", "avg300"):
            if first["total"] == last["total"]:  # no stall in between: the averages only fall
                assert last[share] <= stall[share] <= first[share]


def stall_of(files: Files, kind: str) -> Mapping[str, float]:
    """Return the fields of one line of memory.pressure."""
    line = next(each for each in (files["memory.pressure"] or "").splitlines() if each.startswith(kind))
    return {name: float(value) for name, value in re.findall(r"(\w+)=([0-9.]+)", line)}


def test_the_figures_of_a_vms_cgroup_match_the_kernels_files(folder: Path) -> None:
    need("cgroup-host")
    seen = observe(folder, timeout_s=2300)

    # A container under pressure. Its limit is not lower than that of its pod.
    assert_beside(seen["pod"], CONTAINER, 512 * MIB)
    assert seen["pod"]["cgroup"]["pressure"]["some"]["total_us"] > 0
    # libvirt's threads are in cgroups of their own, which do not account memory.
    assert_beside(seen["domain"], LIBVIRT, None)
    assert seen["domain"]["before"][EMULATOR]["memory.current"] is None
    # The memory of a process that is moved stays accounted to the old cgroup.
    assert_beside(seen["service"], SERVICES[0], 300 * MIB)
    assert_beside(seen["moved"], SERVICES[1], None)
    assert seen["moved"]["cgroup"]["current_bytes"] < seen["service"]["cgroup"]["current_bytes"]
    assert seen["root"]["cgroup"] is None
    assert seen["root"]["process"]["resident_bytes"] > 48 * MIB
    # Without PSI, only the pressure is missing.
    assert seen["without_pressure"]["cgroup"]["path"] == f"/{LIBVIRT}"
    assert "pressure" not in seen["without_pressure"]["cgroup"]
    # An agent in a pod does not see the processes; it finds the pod's cgroup by the pod's uid.
    assert_beside(seen["pod_from_a_pod"], POD, 512 * MIB)
    assert seen["pod_from_a_pod"]["process"] is None
    assert seen["domain_from_a_pod"]["cgroup"] is None
    # An agent in QEMU's container sees the limited cgroup as the root, and nothing outside of it.
    assert_beside(seen["inner_from_its_container"], BOX, 400 * MIB, shown="/")
    assert seen["domain_from_a_container"]["cgroup"] is None
