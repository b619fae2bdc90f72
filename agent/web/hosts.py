"""The names that a client may use for the agent's HTTP server, in the header `Host`.

A website can let its own name resolve to the agent's address and then read the answers in a visitor's browser
(DNS rebinding). The browser sends the name of the website in `Host`, so names that a website can have are
refused unless they are configured or known to be this host's. An address cannot be rebound. A name without a
dot, or below `localhost` (RFC 6761), is resolved by the local resolver only.
"""

import ipaddress
import socket
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_SHOWN_MAX = 100
_FILE_MAX_CHARACTERS = 1 << 20


class AllowedHosts:
    """The names; `*.example.net` stands for all names below `example.net`, `*` for all names."""

    def __init__(self, names: Collection[str]) -> None:
        lower = {name.lower().rstrip(".") for name in names}
        self._exact = frozenset(lower)
        self._suffixes = tuple(name.removeprefix("*") for name in lower if name.startswith("*."))

    def permit(self, host: str) -> bool:
        """Return whether a client may use this value of `Host`: a name or an address, perhaps with a port."""
        name = _without_port(host.strip()).lower().rstrip(".")
        return (
            "*" in self._exact
            or name in self._exact
            or (name != "" and "." not in name and ":" not in name)
            or name.endswith((".localhost", *self._suffixes))
            or _is_address(name)
        )


def guarded(app: ASGIApp, hosts: AllowedHosts) -> ASGIApp:
    """Return `app` with requests to other hosts refused. A request without `Host` is no browser's."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for name, value in scope["headers"]:
                host = value.decode("latin-1")
                if name == b"host" and not hosts.permit(host):
                    await _refusal(host)(scope, receive, send)
                    return
        await app(scope, receive, send)

    return answer


def names_of_this_host(
    hosts_file: Path = Path("/etc/hosts"), resolver_file: Path = Path("/etc/resolv.conf")
) -> Iterator[str]:
    """Yield the host's name, with the local domains, and its aliases. Asks no name server."""
    name = socket.gethostname()
    short = name.partition(".")[0]
    yield name
    for words in _lines(resolver_file):
        if words[0] in ("search", "domain"):
            yield from (f"{short}.{domain}" for domain in words[1:])
    for words in _lines(hosts_file):
        if name in words[1:] or short in words[1:]:
            yield from words[1:]


def _lines(file: Path) -> Iterator[list[str]]:
    with suppress(OSError, UnicodeDecodeError), file.open() as opened:
        for line in opened.read(_FILE_MAX_CHARACTERS).splitlines():
            if words := line.partition("#")[0].split():
                yield words


def _refusal(host: str) -> PlainTextResponse:
    text = (
        f"web.allowed_hosts: {host[:_SHOWN_MAX]!a} is not a known name of this host; "
        "add it, or use the address\n"
    )
    return PlainTextResponse(text, status_code=421, headers={"x-content-type-options": "nosniff"})


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, _, port = host.rpartition(":")
    return name if name and port.isdecimal() and ":" not in name else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
