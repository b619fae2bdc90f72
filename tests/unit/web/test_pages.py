import gzip
import hashlib
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from agent.contract.payloads import Agent, sample_document, state_document
from agent.core.address import Domain
from agent.core.explanations import PRESSURE
from agent.core.health import Health, Status, update
from agent.core.pressure import PressureComponent, PressureLevel
from agent.core.reading import State
from agent.web import assets
from agent.web.server import open_web
from agent.web.web_settings import Settings
from tests.unit.sinks.views import AGENT, T0_S, pressure, sample, view, vm
from tests.unit.web.client import Answer, Present, ask

UPLOT = {
    "uplot-1.6.32.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uplot-1.6.32.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
"""SHA-256 of dist/uPlot.iife.min.js and dist/uPlot.min.css of version 1.6.32 in the registry of npm."""

ANY_PORT = Settings(host="127.0.0.1", port=0)


async def answer(present: Present, path: str, method: str = "GET") -> Answer:
    async with open_web(ANY_PORT, present.application()) as url:
        return await ask(url, path, method)


async def test_livez_is_200_even_while_the_agent_is_stopping() -> None:
    assert (await answer(Present(reasons=["stopping"]), "/livez")).status == 200


@pytest.mark.parametrize(
    ("missing", "status", "body"),
    [([], 200, b"ok\n"), (["the spool cannot be written"], 503, b"the spool cannot be written\n")],
)
async def test_readyz_is_200_or_503_with_the_reasons(missing: list[str], status: int, body: bytes) -> None:
    got = await answer(Present(reasons=missing), "/readyz")

    assert (got.status, got.body) == (status, body)


async def test_healthz_has_each_component_and_the_worst_state() -> None:
    got = (await answer(Present(), "/healthz")).json

    assert got["state"] == "degraded"
    assert got["components"]["kafka.samples"] == {
        "state": "degraded",
        "since_ms": 1_795_404_100_000,
        "why": "no broker",
    }


@pytest.mark.parametrize("path", ["/healthz", "/status"])
async def test_the_text_of_a_peer_in_a_problem_is_printable(path: str) -> None:
    status = Status(Health.DEGRADED, HOSTILE, HOSTILE)
    present = Present(components=update({}, {"otlp": status}, 1, stopping=False))

    got = await answer(present, path)

    health = got.json if path == "/healthz" else got.json["health"]
    assert got.status == 200
    assert health["components"]["otlp"]["why"].isprintable()
    assert "alert(1)" in health["components"]["otlp"]["why"]


async def test_status_has_every_vm_in_the_documents_of_the_topics() -> None:
    newest = sample(T0_S)
    seen = [view(newest, path=f"/run/{number}.qmp") for number in range(60)]
    seen.append(view(unknown=True, state=State.CONNECTING, path="/run/x.qmp"))

    got = (await answer(Present(views=seen), "/status")).json

    assert got["agent"]["counters"] == {"samples": 3}
    assert len(got["vms"]) == 61
    assert got["vms"][0]["last_update"] == T0_S
    assert got["vms"][0]["age_s"] == got["now_ms"] / 1000 - T0_S
    assert got["vms"][0]["sample"] == sample_document(newest, AGENT)
    assert got["vms"][0]["state"] == state_document(seen[0].state, AGENT)
    assert got["vms"][60]["sample"] is None
    assert got["vms"][60]["age_s"] is None


async def test_the_status_names_libvirt_for_its_domains() -> None:
    domain = Domain("qemu:///system", "5f0c0000-0000-0000-0000-000000000001")
    seen = [view(sample(address=domain), address=domain), view(sample())]

    said = (await answer(Present(views=seen), "/status")).json

    assert [each["state"]["via"] for each in said["vms"]] == ["libvirt", "qmp"]
    assert [each["sample"]["via"] for each in said["vms"]] == ["libvirt", "qmp"]
    assert said["vms"][0]["state"]["vm"]["path"] == str(domain)


@pytest.mark.parametrize("path", ["/plain", "/status", "/metrics", "/api/overview"])
async def test_long_responses_are_compressed_for_clients_that_accept_gzip(path: str) -> None:
    seen = [view(sample(), path=f"/run/{number}.qmp") for number in range(60)]
    async with open_web(ANY_PORT, Present(views=seen).application()) as url:
        plain = await ask(url, path)
        packed = await ask(url, path, accept_encoding="gzip, deflate")

    assert "content-encoding" not in plain.headers
    assert int(plain.headers["content-length"]) == len(plain.body)
    assert (packed.headers["content-encoding"], packed.headers["vary"]) == ("gzip", "accept-encoding")
    assert packed.headers["content-type"] == plain.headers["content-type"]
    assert len(packed.body) < len(plain.body) / 3
    assert gzip.decompress(packed.body)[:200] == plain.body[:200]


class Markup(HTMLParser):
    """Collects every tag and attribute, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = "\"><script>alert(1)</script><img src=x onerror='x'>\N{RIGHT-TO-LEFT OVERRIDE}\0\ud800"


async def test_on_a_phone_the_cells_of_the_plain_page_have_the_words_of_the_header() -> None:
    body = (await answer(Present(views=[view(sample())]), "/plain")).body.decode()
    style = gzip.decompress(assets.load()["plain.css"].packed).decode()

    headers = [re.findall(r"<th>([^<]+)", row) for row in re.findall(r"<tr>(<th>.*?)</tr>", body)]
    words = [
        re.findall(rf'{place}-of-type td:nth-child\((\d+)\)::before {{ content: "(.+): " }}', style)
        for place in ("first", "last")
    ]
    assert len(headers) == 2
    assert words == [[(str(n), word) for n, word in enumerate(row[1:], 2)] for row in headers]


async def test_hostile_names_are_shown_as_escaped_text() -> None:
    named = vm(name=HOSTILE)
    seen = [view(sample(of=named), of=named, path=f"/run/{HOSTILE}")]
    present = Present(views=seen, identity=Agent("host-1", HOSTILE, "run-1", "1"))

    got = await answer(present, "/plain")

    markup = Markup()
    markup.feed(got.body.decode())
    assert markup.tags <= {
        "html", "head", "meta", "noscript", "title", "link", "body", "main", "h1", "p",
        "table", "tr", "th", "td",
    }  # fmt: skip
    assert markup.attributes <= {
        "lang", "charset", "http-equiv", "content", "class", "title", "name", "rel", "href"
    }  # fmt: skip
    assert "<script>alert(1)</script>" in markup.text
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in markup.text
    assert got.headers["content-security-policy"].startswith("default-src 'none'")


async def test_the_page_shows_vms_that_do_not_report_first() -> None:
    seen = [
        view(sample(of=vm("a", "fine")), path="/a"),
        view(of=vm("b", "silent"), state=State.STALLED, path="/b"),
    ]

    body = (await answer(Present(views=seen), "/plain")).body.decode()

    assert body.index("silent") < body.index("fine")
    assert 'http-equiv="refresh"' in body


async def test_the_page_shows_vms_under_pressure_first_then_silent_ones_then_the_rest() -> None:
    levels = {"p": PressureLevel.PRESSURE, "o": PressureLevel.OOM, "z": PressureLevel.LOW}
    seen = [view(of=vm("x", "name-silent"), state=State.STALLED, path="/x")]
    seen.append(view(sample(of=vm("f", "name-fine")), path="/y"))
    for name, level in levels.items():
        newest = sample(of=vm(name, f"name-{name}"))
        seen.append(replace(view(newest, path=f"/{name}"), pressure=pressure(newest, level)))
    gone = sample(of=vm("a", "name-a"))
    paused = replace(view(gone, state=State.PAUSED, path="/a"), pressure=pressure(gone))

    body = (await answer(Present(views=[*seen, paused]), "/plain")).body.decode()

    names = ("name-o", "name-p", "name-z", "name-silent", "name-a", "name-fine")
    assert sorted(names, key=body.index) == list(names)
    assert body.count('<td class="pressure">pressure') == 1
    assert body.count("<td>1970-01-01 00:00:00Z") == 3  # of the states; the others have the time of the level


async def test_the_status_has_the_pressure_with_every_component() -> None:
    newest = sample()
    known = {PressureComponent.HEADROOM: 0.75, PressureComponent.SWAP: 0.0}
    seen = [
        replace(view(newest), pressure=pressure(newest, components=known)),
        view(path="/other", since_ms=7_000),
    ]

    shown, absent = (await answer(Present(views=seen), "/status")).json["vms"]

    assert absent["pressure"] is None
    assert (shown["since_ms"], absent["since_ms"]) == ((T0_S - 60) * 1000, 7_000)
    assert shown["pressure"] == {
        "level": "pressure",
        "since": T0_S - 60,
        "score": 0.75,
        "last_update": T0_S,
        "components": dict.fromkeys(PressureComponent) | {"headroom": 0.75, "swap": 0.0},
    }


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/plain",
        "/livez",
        "/readyz",
        "/healthz",
        "/status",
        "/api/overview",
        "/api/vm",
        "/assets/page.js",
    ],
)
async def test_only_get_and_head_are_allowed(path: str) -> None:
    async with open_web(ANY_PORT, Present().application()) as url:
        got, head = await ask(url, path), await ask(url, path, "HEAD")
        others = [(await ask(url, path, method)).status for method in ("POST", "PUT", "DELETE", "PATCH")]

    assert (head.status, head.body) == (got.status, b"")
    assert others == [405] * 4


async def test_one_vm_is_shown_with_its_advice_history_and_changes() -> None:
    present = Present()
    newest = sample(int(time.time()), statistics={"available_memory": 1, "total_memory": 100})
    level = pressure(newest, PressureLevel.OOM)
    one = replace(view(newest, state=State.REPORTING), pressure=level)
    present.views = [one]
    present.histories.sample(newest, None, level)
    present.histories.state(one.state)

    got = (await answer(present, "/api/vm?id=vm-1")).json
    nothing = (await answer(present, "/api/vm?id=other")).json

    assert got["vm"]["sample"] == sample_document(newest, AGENT)
    assert got["level"] == "oom"
    assert got["advice"]["next_step"] == PRESSURE[PressureLevel.OOM].next_step
    assert got["changes"][0]["state"] == "reporting"
    assert got["history"]["available_share"] == [pytest.approx(0.01)]
    assert got["history"]["resident_bytes"] == [None]
    assert nothing["vm"] is None


async def test_the_pages_files_are_sent_again_only_if_they_changed() -> None:
    async with open_web(ANY_PORT, Present().application()) as url:
        first = await ask(url, "/assets/page.js")
        again = await ask(url, "/assets/page.js", more={"if-none-match": first.headers["etag"]})
        changed = await ask(url, "/assets/page.js", more={"if-none-match": '"other"'})

    assert (first.status, first.headers["cache-control"]) == (200, "no-cache")
    assert first.headers["content-type"] == "text/javascript; charset=utf-8"
    assert (again.status, again.body) == (304, b"")
    assert (changed.status, changed.body) == (200, first.body)


@pytest.mark.parametrize("path", ["/", "/plain", "/status", "/assets/page.css", "/api/overview", "/livez"])
async def test_no_answer_allows_a_script_or_a_style_from_another_origin(path: str) -> None:
    headers = (await answer(Present(), path)).headers
    policy = dict(each.strip().split(" ", 1) for each in headers["content-security-policy"].split(";"))

    assert policy["default-src"] == "'none'"
    assert {policy[f"{kind}-src"] for kind in ("script", "style", "connect", "img")} == {"'self'"}
    assert headers["x-content-type-options"] == "nosniff"


def test_the_page_loads_its_own_files_only_and_has_no_script_or_style_inside() -> None:
    files = sorted((Path(assets.__file__).parent / "assets").iterdir())
    own = [each for each in files if "uplot" not in each.name]
    front = (Path(assets.__file__).parent / "assets/index.html").read_text()

    named = set(re.findall(r'(?:src|href)="assets/([^"]+)"', front))
    assert named <= {each.name for each in files}
    assert {each.name for each in own if each.suffix == ".js"} <= named
    assert not re.search(r"<script>|<style|\sstyle=|\son[a-z]+=", front)
    for each in own:
        text = each.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(
            r"https?://|innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text
        ), each


@pytest.mark.parametrize(("name", "digest"), UPLOT.items())
def test_the_charting_library_is_the_one_that_was_published(name: str, digest: str) -> None:
    content = (Path(assets.__file__).parent / "assets" / name).read_bytes()

    assert hashlib.sha256(content).hexdigest() == digest


async def test_unknown_paths_are_404() -> None:
    assert (await answer(Present(), "/assets/nothing.js")).status == 404
    assert (await answer(Present(), "/assets/../pages.py")).status == 404
    assert (await answer(Present(), "/assets/%2e%2e/pages.py")).status == 404
    assert (await answer(Present(), "/../etc/passwd")).status == 404
    assert (await answer(Present(), "/status/x")).status == 404


async def test_an_exception_becomes_a_500_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Present):
        def not_ready(self) -> list[str]:
            raise RuntimeError("broken")

    got = await answer(Broken(), "/readyz")

    assert got.status == 500
    assert b"broken" not in got.body
