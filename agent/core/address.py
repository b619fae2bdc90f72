"""Where a VM is reached: by its own monitor, or through libvirt.

An address is made in discovery and carried as a value. Its text is what is stored and emitted: in the ledger,
the VMs' memories, `path` of the state events, and the ids made from it. `parse_address` reads stored text
back.
"""

import re
from enum import StrEnum
from typing import ClassVar
from zlib import crc32

from msgspec import Struct


class Via(StrEnum):
    """How a VM is reached."""

    QMP = "qmp"  # by its own monitor
    LIBVIRT = "libvirt"  # which owns the monitor


class MonitorPath(Struct, frozen=True):
    """A monitor's socket, as the glob has it."""

    via: ClassVar[Via] = Via.QMP

    path: str

    def __str__(self) -> str:
        return self.path


class Domain(Struct, frozen=True):
    """A domain of one libvirt."""

    via: ClassVar[Via] = Via.LIBVIRT

    uri: str  # of the connection; without a fragment
    uuid: str

    def __str__(self) -> str:
        return f"{self.uri}#{self.uuid}"


Address = MonitorPath | Domain


def parse_address(text: str) -> Address:
    """Return the address with this text: a URI and a uuid name a domain, anything else is a socket's path."""
    uri, _, uuid = text.rpartition("#")
    if text.startswith("/") or "://" not in uri:
        return MonitorPath(text)
    return Domain(uri, uuid)


def place_of(address: Address) -> float:
    """Return a number in [0, 1) that is the same at each start and differs from VM to VM.

    What is due for many VMs at once is spread by it.
    """
    return crc32(str(address).encode(errors="surrogateescape")) / 2**32


_OTHER_SOCKET = re.compile(
    r"@|\0|(tcp|vsock|inet|telnet|websocket|udp|fd|pipe|pty|file):|[\w.-]+:\d+$|\[[\da-fA-F:]+\]:\d+$"
)
_OPTIONS = re.compile(r"(unix:)?(?P<path>[^,]*)(,(server|wait|nowait|path)\b.*)?")


def mistake_in_path(written: str) -> str | None:
    """Return what is wrong with an address that was given as the path of a monitor; `None`: nothing known.

    People copy the address from QEMU's command line, where it may also be a TCP, vsock or abstract socket.
    """
    if _OTHER_SOCKET.match(written):
        return (
            f"{written!r} is not a path: only Unix sockets on disk are watched; add a second monitor to QEMU,"
            " as in -qmp unix:/run/vm/NAME.qmp,server=on,wait=off"
        )
    options = _OPTIONS.fullmatch(written)
    if options is not None and options["path"] != written:
        return f"{written!r} is an option of QEMU and not a path; write only the path, {options['path']!r}"
    return None
