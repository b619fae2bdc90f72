"""Connects to a libvirt once, for `barograph doctor`. Blocks, perhaps for ever: call it in a thread."""

from glob import iglob
from itertools import islice

from agent.core.doctor.backends import LibvirtFact
from agent.core.reading import IntervalPolicy
from agent.errors import LibvirtUnreachable
from agent.libvirt.api import open_connection
from agent.libvirt.relay import MESSAGE_MAX_BYTES
from agent.libvirt.targets import Place

SOCKETS_MAX = 32
"""Sockets of one glob that are connected to."""

_DENIED = ("denied", "authenticat", "polkit", "not permitted", "permission")


def targets(place: Place) -> list[str]:
    """Return the URI, or the sockets that match the glob. Only one more than the bound is returned."""
    if place.uri is not None:
        return [place.uri]
    return sorted(islice(iglob(place.sockets or "", recursive=True), SOCKETS_MAX))


def reach(target: str, policy: IntervalPolicy) -> LibvirtFact:
    """Connect as the agent does under this policy; if that fails, try a read-only connection."""
    read_only = policy is IntervalPolicy.OBSERVE
    try:
        _connect(target, read_only=read_only)
    except LibvirtUnreachable as error:
        denied = any(word in error.detail.lower() for word in _DENIED)
        return LibvirtFact(target, error.detail, reads=not read_only and _reads(target), is_denied=denied)
    return LibvirtFact(target)


def _reads(target: str) -> bool:
    try:
        _connect(target, read_only=True)
    except LibvirtUnreachable:
        return False
    return True


def _connect(target: str, *, read_only: bool) -> None:
    message_max_bytes = None if "://" in target else MESSAGE_MAX_BYTES
    open_connection(target, read_only=read_only, message_max_bytes=message_max_bytes).close()
