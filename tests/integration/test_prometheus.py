"""Test that the series of two hosts' agents stay separate in one Prometheus with its default settings."""

import time
from pathlib import Path

import pytest

from tests.integration.watching import Lines
from tests.lab import qemu
from tests.lab.agent import agent
from tests.lab.prometheus import Prometheus

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("real_qemu")]


def host(digit: str, name: str) -> list[str]:
    return ["--host-id", digit * 32, "--host-name", name]


def test_two_vms_on_two_hosts_are_two_series_with_names(folder: Path, own_prometheus: Prometheus) -> None:
    env = {"BAROGRAPH_OTLP__INTERVAL": "1s", "BAROGRAPH_LINES__ENABLED": "true"}
    common = ("--interval", "1s", "--otlp", own_prometheus.otlp)
    with (
        qemu.guest(folder, "a", booted=False) as a,
        qemu.guest(folder, "b", booted=False) as b,
        agent(folder / "1", "--monitor", str(a.qmp), *host("1", "one"), *common, env=env) as one,
        agent(folder / "2", "--monitor", str(b.qmp), *host("2", "two"), *common, env=env) as two,
    ):
        Lines(one).wait(lambda: len(Lines(one).samples("a")) >= 3, "three samples of a", 300)
        Lines(two).wait(lambda: len(Lines(two).samples("b")) >= 3, "three samples of b", 300)

        def found(query: str) -> list[dict[str, str]]:
            """Return the labels of a query once it has two series."""
            deadline = time.monotonic() + 120
            while len(series := [each["metric"] for each in own_prometheus.query(query)]) < 2:
                assert time.monotonic() < deadline, f"{query}: {series}"
                time.sleep(0.5)
            return series

        series = found("qemu_vm_guest_memory_available_bytes")
        states = found('qemu_vm_state{qemu_vm_state="reporting"} == 1')
        assert {(each["qemu_vm_name"], each["host_name"]) for each in series} == {("a", "one"), ("b", "two")}
        assert len({each["qemu_vm_id"] for each in series}) == 2
        assert {each["qemu_vm_name"] for each in states} == {"a", "b"}
        assert len(found("qemu_vm_guest_paging_faults_total")) == 2
