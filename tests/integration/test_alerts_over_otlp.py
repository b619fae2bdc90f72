"""The pressure alert fires and ends in the same way for scraped series and for series sent over OTLP."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.contract.generate_rules import RULES
from tests.integration.conftest import need
from tests.lab.agent import agent
from tests.lab.collector import collector
from tests.lab.process import free_port
from tests.lab.prometheus import Prometheus, prometheus
from tests.lab.sim import simulated

ALERT = "QemuVmMemoryPressure"
EVERY_S = 15
REACHED_AFTER_S, LEFT_AFTER_S = 300, 900
"""docs/pressure.md: how long the condition must be true before the alert fires, and false before it ends."""
OF_THE_TARGET = {"instance", "job"}
"""Labels that depend on how the series reached Prometheus."""


def firing(server: Prometheus) -> list[Mapping[str, Any]]:
    return [
        each for each in server.alerts() if each["labels"]["alertname"] == ALERT and each["state"] == "firing"
    ]


def wait_for(holds: Callable[[], bool], what: str, timeout_s: float) -> float:
    """Wait until `holds()` is true; return the time."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(1)
    return time.time()


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_the_pressure_alert_fires_and_ends_alike_over_a_collector_and_when_scraped(folder: Path) -> None:
    need("collector", "prometheus")
    port = free_port()
    env = {
        "BAROGRAPH_WEB__ENABLED": "true",
        "BAROGRAPH_WEB__LISTEN": f"127.0.0.1:{port}",
        "BAROGRAPH_OTLP__INTERVAL": f"{EVERY_S}s",
    }
    with (
        simulated(folder) as hypervisor,
        prometheus(folder / "o", rules=RULES, every_s=EVERY_S) as sent,
        collector(folder / "c", sends_to=sent.otlp) as between,
        prometheus(
            folder / "s", hosts={"node-1:19464": f"127.0.0.1:{port}"}, rules=RULES, every_s=EVERY_S
        ) as scraped,
    ):
        for name in ("thrashing", "calm"):
            hypervisor.add(name, version="10.0")
        words = ("--monitor", f"{folder}/*.qmp", "--interval", "5s", "--host-name", "node-1")
        with agent(folder / "agent", *words, "--otlp", between.http, env=env) as process:
            servers = (scraped, sent)
            known = 'qemu_vm_pressure_level{qemu_vm_name="thrashing"}'
            wait_for(lambda: all(each.query(known) for each in servers), "no samples in Prometheus", 240)
            hypervisor.vm("thrashing").order("thrash")
            begun_s = time.time()
            since = [
                wait_for(lambda server=each: bool(firing(server)), "it did not fire", REACHED_AFTER_S + 240)
                for each in servers
            ]
            found = [firing(each) for each in servers]
            hypervisor.vm("thrashing").order("calm")
            ended_s = time.time()
            until = [
                wait_for(lambda server=each: not firing(server), "it did not end", LEFT_AFTER_S + 600)
                for each in servers
            ]
            assert process.stop() == 0

    print(f"fires after {[round(at - begun_s) for at in since]} s")
    print(f"ends after {[round(at - ended_s) for at in until]} s")
    labels = [
        [{name: value for name, value in one["labels"].items() if name not in OF_THE_TARGET} for one in each]
        for each in found
    ]
    assert labels[0] == labels[1]
    assert [one["qemu_vm_name"] for one in labels[0]] == ["thrashing"]
    assert found[0][0]["annotations"] == found[1][0]["annotations"]
    assert all(at - begun_s >= REACHED_AFTER_S for at in since)
    assert all(at - ended_s >= LEFT_AFTER_S for at in until)
