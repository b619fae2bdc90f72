"""What users say about where libvirt is, as values."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from agent.core.reading import IntervalPolicy

WAY_TO_GET_IT = "libvirt-python is not installed: pip install 'barograph[libvirt]'"

_SCHEMES = ("qemu", "qemu+unix", "test")
_DAEMONS = ("/system", "/session")


@dataclass(frozen=True, slots=True)
class Place:
    """One libvirt, or as many as sockets match. One of `uri` and `sockets` is given."""

    uri: str | None = None
    sockets: str | None = None  # a glob, as for monitors
    # Who decides the intervals of its domains. OBSERVE: the connection is a read-only one.
    policy: IntervalPolicy = IntervalPolicy.FILL


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where libvirt is, and how it is talked to."""

    places: tuple[Place, ...]
    # A domain that came or went unheard is found by then.
    rescan_s: float = 10.0


def mistakes(uri: str) -> Iterator[str]:
    """Yield what is wrong with a URI, each with the way out; nothing: it can be used.

    Source: libvirt, docs/uri.rst.
    """
    example = "write qemu:///system, or qemu+unix:///system?socket=/path"
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        yield f"{uri!r} is not a URI ({error}): {example}"
        return
    if parts.scheme not in _SCHEMES:
        yield f"{uri!r} does not name QEMU's driver of a libvirt on this host: {example}"
    elif parts.netloc:
        yield f"{uri!r} names another host: one agent per hypervisor; {example}"
    elif parts.scheme != "test" and parts.path not in _DAEMONS:
        yield f"{uri!r} names neither /system nor /session: {example}"
    elif parts.fragment or "#" in uri:
        yield f"{uri!r} has a fragment: end it before the #"
    elif any(not each.startswith("/") for each in parse_qs(parts.query).get("socket", ())):
        yield f"{uri!r} names a socket that is not an absolute path: {example}"


def uri_of_socket(path: str, owner_id: int) -> str:
    """Return the URI of the libvirt behind a socket.

    A daemon of root's is `system`, one of another user's `session` (libvirt, qemu_driver.c,
    qemuConnectURICheck); it makes its socket itself, so whose the socket is tells.
    """
    return f"qemu+unix:///{'session' if owner_id else 'system'}?socket={path}"


def socket_of(uri: str) -> str | None:
    """Return the socket that a URI names."""
    return next(iter(parse_qs(urlsplit(uri).query).get("socket", ())), None)


def owner_of(path: str) -> int:
    """Return the id of the user whose the socket is; 0 where it has just gone."""
    try:
        return os.stat(path).st_uid
    except OSError:
        return 0
