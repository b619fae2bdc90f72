import gzip
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from agent.contract.encode import Agent, sample_document, state_document
from agent.core.address import Domain
from agent.core.reading import State
from agent.web.pages import application
from agent.web.server import open_web
from agent.web.settings import Settings
from tests.unit.sinks.views import AGENT, T0_S, sample, view, vm
from tests.unit.web.asking import Answer, Present, ask

ANY_PORT = Settings(host="127.0.0.1", port=0)


async def answer(present: Present, path: str, method: str = "GET") -> Answer:
    async with open_web(ANY_PORT, application(present)) as url:
        return await ask(url, path, method)


async def test_it_is_alive_while_the_loop_turns() -> None:
    assert (await answer(Present(missing=["stopping"]), "/livez")).status == 200


@pytest.mark.parametrize(
    ("missing", "status", "body"),
    [([], 200, b"ok\n"), (["the spool cannot be written"], 503, b"the spool cannot be written\n")],
)
async def test_it_is_ready_where_nothing_is_missing(missing: list[str], status: int, body: bytes) -> None:
    said = await answer(Present(missing=missing), "/readyz")

    assert (said.status, said.body) == (status, body)


async def test_its_health_is_that_of_its_worst_part() -> None:
    said = (await answer(Present(), "/healthz")).json

    assert said["state"] == "degraded"
    assert said["components"]["kafka.samples"] == {
        "state": "degraded",
        "since_ms": 1_795_404_100_000,
        "why": "no broker",
    }


async def test_the_status_has_every_vm_as_readers_of_the_topics_get_it() -> None:
    newest = sample(T0_S)
    seen = [view(newest, path=f"/run/{number}.qmp") for number in range(60)]
    seen.append(view(unknown=True, state=State.CONNECTING, path="/run/x.qmp"))

    said = (await answer(Present(seen=seen), "/status")).json

    assert said["agent"]["counters"] == {"samples": 3}
    assert len(said["vms"]) == 61
    assert said["vms"][0]["last_update"] == T0_S
    assert said["vms"][0]["age_s"] == said["now_ms"] / 1000 - T0_S
    assert said["vms"][0]["sample"] == sample_document(newest, AGENT)
    assert said["vms"][0]["state"] == state_document(seen[0].state, AGENT)
    assert said["vms"][60]["sample"] is None
    assert said["vms"][60]["age_s"] is None


async def test_the_status_names_libvirt_for_its_domains() -> None:
    domain = Domain("qemu:///system", "5f0c0000-0000-0000-0000-000000000001")
    seen = [view(sample(address=domain), address=domain), view(sample())]

    said = (await answer(Present(seen=seen), "/status")).json

    assert [each["state"]["via"] for each in said["vms"]] == ["libvirt", "qmp"]
    assert [each["sample"]["via"] for each in said["vms"]] == ["libvirt", "qmp"]
    assert said["vms"][0]["state"]["vm"]["path"] == str(domain)


@pytest.mark.parametrize("path", ["/", "/status", "/metrics"])
async def test_what_is_long_is_sent_compressed_to_those_who_take_it(path: str) -> None:
    seen = [view(sample(), path=f"/run/{number}.qmp") for number in range(60)]
    async with open_web(ANY_PORT, application(Present(seen=seen))) as url:
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


async def test_hostile_names_are_text_and_nothing_else() -> None:
    named = vm(name=HOSTILE)
    seen = [view(sample(of=named), of=named, path=f"/run/{HOSTILE}")]
    present = Present(seen=seen, identity=Agent("host-1", HOSTILE, "run-1", "1"))

    said = await answer(present, "/")

    markup = Markup()
    markup.feed(said.body.decode())
    assert markup.tags <= {
        "html", "head", "meta", "title", "style", "body", "h1", "p", "table", "tr", "th", "td"
    }  # fmt: skip
    assert markup.attributes <= {"lang", "charset", "http-equiv", "content", "class", "title"}
    assert "<script>alert(1)</script>" in markup.text
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in markup.text
    assert said.headers["content-security-policy"].startswith("default-src 'none'")


async def test_the_page_shows_what_needs_a_look_first() -> None:
    seen = [
        view(sample(of=vm("a", "fine")), path="/a"),
        view(of=vm("b", "silent"), state=State.STALLED, path="/b"),
    ]

    body = (await answer(Present(seen=seen), "/")).body.decode()

    assert body.index("silent") < body.index("fine")
    assert 'http-equiv="refresh"' in body


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/healthz", "/status"])
async def test_only_get_and_head_are_answered(path: str) -> None:
    async with open_web(ANY_PORT, application(Present())) as url:
        got, head = await ask(url, path), await ask(url, path, "HEAD")
        others = [(await ask(url, path, method)).status for method in ("POST", "PUT", "DELETE", "PATCH")]

    assert (head.status, head.body) == (got.status, b"")
    assert others == [405] * 4


async def test_what_is_not_there_is_not_found() -> None:
    assert (await answer(Present(), "/../etc/passwd")).status == 404
    assert (await answer(Present(), "/status/x")).status == 404


async def test_a_bug_of_ours_is_an_answer_too(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Present):
        def unready(self) -> list[str]:
            raise RuntimeError("broken")

    said = await answer(Broken(), "/readyz")

    assert said.status == 500
    assert b"broken" not in said.body


def test_help_does_not_wait_for_the_webs_libraries() -> None:
    code = "import agent.cli, sys; print({'uvicorn', 'starlette', 'prometheus_client'} & {*sys.modules})"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"
