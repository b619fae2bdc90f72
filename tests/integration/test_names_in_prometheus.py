"""A metric has the same name in Prometheus over OTLP and at `/metrics`: rules and dashboards fit both."""

import time
from pathlib import Path

from tests.integration.conftest import need
from tests.integration.test_web import WEB, url_when_told
from tests.lab import sim
from tests.lab.agent import agent
from tests.lab.prometheus import Prometheus, prometheus

ONLY_SCRAPED = {"qemu_vm_info"}  # over OTLP the labels are attributes of the resource
NOT_ALWAYS = {"barograph_queue_age_seconds"}  # present only while a record is queued
LAST = {"qemu_vm_pressure_score", "qemu_vm_balloon_deflate_on_oom"}
"""The last names to appear: after the second sample, and after the first reading of the memory."""


def names(server: Prometheus) -> set[str]:
    found = server.query('count by (__name__) ({__name__=~"(qemu|barograph)_.+"})')
    return {each["metric"]["__name__"] for each in found}


def test_the_names_over_otlp_are_those_of_a_scrape(folder: Path) -> None:
    need("prometheus")
    more = {"BAROGRAPH_OTLP__INTERVAL": "1s", "BAROGRAPH_MEMORY__INTERVAL": "1s"}
    with (
        sim.simulated(folder, vms=2),
        prometheus(folder / "otlp") as otlp,
        agent(
            folder / "agent",
            *("--monitor", f"{folder}/*.qmp", "--interval", "1s", "--otlp", otlp.otlp),
            env={**WEB, **more},
        ) as one,
    ):
        one.wait_for_log(" web ", 120)
        target = url_when_told(one).removeprefix("http://").rstrip("/")
        with prometheus(folder / "scraped", scrape=target) as scraped:
            sent = seen = set[str]()
            deadline = time.monotonic() + 240
            while not (sent >= LAST and sent == seen) and time.monotonic() < deadline:
                time.sleep(1)
                sent, seen = names(otlp) - NOT_ALWAYS, names(scraped) - ONLY_SCRAPED - NOT_ALWAYS

    assert sent == seen
    assert sent >= LAST
