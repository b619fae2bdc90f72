"""The libvirts to connect to: settings, and the URIs of sockets."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from agent.core.reading import IntervalPolicy
from agent.libvirt.qmp_terms import NO_SOURCES, LabelSources

NOT_INSTALLED = (
    "libvirt-python is not installed; install it with the wheel of the release: "
    "pip install './barograph-VERSION-py3-none-any.whl[libvirt]'"
)

_SCHEMES = ("qemu", "qemu+unix", "test")
_POD = re.compile(r"^/var/lib/kubelet/pods/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/volumes/")
_DAEMONS = ("/system", "/session")


@dataclass(frozen=True, slots=True)
class Place:
    """One libvirt, or all whose sockets match. Exactly one of `uri` and `sockets` is set."""

    uri: str | None = None
    sockets: str | None = None  # a glob, as for monitors
    # For the intervals of its domains. OBSERVE: the connection is read-only.
    policy: IntervalPolicy = IntervalPolicy.FILL
    interval_s: int | None = None  # the interval to set; None: that of all VMs
    label_sources: LabelSources = NO_SOURCES


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Which libvirts to connect to, and how often to list their domains."""

    places: tuple[Place, ...]
    # How often domains are listed again, in case an event was missed.
    rescan_s: float = 10.0


def mistakes(uri: str) -> Iterator[str]:
    """Yield what is wrong with a URI and what to do; nothing: it can be used.

    Source: libvirt, docs/uri.rst.
    """
    example = "write qemu:///system, or qemu+unix:///system?socket=/path"
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        yield f"{uri!r} is not a URI ({error}); {example}"
        return
    if parts.scheme not in _SCHEMES:
        yield f"{uri!r} is not a URI of the QEMU driver on this host; {example}"
    elif parts.netloc:
        yield f"{uri!r} names another host: run an agent there; {example}"
    elif parts.scheme != "test" and parts.path not in _DAEMONS:
        yield f"{uri!r} has neither the path /system nor /session; {example}"
    elif parts.fragment or "#" in uri:
        yield f"{uri!r} has a fragment; remove the # and what follows it"
    elif any(not each.startswith("/") for each in parse_qs(parts.query).get("socket", ())):
        yield f"{uri!r} has a socket that is not an absolute path; {example}"


def uri_of_socket(path: str, owner_id: int) -> str:
    """Return the URI of the libvirt behind a socket.

    root's daemon is `system`, another user's is `session` (libvirt, qemu_driver.c, qemuConnectURICheck). The
    daemon creates its socket itself, so the socket's owner is the daemon's user.
    """
    return f"qemu+unix:///{'session' if owner_id else 'system'}?socket={path}"


def socket_of(uri: str) -> str | None:
    """Return the socket in a URI; `None`: it has none."""
    return next(iter(parse_qs(urlsplit(uri).query).get("socket", ())), None)


def pod_of(uri: str) -> str | None:
    """Return the uid of the pod that a socket belongs to; `None`: it is in no volume of a pod.

    kubelet chooses the path, so the pod cannot claim another uid (kubernetes pkg/kubelet/config/defaults.go).
    """
    found = _POD.search(socket_of(uri) or "")
    return None if found is None else found[1]


def owner_of(path: str) -> int:
    """Return the id of the user who owns the socket; 0 if it has just been removed."""
    try:
        return os.stat(path).st_uid
    except OSError:
        return 0
