"""Test of a running agent's page in a real Chromium: an unreachable broker, and a restart of the agent."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.integration.conftest import need
from tests.lab.agent import agent
from tests.lab.browser import chromium
from tests.lab.process import free_port
from tests.lab.sim import simulated

WITHIN_MS = 120_000

pytestmark = pytest.mark.timeout(1200)


def test_an_open_page_shows_an_unreachable_broker_and_a_restart_of_the_agent(folder: Path) -> None:
    need("chromium")
    expect.set_options(timeout=WITHIN_MS)  # 5 s by default
    address = f"127.0.0.1:{free_port()}"
    broker = f"127.0.0.1:{free_port()}"
    env = {"BAROGRAPH_WEB__ENABLED": "true", "BAROGRAPH_WEB__LISTEN": address}
    env |= {"BAROGRAPH_MEMORY__INTERVAL": "10s", "BAROGRAPH_KAFKA__REQUEST_TIMEOUT": "1s"}
    words = ("--monitor", f"{folder}/*.qmp", "--interval", "1s", "--kafka", broker)
    with simulated(folder, vms=5, preset=1), chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(WITHIN_MS)
        with agent(folder, *words, env=env) as first:
            first.wait_for_log(" web ")
            page.goto(f"http://{address}/")
            expect(page.locator("#summary")).to_have_text(
                "5 VMs: 0 under pressure, 0 silent", timeout=WITHIN_MS
            )
            expect(page.locator("#vms tbody tr:not(.spacer)")).to_have_count(5, timeout=WITHIN_MS)
            row = page.locator("#vms tbody tr:not(.spacer)").first
            expect(row).to_contain_text("reporting", timeout=WITHIN_MS)
            sink = page.locator("#components tr", has_text="kafka.samples")
            expect(sink).to_contain_text("degraded", timeout=WITHIN_MS)
            expect(sink).to_contain_text("does not drain", timeout=WITHIN_MS)
            expect(page.locator("#components tr", has_text="spool").first).to_contain_text(" of ")
            page.locator("#vms tbody a").first.click()
            expect(page.locator("#detail canvas")).to_have_count(5, timeout=WITHIN_MS)
            name = page.locator("#detail h2").inner_text()
            assert first.stop() == 0
        expect(page.locator("#trouble")).to_contain_text("The agent is unreachable since", timeout=WITHIN_MS)
        expect(page.locator("#trouble")).to_contain_text("The values shown are those of")
        with agent(folder, *words, env=env) as second:
            expect(page.locator("#trouble")).to_be_hidden(timeout=WITHIN_MS)
            expect(page.locator("#detail h2")).to_have_text(name)
            page.keyboard.press("Escape")
            expect(page.locator("#vms tbody tr:not(.spacer)")).to_have_count(5, timeout=WITHIN_MS)
            expect(row).to_contain_text("% of")
            assert second.stop() == 0
