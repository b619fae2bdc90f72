"""Every error raised on purpose, and beside each leaf what its caller does about it.

AgentError
├── ConfigError            startup only; the CLI prints every problem and exits 2
├── Unreachable            no conversation with a VM; `fault` says why   → retry
│   ├── QmpUnreachable       with its monitor
│   └── LibvirtUnreachable   with libvirt, or libvirt with it
├── Declined               it understood and said no                     → keep the link
│   ├── QmpCommandError      QEMU
│   └── LibvirtRefused       libvirt
├── QmpError               one VM's monitor: the two above, and
│   └── QmpNotAllowed        outside the allow-list: never sent          → our bug
├── StateFileError         what is owed could not be read or written     → say so, go on
├── SpoolError             the spool's file; `fault` says why            → try again, or set it aside
├── CannotListen           startup only; the CLI prints it and exits 3
└── SinkError              one destination
    ├── OutputClosed         nobody will read more                       → end quietly
    └── SinkUnavailable      may succeed later; may carry a delay        → retry
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class LinkFault(StrEnum):
    """Why there is no conversation with a monitor. The words are reasons of the states contract."""

    MISSING = "missing"  # ENOENT: no such path
    REFUSED = "refused"  # ECONNREFUSED: a socket file nobody listens on
    DENIED = "denied"  # EACCES, EPERM
    BUSY = "busy"  # other clients wait already: EAGAIN, or they were seen; nothing of ours waits there
    SILENT = "silent"  # accepted, no greeting before the deadline: held, wedged or not QMP
    NOT_QMP = "not_qmp"  # speaks something else
    HUNG_UP = "hung_up"  # the peer closed, or the link broke
    NO_ANSWER = "no_answer"  # silent in the middle of a conversation; we left (`share`)
    FLOODING = "flooding"  # more events than any VM makes
    PROTOCOL = "protocol"  # broke the QMP protocol after its greeting
    DISCONNECTED = "disconnected"  # libvirt's daemon cannot be reached, or does not answer: QEMU may go on


class AgentError(Exception):
    """Base of every error raised on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the configuration: where, what, and the way out."""

    place: str  # "kafka.bootstrap_servers", "--interval", a file's path
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class ConfigError(AgentError):
    """The configuration cannot be used. Nothing was started."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Unreachable(AgentError):
    """There is no conversation with a VM, or it has ended. The link is dead."""

    def __init__(self, path: str, fault: LinkFault, detail: str) -> None:
        self.path = path
        self.fault = fault
        self.detail = detail
        super().__init__(f"{path}: {detail}")


class Declined(AgentError):
    """The question was understood, and the answer is no. The link stays usable."""


class LibvirtUnreachable(Unreachable):
    """DISCONNECTED: no conversation with libvirt. MISSING: it has no such domain running."""


class LibvirtRefused(Declined):
    """libvirt said no; the message has its words."""


class QmpError(AgentError):
    """Something about one VM's monitor."""


class QmpUnreachable(QmpError, Unreachable):
    """There is no conversation with a monitor, or it has ended. The link is dead."""


class QmpNotAllowed(QmpError):
    """A command or property outside the allow-list. Nothing was sent."""


class QmpCommandError(QmpError, Declined):
    """QEMU understood and said no. The link stays usable.

    `error_class` is QMP's: GenericError, DeviceNotFound, CommandNotFound, DeviceNotActive, KVMMissingCap.
    """

    def __init__(self, path: str, command: str, error_class: str, description: str) -> None:
        self.path = path
        self.command = command
        self.error_class = error_class
        self.description = description
        super().__init__(f"{path}: {command}: {error_class}: {description}")


class StateFileError(AgentError):
    """The state file could not be read or written."""


class SpoolFault(StrEnum):
    """Why the spool's file cannot be used."""

    FULL = "full"  # no room on the file system
    UNUSABLE = "unusable"  # it cannot be opened, read or written now: permissions, read-only, an I/O error
    DAMAGED = "damaged"  # not a database, or one with broken pages or rows
    FOREIGN = "foreign"  # a database of something else
    NEWER = "newer"  # of an agent newer than this one


SET_ASIDE = frozenset({SpoolFault.DAMAGED, SpoolFault.FOREIGN, SpoolFault.NEWER})
"""Trying again will not help: the file is kept under another name, and a new one made."""


class SpoolError(AgentError):
    """The spool's file could not be opened, read or written; nothing of what was asked has happened."""

    def __init__(self, path: str, fault: SpoolFault, detail: str) -> None:
        self.path = path
        self.fault = fault
        self.detail = detail
        super().__init__(f"{path}: {detail}")


class CannotListen(AgentError):
    """The address of `web.listen` cannot be had. Nothing was started."""


class SinkError(AgentError):
    """Something about one destination."""


class OutputClosed(SinkError):
    """The reader of our output has gone, as `head` does: nobody will read more. The agent ends quietly."""


class SinkUnavailable(SinkError):
    """The destination did not take the batch; it may later. Some of it may have arrived.

    `retry_after_s` is the delay the peer asked for; `None`: it asked for none.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)
