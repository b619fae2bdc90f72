"""The proxy to a backend, from the variables that other programs read too. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and the variable that names it."""

    url: str = field(repr=False)  # may have a user name and a password
    variable: str


def proxy_for(endpoint: str, environ: Mapping[str, str]) -> Proxy | None:
    """Return the proxy for a URL; `None`: the connection is direct.

    `HTTPS_PROXY` is for https://, `HTTP_PROXY` for http://, `ALL_PROXY` for both; the form in lower case
    comes first. `NO_PROXY` has the hosts without a proxy.

    Raises:
        ValueError: the proxy cannot be used; the message starts with the variable, and has no secret.
    """
    url = urlsplit(endpoint)
    names = (f"{url.scheme}_proxy", "all_proxy")
    variables = [each for name in names for each in (name, name.upper()) if environ.get(each)]
    if not variables or _is_excluded(url.hostname or "", url.port or _DEFAULT_PORTS[url.scheme], environ):
        return None
    variable = variables[0]
    written = environ[variable]
    return Proxy(_checked(written if "://" in written else f"http://{written}", variable), variable)


def _checked(written: str, variable: str) -> str:
    remedy = "write http://HOST:PORT, or add the backend's host to NO_PROXY"
    try:
        proxy = urlsplit(written)
        usable = proxy.scheme == "http" and proxy.hostname and (proxy.port or 80)
    except ValueError:
        usable = False
    if not usable or not written.isascii() or not written.isprintable() or " " in written:
        raise ValueError(f"{variable}: not the URL of an HTTP proxy; {remedy}")
    return written


def _is_excluded(host: str, port: int, environ: Mapping[str, str]) -> bool:
    entries = (environ.get("no_proxy") or environ.get("NO_PROXY") or "").replace(",", " ").split()
    return any(_matches(entry.lower(), host.lower().rstrip("."), port) for entry in entries)


def _matches(entry: str, host: str, port: int) -> bool:
    """Return whether an entry covers the host: `*`, a name and those below it, an address, or a network."""
    if entry == "*":
        return True
    try:
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass  # one of the two is a name, or the entry has a port
    name, colon, of_port = entry.rpartition(":")
    if colon and of_port.isdecimal() and "]" not in of_port:
        if int(of_port) != port:
            return False
        entry = name
    entry = entry.strip("[]").lstrip("*").lstrip(".")
    return bool(entry) and (host == entry or host.endswith(f".{entry}"))
