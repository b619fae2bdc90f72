"""Every panel of the dashboards shows, on real guests in a real Prometheus, what a second monitor shows."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from tests.contract.generate_dashboards import query, source
from tests.contract.generate_rules import RULES
from tests.integration.conftest import need
from tests.integration.test_dashboards import filled
from tests.integration.test_web import url_when_told
from tests.lab import qemu, setup
from tests.lab.agent import agent
from tests.lab.prometheus import Prometheus, prometheus

INTERVAL_S = 10
HOST = "node-7"
CONFIGURED_BYTES = 128 << 20
NAMES = (
    "steady",
    "full",
    "driverless",
)  # the agent does not know the balloon of `driverless`, which gives no sample
ENV = {
    "BAROGRAPH_WEB__ENABLED": "true",
    "BAROGRAPH_WEB__LISTEN": "127.0.0.1:0",
    "BAROGRAPH_MEMORY__INTERVAL": "1s",
    "BAROGRAPH_LINES__ENABLED": "true",
}


@dataclass(frozen=True, slots=True)
class Truth:
    """What the second monitors and the kernel show at one time."""

    at_s: float
    last_update_s: Mapping[str, int]
    stats: Mapping[str, Mapping[str, int]]
    balloon_bytes: Mapping[str, int]
    resident_bytes: Mapping[str, int]

    def of(self, name: str, statistic: str) -> int:
        return self.stats[name][f"stat-{statistic}"]

    def headroom(self, name: str) -> float:
        return self.of(name, "available-memory") / self.of(name, "total-memory")

    def score(self, name: str) -> float:
        """docs/pressure.md: nothing swaps here, so the headroom decides."""
        return max(0.0, 1 - self.headroom(name) / 0.05)


@dataclass(frozen=True, slots=True)
class Near:
    """A number that may differ by a share, or by an amount."""

    value: float
    share: float = 0.0
    amount: float = 0.0

    def fits(self, found: float) -> bool:
        return abs(found - self.value) <= max(self.share * abs(self.value), self.amount)


Values = Mapping[str, Near]
"""Values by the legend that Grafana shows, without the host's name."""


def exactly(values: Mapping[str, float]) -> Values:
    return {name: Near(value, share=1e-9, amount=1e-9) for name, value in values.items()}


def of_reporting(value: Callable[[str], float]) -> Values:
    return exactly({name: value(name) for name in NAMES[:2]})


def nothing(_: Truth) -> Values:
    return {}


def one(value: float) -> Values:
    return exactly({"": value})


def meminfo(name: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines[name].split()[0]) << 10


EXPECTED: Mapping[tuple[str, str], Callable[[Truth], Values]] = {
    ("VMs by state", "{{qemu_vm_state}}"): lambda _: exactly({"reporting": 2, "waiting": 1}),
    ("VMs by pressure level", "level {{level}}"): lambda _: exactly({"level 0": 2}),
    ("VMs with the highest pressure score", "{{qemu_vm_name}} {{host_name}}"): lambda t: of_reporting(
        t.score
    ),
    ("VMs with the least headroom", "{{qemu_vm_name}} {{host_name}}"): lambda t: of_reporting(t.headroom),
    ("VMs that do not report", "{{qemu_vm_state}} {{qemu_vm_state_reason}}"): lambda _: exactly(
        {"waiting no_update_yet": 1}
    ),
    ("Memory available to hosts", "{{host_name}}"): lambda _: {"": Near(meminfo("MemAvailable"), share=0.3)},
    ("Memory of the host", "available"): lambda _: {"": Near(meminfo("MemAvailable"), share=0.3)},
    ("Memory of the host", "total"): lambda _: {"": Near(meminfo("MemTotal"), share=0.001)},
    ("Memory of its VMs", "configured"): lambda _: one(3 * CONFIGURED_BYTES),
    ("Memory of its VMs", "balloons"): lambda t: one(sum(t.balloon_bytes[name] for name in NAMES[:2])),
    ("Memory of its VMs", "resident"): lambda t: {"": Near(sum(t.resident_bytes.values()), share=0.1)},
    ("Available memory of guests", "{{qemu_vm_name}}"): lambda t: of_reporting(t.headroom),
    ("State", "{{qemu_vm_state}} {{qemu_vm_state_reason}}"): lambda _: exactly(
        {"reporting advancing": 1, "waiting no_update_yet": 1}
    ),
    ("Pressure level", "level"): lambda _: of_reporting(lambda _: 0),
    ("Pressure score", "score"): lambda t: of_reporting(t.score),
    ("Memory of the guest", "total"): lambda t: of_reporting(lambda name: t.of(name, "total-memory")),
    ("Memory of the guest", "available"): lambda t: of_reporting(lambda name: t.of(name, "available-memory")),
    ("Memory of the guest", "free"): lambda t: of_reporting(lambda name: t.of(name, "free-memory")),
    ("Memory of the guest", "caches"): lambda t: of_reporting(lambda name: t.of(name, "disk-caches")),
    ("Memory as the host sees it", "configured"): lambda _: exactly(dict.fromkeys(NAMES, CONFIGURED_BYTES)),
    ("Memory as the host sees it", "balloon"): lambda t: of_reporting(lambda name: t.balloon_bytes[name]),
    ("Memory as the host sees it", "resident"): lambda t: {
        name: Near(value, share=0.1) for name, value in t.resident_bytes.items()
    },
    ("Swap traffic", "in"): lambda _: of_reporting(lambda _: 0),
    ("Swap traffic", "out"): lambda _: of_reporting(lambda _: 0),
    ("Major faults", "faults"): lambda _: of_reporting(lambda _: 0),
    ("Age of the last update", "age"): lambda t: {
        name: Near(t.at_s - at_s, amount=3) for name, at_s in t.last_update_s.items() if at_s
    },
    ("Readings not accounted for (must be 0)", "{{host_name}}"): lambda _: one(0),
    ("Records not accounted for (must be 0)", "{{barograph_sink}} {{host_name}}"): lambda _: one(0),
}
"""What each panel must show, by its title and the legend of the query."""

