import gzip
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from agent.contract.payloads import Agent, sample_document, state_document
from agent.core.address import Domain
from agent.core.pressure import PressureComponent, PressureLevel
from agent.core.reading import State
from agent.web.server import open_web
from agent.web.web_settings import Settings
from tests.unit.sinks.views import AGENT, T0_S, pressure, sample, view, vm
from tests.unit.web.client import Answer, Present, ask

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


@pytest.mark.parametrize("path", ["/", "/status", "/metrics"])
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
    """Every tag and attribute, and the text."""

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


async def test_hostile_names_are_escaped_text() -> None:
    named = vm(name=HOSTILE)
    seen = [view(sample(of=named), of=named, path=f"/run/{HOSTILE}")]
    present = Present(views=seen, identity=Agent("host-1", HOSTILE, "run-1", "1"))

    got = await answer(present, "/")

    markup = Markup()
    markup.feed(got.body.decode())
    assert markup.tags <= {
        "html", "head", "meta", "title", "style", "body", "h1", "p", "table", "tr", "th", "td"
    }  # fmt: skip
    assert markup.attributes <= {"lang", "charset", "http-equiv", "content", "class", "title"}
    assert "<script>alert(1)</script>" in markup.text
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in markup.text
    assert got.headers["content-security-policy"].startswith("default-src 'none'")


async def test_the_page_shows_vms_that_do_not_report_first() -> None:
    seen = [
        view(sample(of=vm("a", "fine")), path="/a"),
        view(of=vm("b", "silent"), state=State.STALLED, path="/b"),
    ]

    body = (await answer(Present(views=seen), "/")).body.decode()

    assert body.index("silent") < body.index("fine")
    assert 'http-equiv="refresh"' in body


async def test_the_page_shows_vms_under_pressure_first_and_low_ones_before_the_rest() -> None:
    levels = {"p": PressureLevel.PRESSURE, "o": PressureLevel.OOM, "z": PressureLevel.LOW}
    seen = [view(of=vm("x", "name-silent"), state=State.STALLED, path="/x")]
    seen.append(view(sample(of=vm("f", "name-fine")), path="/y"))
    for name, level in levels.items():
        newest = sample(of=vm(name, f"name-{name}"))
        seen.append(replace(view(newest, path=f"/{name}"), pressure=pressure(newest, level)))
    gone = sample(of=vm("a", "name-a"))
    paused = replace(view(gone, state=State.PAUSED, path="/a"), pressure=pressure(gone))

    body = (await answer(Present(views=[*seen, paused]), "/")).body.decode()

    names = ("name-o", "name-p", "name-a", "name-silent", "name-z", "name-fine")
    assert sorted(names, key=body.index) == list(names)
    assert body.count('<td class="pressure">pressure') == 1


async def test_the_status_has_the_pressure_with_every_component() -> None:
    newest = sample()
    known = {PressureComponent.HEADROOM: 0.75, PressureComponent.SWAP: 0.0}
    seen = [replace(view(newest), pressure=pressure(newest, components=known)), view(path="/other")]

    shown, absent = (await answer(Present(views=seen), "/status")).json["vms"]

    assert absent["pressure"] is None
    assert shown["pressure"] == {
        "level": "pressure",
        "since": T0_S - 60,
        "score": 0.75,
        "last_update": T0_S,
        "components": dict.fromkeys(PressureComponent) | {"headroom": 0.75, "swap": 0.0},
    }


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/healthz", "/status"])
async def test_only_get_and_head_are_allowed(path: str) -> None:
    async with open_web(ANY_PORT, Present().application()) as url:
        got, head = await ask(url, path), await ask(url, path, "HEAD")
        others = [(await ask(url, path, method)).status for method in ("POST", "PUT", "DELETE", "PATCH")]

    assert (head.status, head.body) == (got.status, b"")
    assert others == [405] * 4


async def test_unknown_paths_are_404() -> None:
    assert (await answer(Present(), "/../etc/passwd")).status == 404
    assert (await answer(Present(), "/status/x")).status == 404


async def test_an_exception_becomes_a_500_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Present):
        def not_ready(self) -> list[str]:
            raise RuntimeError("broken")

    got = await answer(Broken(), "/readyz")

    assert got.status == 500
    assert b"broken" not in got.body


def test_the_cli_does_not_load_the_web_libraries() -> None:
    code = "import agent.cli, sys; print({'uvicorn', 'starlette', 'prometheus_client'} & {*sys.modules})"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"
