"""Every error that is raised on purpose, with what its caller does about it.

AgentError
├── ConfigError            at start or reload; the CLI prints every problem and exits 2
├── Unreachable            no link to a VM; `fault` is the reason        → retry
│   ├── QmpUnreachable       its monitor
│   │   └── SocketReplaced     another socket is at its path               → discovery judges it first
│   └── LibvirtUnreachable   libvirt, or the domain in it
├── Declined               the request was refused                       → keep the link
│   ├── QmpCommandError      by QEMU
│   └── LibvirtRefused       by libvirt
├── QmpError               one monitor: QmpUnreachable, QmpCommandError, and
│   └── QmpNotAllowed        not in the allow-list, never sent            → a bug of ours
├── StateFileError         the ledger could not be read or written       → report, continue
├── SpoolError             the spool's file; `fault` is the reason       → retry, or set it aside
├── CannotListen           at start only; the CLI prints it and exits 3
└── SinkError              one destination
    ├── OutputClosed         the reader of stdout has gone               → exit quietly
    └── SinkUnavailable      may succeed later, perhaps after a delay    → retry
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class LinkFault(StrEnum):
    """Why there is no link to a VM. The values are reasons in the contract of states."""

    MISSING = "missing"  # ENOENT: no such path
    REFUSED = "refused"  # ECONNREFUSED: no listener on the socket
    DENIED = "denied"  # EACCES, EPERM
    BUSY = "busy"  # other clients are waiting (EAGAIN, or they were seen); none of our connections is
    SILENT = "silent"  # connected, no greeting before the deadline: in use, hung, or not QMP
    NOT_QMP = "not_qmp"  # another protocol
    NOT_A_VM = "not_a_vm"  # QMP without the commands of a VM, as of qemu-storage-daemon
    HUNG_UP = "hung_up"  # the peer closed the connection, or it broke
    NO_ANSWER = "no_answer"  # no answer on an open link, which we closed (`share`)
    FLOODING = "flooding"  # more events than any VM emits
    PROTOCOL = "protocol"  # violated QMP after the greeting
    DISCONNECTED = "disconnected"  # the libvirt daemon is unreachable or does not answer; QEMU may be fine


class AgentError(Exception):
    """Base of every error that is raised on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of the configuration: its place, and a message: what is wrong; what to do."""

    place: str  # "kafka.bootstrap_servers", "--interval", a file's path
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class ConfigError(AgentError):
    """The configuration is invalid. Nothing was started, or, at a reload, nothing was changed."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Unreachable(AgentError):
    """There is no link to a VM, or it has ended. The link is not usable any more."""

    def __init__(self, path: str, fault: LinkFault, detail: str) -> None:
        self.path = path
        self.fault = fault
        self.detail = detail
        super().__init__(f"{path}: {detail}")


class Declined(AgentError):
    """The request was understood and refused. The link stays usable."""


class LibvirtUnreachable(Unreachable):
    """The fault DISCONNECTED: libvirt is unreachable. MISSING: the domain is not running."""


class LibvirtRefused(Declined):
    """libvirt refused the request; the message is from libvirt."""


class QmpError(AgentError):
    """An error of one monitor."""


class QmpUnreachable(QmpError, Unreachable):
    """There is no link to a monitor, or it has ended. The link is not usable any more."""


class SocketReplaced(QmpUnreachable):
    """The path leads to another socket than discovery has judged. Nothing was connected."""

    def __init__(self, path: str) -> None:
        detail = "another socket is at the path now; the agent waits for the next scan"
        super().__init__(path, LinkFault.HUNG_UP, detail)


class QmpNotAllowed(QmpError):
    """A command or property is not in the allow-list. Nothing was sent."""


class QmpCommandError(QmpError, Declined):
    """QEMU refused the command. The link stays usable.

    `error_class` is QMP's: GenericError, DeviceNotFound, CommandNotFound, DeviceNotActive, KVMMissingCap.
    """

    def __init__(self, path: str, command: str, error_class: str, description: str) -> None:
        self.path = path
        self.command = command
        self.error_class = error_class
        self.description = description
        super().__init__(f"{path}: {command}: {error_class}: {description}")


class StateFileError(AgentError):
    """The ledger or the state directory could not be read or written, or is of a newer version."""


class SpoolFault(StrEnum):
    """Why the file of the spool cannot be used; the value is for people."""

    FULL = "disk full"  # no space on the file system
    UNUSABLE = "disk error, or no permission"  # now: it cannot be opened, read or written
    DAMAGED = "file damaged"  # not a database, or one with broken pages or rows
    FOREIGN = "file of another program"  # a database of another program
    NEWER = "file of a newer agent"  # written by a newer agent, and left to it
    OLDER = "file of an older agent"  # in a format that is not read any more


SET_ASIDE = frozenset({SpoolFault.DAMAGED, SpoolFault.FOREIGN, SpoolFault.OLDER})
"""Faults that a retry cannot fix: the file is renamed, and a new one is created."""


class SpoolError(AgentError):
    """The file of the spool could not be opened, read or written. The operation had no effect."""

    def __init__(self, path: str, fault: SpoolFault, detail: str) -> None:
        self.path = path
        self.fault = fault
        self.detail = detail
        super().__init__(f"{path}: {detail}")


class CannotListen(AgentError):
    """The agent cannot listen on the address of `web.listen`. Nothing was started."""


class SinkError(AgentError):
    """An error of one destination."""


class OutputClosed(SinkError):
    """The reader of stdout has closed it, as `head` does. The agent exits quietly."""


class SinkUnavailable(SinkError):
    """The destination did not accept the batch, but may later. Part of the batch may have arrived.

    `retry_after_s` is the delay that the peer requested; `None`: none requested.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)
