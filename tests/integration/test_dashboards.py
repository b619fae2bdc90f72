"""Every query of the dashboards has data in a real Prometheus that scrapes an agent of simulated VMs."""

import re
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.contract.generate_dashboards import queries
from tests.contract.generate_rules import RULES
from tests.integration.test_web import WEB, url_when_told
from tests.lab import prometheus, sim
from tests.lab.agent import agent

MEMORY = {"BAROGRAPH_MEMORY__INTERVAL": "1s"}
MAY_BE_EMPTY = re.compile(
    "qemu_vm_memory_rss|vms_resident|qemu_host_memory_pressure|unless qemu_vm_state|flink_"
)
"""Simulated VMs have no QEMU process and all report, not every kernel has PSI, and no stream job runs."""

VMS = 3


def filled(query: str) -> str:
    """Return a query as Grafana sends it with all values chosen."""
    for name in ("cluster", "host", "vm"):
        query = query.replace(f"${name}", ".*")
    return query.replace("$__rate_interval", "30s")


def without_data(server: prometheus.Prometheus, wanted: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(panel, query) for panel, query in wanted if not server.query(filled(query))]


@pytest.fixture(scope="module", autouse=True)
def _prometheus() -> None:
    from tests.integration.conftest import need

    need("prometheus")


def test_every_panel_has_data_and_the_equations_read_0(folder: Path) -> None:
    wanted = [(panel, query) for panel, query in queries() if not MAY_BE_EMPTY.search(query)]
    arguments = ("--monitor", f"{folder}/*.qmp", "--interval", "1s")
    with (
        sim.simulated(folder, vms=VMS),
        agent(folder / "agent", *arguments, env={**WEB, **MEMORY, "BAROGRAPH_LINES__ENABLED": "true"}) as one,
    ):
        target = url_when_told(one).removeprefix("http://").rstrip("/")
        with prometheus.prometheus(folder / "prometheus", scrape=target, rules=RULES) as server:
            deadline = time.monotonic() + 180
            while (missing := without_data(server, wanted)) and time.monotonic() < deadline:
                time.sleep(1)
            assert missing == []
            for panel, query in wanted:
                if "must be 0" in panel:
                    assert {float(each["value"][1]) for each in server.query(filled(query))} == {0.0}, panel


def test_a_vm_that_is_destroyed_is_not_counted_after_the_next_scrape(folder: Path) -> None:
    arguments = ("--monitor", f"{folder}/*.qmp", "--interval", "1s")
    counted = "count(qemu_vm_guest_memory_total_bytes)"
    with (
        sim.simulated(folder, vms=VMS) as hypervisor,
        agent(folder / "agent", *arguments, env={**WEB, "BAROGRAPH_LINES__ENABLED": "true"}) as one,
    ):
        target = url_when_told(one).removeprefix("http://").rstrip("/")
        with prometheus.prometheus(folder / "prometheus", scrape=target) as server:

            def wait_for(vms: int, timeout_s: float) -> None:
                deadline = time.monotonic() + timeout_s
                while not (found := server.query(counted)) or float(found[0]["value"][1]) != vms:
                    assert time.monotonic() < deadline, f"{found} and not {vms}"
                    time.sleep(0.2)

            wait_for(VMS, 180)
            hypervisor.vms[0].kill()

            # Without staleness the series would be counted for 300 s.
            wait_for(VMS - 1, 180)
