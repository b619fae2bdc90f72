"""Tests of which names of the host a client may use, and which are refused."""

import socket
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from agent.web.hosts import AllowedHosts, names_of_this_host
from agent.web.server import open_web
from agent.web.web_settings import Settings
from tests.unit.web.client import ask


async def hello(_: Request) -> Response:
    return PlainTextResponse("hello")


APP = Starlette(routes=[Route("/", hello)])


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1:19464", "10.244.1.7:19464", "10.0.0.1", "[::1]:19464", "[fe80::1]", "::1"),
        *("localhost", "LOCALHOST:19464", "localhost.", "agent.localhost", "barograph:19464", "node-7"),
        *(
            "node-7.example.net:19464",
            "Node-7.Example.Net.",
            "a.proxies.example.net",
            "a.b.proxies.example.net",
        ),
    ],
)
def test_addresses_local_names_and_configured_names_are_allowed(host: str) -> None:
    assert AllowedHosts(["node-7.example.net", "*.proxies.example.net"]).permit(host)


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:19464", "node-7.example.net.evil.example", "proxies.example.net"),
        *(
            "evilproxies.example.net",
            "127.0.0.1.evil.example",
            "127.0.0.1:19464.evil.example",
            "localhost.evil",
        ),
        *("", ":19464", "evil.example:x", "0x7f.1", "[evil.example]", "a:b:c"),
    ],
)
def test_a_name_that_a_website_can_have_is_refused(host: str) -> None:
    assert not AllowedHosts(["node-7.example.net", "*.proxies.example.net"]).permit(host)
    assert AllowedHosts(["*"]).permit(host)


def test_the_names_of_this_host_are_found_without_a_name_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "node-7")
    hosts, resolver = tmp_path / "hosts", tmp_path / "resolv.conf"
    hosts.write_text(
        "127.0.0.1 localhost\n10.0.0.7 metrics.example.org node-7 # its alias\n10.0.0.8 node-8.example.org\n"
    )
    resolver.write_text("nameserver 10.0.0.53\nsearch example.net corp.example.net\n")

    assert set(names_of_this_host(hosts, resolver)) == {
        *("node-7", "node-7.example.net", "node-7.corp.example.net", "metrics.example.org"),
    }
    assert list(names_of_this_host(tmp_path / "none", tmp_path / "none")) == ["node-7"]


async def test_a_refusal_names_the_setting_and_repeats_no_markup() -> None:
    settings = Settings(host="127.0.0.1", port=0, allowed_hosts=("proxy.example.net",))
    async with open_web(settings, APP) as url:
        answers = [
            await ask(url, "/", host=host)
            for host in ("127.0.0.1:1", "proxy.example.net", socket.gethostname())
        ]
        refused = await ask(url, "/", host="evil.example")

    assert [each.status for each in answers] == [200, 200, 200]
    assert refused.status == 421
    assert refused.body == (
        b"web.allowed_hosts: 'evil.example' is not a known name of this host; add it, or use the address\n"
    )
    assert refused.headers["content-type"].startswith("text/plain")
    assert refused.headers["x-content-type-options"] == "nosniff"
