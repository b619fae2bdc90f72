"""Tests of the page in a real Chromium: its contents, its use and its accessibility."""

import json
import re
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import axe_playwright_python
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect

from agent.core.reading import State
from agent.core.states import Reason
from tests.integration.conftest import need
from tests.integration.page_views import HOSTILE, fill, id_of, one, serving, troubled
from tests.lab.browser import chromium
from tests.unit.sinks.views import view, vm
from tests.unit.web.client import Present

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
DESKTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}
Scheme = Literal["light", "dark"]
WORST_FIRST = (
    *("batch-7", "db-3", "cache-1"),
    *("dark-no-balloon", "dark-stalled", "dark-unreachable"),
    *("idle-9", "web-1", "web-2"),
)

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    need("chromium")
    expect.set_options(timeout=60_000)  # 5 s by default
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def host() -> Generator[tuple[Present, str]]:
    """Yield a host with nine VMs, six of which need attention. Tests do not change it."""
    present = Present()
    fill(present, troubled(present))
    with serving(present) as url:
        yield present, url


@contextmanager
def opened(
    browser: Browser,
    url: str,
    size: ViewportSize = DESKTOP,
    scheme: Scheme = "light",
    *,
    scripts: bool = True,
) -> Generator[Page]:
    """Yield a page with its first values. An error of the browser or of a script fails the test."""
    context = browser.new_context(viewport=size, color_scheme=scheme, java_script_enabled=scripts)
    context.set_default_timeout(120_000)
    wrong: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    try:
        page.goto(url)
        expect(page.locator("#host-name, h1").last).not_to_be_empty()
        yield page
    finally:
        context.close()
    assert [each for each in wrong if "ERR_CONNECTION_REFUSED" not in each] == []


def names(page: Page) -> list[str]:
    return page.locator("#vms tbody bdi").all_inner_texts()


