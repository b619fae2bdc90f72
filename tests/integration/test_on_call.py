"""Tests on a host with 40 VMs and nine problems: each view shows which, since when, why and what to do."""

import json
import re
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from agent.cli.hosts import ask_all, places
from agent.cli.top_screen import Top
from agent.core.explanations import PRESSURE, component_step, explain
from agent.core.pressure import PressureLevel
from agent.core.reading import State
from tests.contract.generate_rules import RULES
from tests.integration.audit import ask
from tests.integration.conftest import need
from tests.lab.agent import barograph
from tests.lab.on_call import HEALTHY, SINK, TROUBLES, Trouble, host_in_trouble
from tests.lab.prometheus import Prometheus, prometheus
from tests.unit.test_cli_top import until

ALERTS: Mapping[str, str] = {
    "billing-2": "QemuVmStalled",
    "search-1": "QemuVmUnreachable",
    "mail-3": "QemuVmLockedOut",
    "cache-4": "QemuVmContended",
    "legacy-5": "QemuVmSilent",
    "appliance-7": "QemuVmSilent",
    "shop-8": "QemuVmOomKill",
}
"""The alert of each VM with a problem, except the one that an administrator paused: it has no alert."""


def rows(url: str) -> dict[str, list[Any]]:
    """Return the page's rows by socket name: `Row` in agent/web/overview.py without the version."""
    return {Path(row[3]).stem: row[1:] for row in json.loads(ask(url, "api/overview")[1])["rows"]}


def wait_for_troubles(url: str) -> dict[str, list[Any]]:
    deadline = time.monotonic() + 90
    while True:
        shown = rows(url)
        wrong = [
            name
            for name, each in TROUBLES.items()
            if name not in shown or shown[name][6] != each.state or each.level not in (None, shown[name][5])
        ]
        if not wrong and sum(row[6] == "reporting" for row in shown.values()) >= HEALTHY:
            return shown
        assert time.monotonic() < deadline, (wrong, shown)
        time.sleep(1)


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("`", ""))


def codes_of(trouble: Trouble) -> list[str]:
    """Return the codes that a problem may have."""
    if trouble.level is not None:
        return [f"vm/pressure/{trouble.level}"]
    return [f"vm/{trouble.state}/{reason}" for reason in trouble.reasons]


def steps_of(trouble: Trouble) -> list[str]:
    """Return the next steps that may be shown."""
    if trouble.level is not None:
        return [flat(PRESSURE[PressureLevel(trouble.level)].next_step)]
    known = [explain(State(trouble.state), reason) for reason in trouble.reasons]
    return [flat(each.next_step) for each in known if each is not None]


def shown_by(problem_list: str, trouble: Trouble, name: str) -> bool:
    """Return whether a list of problems shows the code, the duration, the VM and the next step."""
    within = r"(?:(?! vm/).)*"  # the same problem
    return any(
        re.search(rf"{code} for \d{within}{name}{within} next: {re.escape(step)}", flat(problem_list))
        for code in codes_of(trouble)
        for step in steps_of(trouble)
    )


def test_each_trouble_has_its_reason_and_its_next_step_on_the_page_and_in_status(folder: Path) -> None:
    with host_in_trouble(folder, {}) as (process, url):
        shown = wait_for_troubles(url)
        status = barograph("status", "--url", url)
        overview = json.loads(ask(url, "api/overview")[1])
        details = {name: ask(url, f"api/vm?id={quote(shown[name][0])}")[1] for name in TROUBLES}
        plain = flat(ask(url, "plain")[1])
        assert process.stop() == 0

    assert status.returncode == 1
    for name, trouble in TROUBLES.items():
        detail = json.loads(details[name])
        vm = detail["vm"]
        since_s = shown[name][9] / 1000
        step = detail["advice"] if trouble.level else vm["explanation"]
        assert overview["now_ms"] / 1000 - 900 < since_s <= overview["now_ms"] / 1000, "since when"
        assert since_s == (vm["pressure"]["since"] if trouble.level else vm["state"]["since_ms"] / 1000)
        assert vm["state"]["reason"] in trouble.reasons
        assert detail["level"] == trouble.level or not trouble.level
        assert flat(step["next_step"]) in steps_of(trouble), name
        assert name in plain, name
        if trouble.state != "paused":  # a paused VM is not a problem
            assert shown_by(status.stdout, trouble, name), name
    assert f"agent/component/{SINK}" in flat(status.stdout)
    assert overview["components"][SINK]["state"] == "degraded"
    worst = sorted(shown, key=lambda name: shown[name][4])
    expected = {name for name, each in TROUBLES.items() if each.state not in ("paused", "waiting")}
    assert worst[0] == "shop-8"
    assert set(worst[: len(expected)]) == expected, "the problems come first"