ABOUT_THE_AGENT = {
    ("Memory pressure of the host", "some"), ("Memory pressure of the host", "full"),
    ("States", "{{qemu_vm_state}}"),
    ("Components", "{{barograph_component}} {{barograph_health}} {{host_name}}"),
    ("Records queued", "{{barograph_sink}} {{host_name}}"),
    ("Records lost", "{{barograph_sink}} {{barograph_reason}} {{host_name}}"),
    ("Lag p99", "{{host_name}}"), ("CPU", "{{host_name}}"),
}  # fmt: skip
"""Queries on the agent itself or on the host's kernel, which a second monitor does not show."""


def look(vms: Sequence[qemu.Vm], monitors: Mapping[str, qemu.Monitor]) -> Truth:
    updates = {name: monitor.guest_stats() for name, monitor in monitors.items()}
    balloons = {name: monitor.command("query-balloon") for name, monitor in monitors.items()}
    return Truth(
        at_s=time.time(),
        last_update_s={name: at_s for name, (at_s, _) in updates.items()},
        stats={name: stats for name, (_, stats) in updates.items()},
        balloon_bytes={name: cast(dict[str, int], each)["actual"] for name, each in balloons.items()},
        resident_bytes={vm.name: resident(vm.pid) for vm in vms},
    )


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def shown(found: Sequence[Mapping[str, Any]], legend: str) -> dict[str, float]:
    """Return the values by what distinguishes the series: the labels in the legend, or the VM's name."""
    values: dict[str, float] = {}
    for each in found:
        labels = {**each["metric"], "host_name": ""}
        name = legend if "{{" in legend else "{{qemu_vm_name}}"
        if "barograph_sink" in legend:
            name = ""  # one sink
        for label in ("qemu_vm_state_reason", "qemu_vm_state", "qemu_vm_name", "level", "host_name"):
            name = name.replace(f"{{{{{label}}}}}", str(labels.get(label, "")))
        values[name.strip()] = float(each["value"][1])
    return values


def problems(server: Prometheus, truth: Truth) -> list[str]:
    found: list[str] = []
    for title, legend, text in queries():
        if (title, legend) not in ABOUT_THE_AGENT:
            wanted = EXPECTED[title, legend](truth)
            values = shown(server.query(filled(query(text))), legend)
            if values.keys() != wanted.keys() or not all(wanted[k].fits(v) for k, v in values.items()):
                found.append(f"{title}, {legend}: shown {values}, expected {wanted}")
    return found


def queries() -> list[tuple[str, str, str]]:
    """Return title, legend and query of all panels but those of the stream jobs: none runs here."""
    boards = [board for name, board in source().items() if name != "streams"]
    panels = [panel for board in boards for panel in board["panels"]]
    return [(title, legend, text) for title, _, _, texts in panels for legend, text in texts.items()]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.guest
def test_each_panel_shows_what_the_second_monitor_shows(folder: Path) -> None:
    """Each update is the newest one for 10 s. A round counts if no VM got another one during it."""
    need("newer-qemu", "newer-guest", "prometheus")
    with ExitStack() as stack:
        vms = [
            stack.enter_context(
                qemu.guest(
                    folder,
                    name,
                    driver=name != "driverless",
                    command=setup.newer_qemu(),
                    image=setup.newer_guest(),
                )
            )
            for name in NAMES
        ]
        monitors = {vm.name: stack.enter_context(vm.monitor()) for vm in vms}
        words = ("--monitor", f"{folder}/*.qmp", "--interval", f"{INTERVAL_S}s", "--host-name", HOST)
        process = stack.enter_context(agent(folder / "agent", *words, env=ENV))
        process.wait_for_log(" web ", 120)
        target = url_when_told(process).removeprefix("http://").rstrip("/")
        server = stack.enter_context(prometheus(folder / "prometheus", scrape=target, rules=RULES))
        monitors["full"].wait_for_update()
        _, stats = monitors["full"].guest_stats()
        vms[1].order("room 400")
        vms[1].order(
            f"dirty {(stats['stat-available-memory'] - stats['stat-total-memory'] * 4 // 100) >> 20}"
        )
        deadline = time.monotonic() + 240
        before = look(vms, monitors)
        wrong = ["no round"]
        while wrong and time.monotonic() < deadline:
            time.sleep(1)
            before = look(vms, monitors)
            if not 0 < before.score("full") < 1:
                continue  # the guest is still filling its memory
            if [
                at_s for name, at_s in before.last_update_s.items() if stored(server, name) != (at_s or None)
            ]:
                continue
            found = problems(server, before)
            if look(vms, monitors).last_update_s == before.last_update_s:
                wrong = found

        assert wrong == []


def stored(server: Prometheus, name: str) -> float | None:
    """Return the time of the newest update of a VM that Prometheus has."""
    found = server.query(f'timestamp(qemu_vm_guest_memory_total_bytes{{qemu_vm_name="{name}"}})')
    return float(found[0]["value"][1]) if found else None


def test_each_query_has_an_expectation() -> None:
    shown_by_panels = {(title, legend) for title, legend, _ in queries()}

    assert EXPECTED.keys() | ABOUT_THE_AGENT == shown_by_panels
    assert not EXPECTED.keys() & ABOUT_THE_AGENT