def violations(page: Page) -> list[str]:
    """Return the violations that axe-core finds."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run({resultTypes: ['violations']}).then((found) => found.violations)")
    return [f"{each['id']}: {[node['target'] for node in each['nodes']]}" for each in found]


def starts(text: str) -> re.Pattern[str]:
    return re.compile(f"^{re.escape(text)}")


def focused(page: Page) -> str:
    return page.evaluate("document.activeElement.textContent")


def comes(page: Page, look: Callable[[Page], object], expected: object) -> None:
    """Wait until `look` returns `expected`: the page may react to a key in the next turn of its loop."""
    deadline_s = time.monotonic() + 60
    while (found := look(page)) != expected:
        assert time.monotonic() < deadline_s, f"{found} and not {expected}"
        page.wait_for_timeout(20)


def test_the_vms_are_shown_worst_first_with_the_host_and_the_agent_above(
    browser: Browser, host: tuple[Present, str]
) -> None:
    with opened(browser, host[1]) as page:
        comes(page, names, list(WORST_FIRST))
        expect(page.locator("#summary")).to_have_text("9 VMs: 3 under pressure, 3 silent")
        expect(page).to_have_title("(6) node-7 \N{EN DASH} Barograph")
        row = page.locator("#vms tbody tr", has_text="batch-7")
        expect(row).to_contain_text("oom")
        expect(row).to_contain_text("% of 8.0 GiB")
        expect(row).to_contain_text("6.0 GiB / 8.0 GiB")
        expect(row.locator("path")).to_have_attribute("d", starts("M"))
        stalled = page.locator("#vms tbody tr", has_text="dark-stalled")
        expect(stalled).to_contain_text("silent")
        expect(stalled).to_contain_text("was ")
        for each in (row, stalled):
            expect(each.locator(".level small")).to_have_text(re.compile(r"\d+ min"))
        expect(page.locator("#host")).to_contain_text("21.0 GiB of 256 GiB")
        expect(page.locator("#host")).to_contain_text("some 1.5 %, all 0.4 %")
        queue = page.locator("#components tbody tr", has_text="kafka.samples")
        expect(queue).to_contain_text("12,345")
        expect(queue).to_contain_text("does not drain")
        degraded = page.locator("#degraded li", has_text="kafka.samples")
        expect(degraded).to_contain_text("What to do: run barograph doctor")
        expect(degraded).to_be_in_viewport(ratio=1)
        spool = page.locator("#components tbody tr", has_text="on disk")
        expect(spool).to_contain_text("1.5 GiB of 2.0 GiB, full in 2 h")


def test_a_vm_that_sends_nothing_yet_is_counted_and_needs_attention(browser: Browser) -> None:
    present = Present()
    waiting = one(present, "new-1", state=State.WAITING, reason=Reason.NO_UPDATE_YET)
    fill(present, [one(present, "web-1", share=0.6), waiting])
    with serving(present) as url, opened(browser, f"{url}#show=attention") as page:
        comes(page, names, ["new-1"])
        expect(page.locator("#summary")).to_have_text("2 VMs: 0 under pressure, 0 silent, 1 waiting")
        expect(page.locator("#count")).to_have_text("1 of 2 VMs")


@pytest.mark.parametrize(
    ("size", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["light", "phone-dark"]
)
@pytest.mark.parametrize("place", ["", f"#vm={id_of('batch-7')}", "plain"], ids=["all", "one", "plain"])
def test_axe_finds_no_violation(
    browser: Browser, host: tuple[Present, str], place: str, size: ViewportSize, scheme: Scheme
) -> None:
    with opened(browser, host[1] + place, size, scheme) as page:
        if place.startswith("#"):
            page.wait_for_selector("#detail canvas")
        elif not place:
            page.wait_for_selector("#vms tbody a")

        assert violations(page) == []
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]
        wider = page.evaluate("document.scrollingElement.scrollWidth - innerWidth")
        assert wider <= 0


def test_a_vm_without_values_has_no_bar_and_an_interval_of_0_is_shown(browser: Browser) -> None:
    present = Present()
    fill(present, [view(of=vm("off-1", "off-1"), state=State.OFF, interval_s=0)])
    with serving(present) as url, opened(browser, url) as page:
        page.wait_for_selector("#vms tbody a")
        expect(page.locator("#vms .available svg")).to_be_hidden()
        assert (
            page.evaluate("document.querySelector('#vms .available svg').getBoundingClientRect().width") == 0
        )
        page.locator("#vms tbody a").click()
        expect(page.locator("#detail section[aria-label=Identity]")).to_contain_text("polling interval0 s")


def test_the_page_can_be_used_with_the_keyboard(browser: Browser, host: tuple[Present, str]) -> None:
    with opened(browser, host[1]) as page:
        page.wait_for_selector("#vms tbody a")
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.closest('#vms tbody') !== null"):
                break
        comes(page, focused, WORST_FIRST[0])
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        comes(page, focused, WORST_FIRST[2])
        page.keyboard.press("End")
        comes(page, focused, WORST_FIRST[-1])
        page.keyboard.press("/")
        page.keyboard.type("dark stalled")
        comes(page, names, ["dark-stalled"])
        page.keyboard.press("ArrowDown")
        comes(page, focused, "dark-stalled")
        page.keyboard.press("Enter")
        page.wait_for_selector("#detail canvas")
        comes(page, focused, "dark-stalled")
        assert page.evaluate("document.activeElement.id") == "detail-name"
        page.keyboard.press("Escape")
        page.wait_for_selector("#vms tbody a")
        comes(page, lambda page: (names(page), focused(page)), (["dark-stalled"], "dark-stalled"))


def test_a_link_leads_to_the_same_view(browser: Browser, host: tuple[Present, str]) -> None:
    with opened(browser, host[1]) as page:
        page.wait_for_selector("#vms tbody a")
        page.select_option("#show", "attention")
        page.click("th[data-sort=name] button")
        page.click("th[data-sort=name] button")
        expect(page.locator("th[data-sort=name]")).to_have_attribute("aria-sort", "descending")
        shown, url = names(page), page.url
        page.go_back()
        expect(page.locator("th[data-sort=name]")).to_have_attribute("aria-sort", "ascending")

    assert shown == sorted(WORST_FIRST[:6], reverse=True)
    with opened(browser, url) as page:
        page.wait_for_selector("#vms tbody a")
        comes(page, names, shown)
    with opened(browser, f"{host[1]}#vm={id_of('db-3')}") as page:
        expect(page.locator("#detail h2")).to_have_text("db-3")
        page.click("text=All VMs")
        page.wait_for_selector("#vms tbody a")


def test_one_vm_is_shown_with_charts_advice_and_history(browser: Browser, host: tuple[Present, str]) -> None:
    with opened(browser, f"{host[1]}#vm={id_of('batch-7')}") as page:
        page.wait_for_selector("#detail canvas")
        detail = page.locator("#detail")
        expect(detail.locator("canvas")).to_have_count(5)
        expect(detail).to_contain_text("find the killed process in the guest's kernel log")
        now = detail.locator("section[aria-label=Now]").inner_text()
        spans = re.search(r"oom for (\d+) min, since .*\s+reporting \(advancing\) for (\d+) min, since", now)
        assert spans is not None, now
        assert int(spans[1]) < int(spans[2])  # the level began 10 minutes after the state
        expect(detail.locator("section[aria-label=Identity]")).to_contain_text("label vmid107")
        expect(detail.locator("section[aria-label=States]")).to_contain_text("connectingfirst_attempt")
        expect(detail.locator("[role=img]").first).to_have_attribute(
            "aria-label", starts("Available share: ")
        )
    with opened(browser, f"{host[1]}#vm=nothing") as page:
        expect(page.locator("#detail")).to_contain_text("no such VM")


def test_without_scripts_the_same_values_are_a_table(browser: Browser, host: tuple[Present, str]) -> None:
    with opened(browser, host[1], scripts=False) as page:
        page.wait_for_url("**/plain")
        text = page.locator("body").inner_text()

    assert sorted(WORST_FIRST, key=text.index) == list(WORST_FIRST)


def test_hostile_names_are_text_and_break_nothing(browser: Browser) -> None:
    present = Present()
    fill(present, [one(present, name) for name in HOSTILE])
    with serving(present) as url:
        with opened(browser, url) as page:
            page.wait_for_selector("#vms tbody a")
            shown = names(page)
            images = page.locator("#vms img, #vms script").count()
            wider = page.evaluate("document.scrollingElement.scrollWidth - innerWidth")
            page.locator("#vms tbody a", has_text="<img").click()
            expect(page.locator("#detail h2")).to_have_text(HOSTILE[0])
        with opened(browser, url, PHONE) as page:
            page.wait_for_selector("#vms tbody a")
            wider_on_a_phone = page.evaluate("document.scrollingElement.scrollWidth - innerWidth")

    expected = [
        name.replace("\N{RIGHT-TO-LEFT OVERRIDE}", "\N{REPLACEMENT CHARACTER}")[:256] for name in HOSTILE
    ]
    assert sorted(shown) == sorted(expected)
    assert images == 0
    assert max(wider, wider_on_a_phone) <= 0


def test_an_update_changes_only_what_differs_and_a_hidden_tab_sends_no_requests(browser: Browser) -> None:
    present = Present()
    views = fill(present, [one(present, f"vm-{number}") for number in range(6)]).views
    with serving(present) as url, opened_with_a_clock(browser, url) as page:
        page.wait_for_selector("#vms tbody a")
        page.evaluate(
            """window.touched = new Set();
            new MutationObserver((all) => all.forEach((each) => {
              const node = each.target.nodeType === 1 ? each.target : each.target.parentElement;
              const cell = node?.closest('#vms tbody td:not(.age, .spark)');
              if (cell) touched.add(cell.parentElement.dataset.key);
            })).observe(document.body, {
              subtree: true, childList: true, characterData: true, attributes: true,
            })"""
        )
        changed = replace(views[2], state=replace(views[2].state, state=State.STALLED, reason="no_advance"))
        present.views = [*views[:2], changed, *views[3:]]
        for _ in range(600):  # a response is reused for a second of the agent's time
            page.clock.fast_forward(6_000)
            if "stalled" in page.locator("#vms tbody tr:not(.spacer)").first.inner_text():
                break
            time.sleep(0.1)
        touched = page.evaluate("[...touched]")

        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.evaluate(
            """Object.defineProperty(document, 'hidden', {value: true, configurable: true});
            document.dispatchEvent(new Event('visibilitychange'))"""
        )
        page.clock.fast_forward(60_000)
        asked_while_hidden = len(asked)
        with page.expect_response("**/api/overview"):
            page.evaluate(
                """Object.defineProperty(document, 'hidden', {value: false, configurable: true});
                document.dispatchEvent(new Event('visibilitychange'))"""
            )

    assert touched == [id_of("vm-2")]
    assert asked_while_hidden == 0


@contextmanager
def opened_with_a_clock(browser: Browser, url: str) -> Generator[Page]:
    context: BrowserContext = browser.new_context(viewport=DESKTOP)
    try:
        page = context.new_page()
        page.clock.install()
        page.goto(url)
        yield page
    finally:
        context.close()


def test_only_the_visible_rows_of_a_thousand_vms_are_in_the_document(browser: Browser) -> None:
    present = Present()
    template = one(present, "vm")
    views = [
        replace(template, state=replace(view(of=vm(f"id-{n}", f"vm-{n:04}"), path=f"/{n}").state))
        for n in range(1_000)
    ]
    fill(present, views)
    with serving(present) as url, opened(browser, url) as page:
        page.wait_for_selector("#vms tbody a")
        rows = page.locator("#vms tbody tr").count()
        expect(page.locator("#vms")).to_have_attribute("aria-rowcount", "1001")
        page.locator("#vms tbody a").first.focus()
        page.keyboard.press("End")
        comes(page, focused, "vm-0999")
        rows_at_the_end = page.locator("#vms tbody tr").count()
        place = page.evaluate("document.activeElement.closest('tr').getAttribute('aria-rowindex')")
        page.keyboard.press("Home")
        comes(page, focused, "vm-0000")

    assert place == "1001"
    assert max(rows, rows_at_the_end) < 60


@pytest.mark.long
def test_a_thousand_vms_are_painted_and_updated_in_time(browser: Browser) -> None:
    """Print the figures of docs/page.md."""
    present = Present()
    views = fill(present, [one(present, f"vm-{number:04}") for number in range(1_000)]).views
    with serving(present) as url:
        figures: list[dict[str, float]] = []
        for _ in range(6):
            with opened(browser, url) as page:
                page.wait_for_selector("#vms tbody a")
                busy = [
                    replace(each, state=replace(each.state, interval_s=number))
                    for number, each in enumerate(views)
                ]
                present.views = busy
                while page.evaluate("performance.getEntriesByName('update').length") < 3:
                    page.wait_for_timeout(200)
                figures.append(
                    page.evaluate(
                        """(() => { const updates = performance.getEntriesByName('update');
                        return {
                          paint: performance.getEntriesByName('first-contentful-paint')[0].startTime,
                          rows: updates[0].startTime + updates[0].duration,
                          update: Math.max(...updates.slice(1).map((each) => each.duration)),
                        }; })()"""
                    )
                )
    print(json.dumps(figures))
    for name, bound_ms in (("paint", 300), ("update", 50)):
        assert sorted(each[name] for each in figures)[len(figures) // 2] < bound_ms
