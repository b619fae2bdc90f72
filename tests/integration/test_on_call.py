"""On a host with 40 VMs and eight troubles, each place shows which, since when, why and what to do."""

import json
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from agent.core.explanations import explain
from agent.core.reading import State
from tests.contract.generate_rules import source
from tests.integration.audit import ask
from tests.lab.agent import barograph
from tests.lab.on_call import HEALTHY, SINK, TROUBLES, host_in_trouble

NO_ALERT = {"paused"}
"""An administrator paused it: no alert."""


def rows(url: str) -> dict[str, list[Any]]:
    """Return the rows of the page by socket: agent/web/overview.py, `Row`, after the version."""
    return {Path(row[3]).stem: row[1:] for row in json.loads(ask(url, "api/overview")[1])["rows"]}


def wait_for_troubles(url: str) -> dict[str, list[Any]]:
    deadline = time.monotonic() + 240
    wanted = {name: each.state for name, each in TROUBLES.items()}
    while True:
        shown = rows(url)
        found = {name: str(row[6]) for name, row in shown.items()}
        if wanted.items() <= found.items() and sum(each == "reporting" for each in found.values()) >= HEALTHY:
            return shown
        assert time.monotonic() < deadline, found
        time.sleep(1)


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("`", ""))


def alert_for(state: str, reason: str) -> str | None:
    """Return the name of the alert whose expression has this state and reason."""
    for each in source()["alerts"]:
        for matchers in re.findall(r"qemu_vm_state_reason\{([^}]*)\}", each["expr"]):
            found = re.findall(r'qemu_vm_(state|state_reason)(=~|=|!=)"([^"]*)"', matchers)
            values = {"state": state, "state_reason": reason}
            if all(
                (values[label] != value) if how == "!=" else re.fullmatch(value, values[label]) is not None
                for label, how, value in found
            ):
                return each["alert"]
    return None


def test_each_trouble_has_its_reason_and_its_next_step_in_each_place(folder: Path) -> None:
    with host_in_trouble(folder, {}) as (process, url):
        shown = wait_for_troubles(url)
        status = barograph("status", "--url", url)
        overview = json.loads(ask(url, "api/overview")[1])
        details = {name: ask(url, f"api/vm?id={quote(shown[name][0])}")[1] for name in TROUBLES}
        plain = flat(ask(url, "plain")[1])
        assert process.stop() == 0

    assert status.returncode == 1
    text = flat(status.stdout)
    for name, trouble in TROUBLES.items():
        detail = json.loads(details[name])["vm"]
        known = [explain(State(trouble.state), reason) for reason in trouble.reasons]
        steps = [flat(each.next_step) for each in known if each is not None]
        assert overview["now_ms"] - 900_000 < shown[name][9] <= overview["now_ms"], "since when"
        assert detail["state"]["reason"] in trouble.reasons
        assert flat(detail["explanation"]["next_step"]) in steps, name
        assert name in plain, name
        if trouble.state != "paused":  # it is well
            assert any(f"vm/{trouble.state}/{reason}" in text for reason in trouble.reasons), name
            assert any(f"next: {step}" in text for step in steps), name
            assert name in text
        for reason in trouble.reasons:
            assert (alert_for(trouble.state, reason) is None) == (trouble.state in NO_ALERT), name
    assert f"agent/component/{SINK}" in text
    assert overview["components"][SINK]["state"] == "degraded"
    worst = sorted(shown, key=lambda name: shown[name][4])
    expected = {name for name, each in TROUBLES.items() if each.state not in ("paused", "waiting")}
    assert set(worst[: len(expected)]) == expected, "they come first"