@pytest.mark.anyio
async def test_each_trouble_has_its_reason_and_its_next_step_in_top(folder: Path) -> None:
    with host_in_trouble(folder, {}) as (process, url):
        wait_for_troubles(url)
        app = Top(partial(ask_all, places([url], None, None)), interval_s=0.5, several=False)
        details: dict[str, str] = {}
        async with app.run_test(size=(80, 60)) as pilot:
            table = await until(pilot, app, "shop-8")
            await pilot.press("w")
            listed = await until(pilot, app, "vm/waiting/no_update_yet")
            await pilot.press("escape")
            for name in TROUBLES:
                await until(pilot, app, "VMs: ")
                await pilot.press("slash", *name.replace("-", " ").split()[0], "enter")
                await until(pilot, app, f"filter: {name.split('-')[0]}")
                await pilot.press("enter")
                details[name] = await until(pilot, app, "Changes of state")
                await pilot.press("escape", "escape")
        assert process.stop() == 0

    assert f"agent/component/{SINK}" in listed
    assert flat(component_step(SINK)) in flat(listed)
    for name, trouble in TROUBLES.items():
        detail = flat(details[name])
        assert re.search(rf"name \S*{name}", detail), detail
        assert re.search(rf"state {trouble.state}: ({'|'.join(trouble.reasons)}), for \d", detail), detail
        assert any(f"next step {step}" in detail for step in steps_of(trouble)), (name, detail)
        assert trouble.level is None or re.search(rf"pressure {trouble.level} for \d", detail), detail
        if trouble.state != "paused":
            assert name in table
            assert shown_by(listed, trouble, name), (name, listed)


def test_each_trouble_has_an_alert_with_its_reason_and_since_when(folder: Path) -> None:
    """Check pending alerts too: that one fires after its `for` is tested with the recorded series."""
    need("prometheus")
    with host_in_trouble(folder, {}) as (process, url):
        wait_for_troubles(url)
        with prometheus(folder / "p", scrape=urlsplit(url).netloc, rules=RULES) as server:
            alerts = wait_for_alerts(server)
        assert process.stop() == 0

    found = {name: each for each in alerts if (name := subject(each["labels"]))}
    assert {name: each["labels"]["alertname"] for name, each in found.items()} == ALERTS
    for name, each in found.items():
        trouble = TROUBLES[name]
        assert name in each["annotations"]["summary"]
        assert each["activeAt"]
        if trouble.level is None:
            assert any(reason in each["annotations"]["description"] for reason in trouble.reasons)
        assert each["annotations"]["runbook_url"].endswith(f"#{ALERTS[name].lower()}")
    degraded = [each for each in alerts if each["labels"]["alertname"] == "BarographAgentDegraded"]
    assert SINK in {each["labels"]["barograph_component"] for each in degraded}


def subject(labels: Mapping[str, str]) -> str:
    """Return the VM of an alert: its name, or that of its socket if the agent never learned the name."""
    return labels.get("qemu_vm_name", Path(labels.get("qemu_vm_monitor_path", "")).stem)


def wait_for_alerts(server: Prometheus) -> list[dict[str, Any]]:
    """Return the alerts, pending or firing, once each trouble has one and no other VM has any."""
    deadline = time.monotonic() + 120
    while True:
        alerts = server.alerts()
        named = {name: each["labels"]["alertname"] for each in alerts if (name := subject(each["labels"]))}
        has_sink = any(each["labels"].get("barograph_component") == SINK for each in alerts)
        if named == ALERTS and has_sink:
            return alerts
        assert time.monotonic() < deadline, named
        time.sleep(1)
