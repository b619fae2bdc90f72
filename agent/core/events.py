"""The poller of one VM: its phases, the events that occur, and the effects that it asks for."""

from enum import Enum

from msgspec import Struct

from agent.core.address import Address
from agent.core.ownership import IntervalChange
from agent.core.reading import Peer, Reading, Sample, SocketMark, StateEvent, VmId
from agent.core.shares import Owner
from agent.errors import LinkFault

# --- phases: what the poller is doing ---


class Away(Struct, frozen=True):
    """No link is open or being opened. `retry_at_ns` None: not before the socket is replaced."""

    retry_at_ns: int | None


class Opening(Struct, frozen=True):
    """A link is being opened. The edge has its own deadline for the greeting; this one is a backstop."""

    deadline_ns: int


class Idle(Struct, frozen=True):
    """A link is open and no question is in flight."""


class Question(Enum):
    """What QEMU, or the agent's own registry or ledger, is asked; one question at a time."""

    INTRODUCE = "introduce"  # identity, balloon, interval
    READ = "read"  # guest-stats
    CLAIM = "claim"  # the agent's registry of VM ids; answered by Done or Duplicate
    CHECK = "check"  # run state, interval, balloon
    ACTUAL = "actual"  # the balloon's size
    REMEMBER = "remember"  # record the interval change in the ledger before it is made
    SET_INTERVAL = "set_interval"


class Asking(Struct, frozen=True):
    """One question is in flight. It stays so past its deadline, until the late answer arrives."""

    question: Question
    asked_ns: int
    deadline_ns: int
    overdue: bool = False


class Retired(Struct, frozen=True):
    """The VM and its path are gone; every event is ignored."""


Phase = Away | Opening | Idle | Asking | Retired


# --- events: what has happened ---


class Opened(Struct, frozen=True):
    """The link is open. `change`: the recorded change of this process's interval, not restored yet."""

    mark: SocketMark
    change: IntervalChange | None = None
    peer: Peer | None = None  # None: not a process that the agent can see


class LinkFailed(Struct, frozen=True):
    """The link, or the attempt to open it, ended."""

    fault: LinkFault
    detail: str


class Given(Struct, frozen=True):
    """What a VM was given, as far as INTRODUCE or CHECK could find out. `None`: not known."""

    base_bytes: int | None = None
    plugged_bytes: int | None = None
    deflate_on_oom: bool | None = None  # also None where the balloon is the one of the check before
    resident_bytes: int | None = None  # of QEMU, from libvirt


NOTHING_GIVEN = Given()


class Introduced(Struct, frozen=True):
    """The answer to INTRODUCE."""

    uuid: str | None
    name: str | None
    run_state: str
    balloon_path: str | None
    interval_s: int | None  # None: no balloon
    actual_bytes: int | None
    given: Given = NOTHING_GIVEN


class Answered(Struct, frozen=True):
    """The answer to READ, decoded."""

    reading: Reading
    resident_bytes: int | None = None  # of QEMU: libvirt gives it with the statistics


class Checked(Struct, frozen=True):
    """The answer to CHECK."""

    run_state: str
    balloon_path: str | None
    interval_s: int | None
    given: Given = NOTHING_GIVEN


class ActualRead(Struct, frozen=True):
    """The answer to ACTUAL."""

    actual_bytes: int | None


class Done(Struct, frozen=True):
    """REMEMBER, SET_INTERVAL or CLAIM succeeded."""

    owner: Owner = None  # of the id that was claimed, if it is the owner of the VM


class Refused(Struct, frozen=True):
    """The question in flight was refused, or its answer made no sense; the link stays usable."""

    detail: str


class MonitorEventKind(Enum):
    """The events of a monitor that matter here, by QMP's names."""

    STOP = "STOP"
    RESUME = "RESUME"
    SUSPEND = "SUSPEND"  # to memory (S3): it comes without STOP or RESUME
    WAKEUP = "WAKEUP"
    RESET = "RESET"
    SHUTDOWN = "SHUTDOWN"
    DEVICE_DELETED = "DEVICE_DELETED"
    LOST = "OVERFLOW"  # events were dropped: any of them may have happened


class MonitorEvent(Struct, frozen=True):
    """The monitor, or libvirt in its place, sent an event."""

    kind: MonitorEventKind


class OthersWait(Struct, frozen=True):
    """Other clients wait to be accepted at the monitor of the open link."""


class OthersUnseen(Struct, frozen=True):
    """The kernel does not show which clients wait at the monitor of the open link."""


class BalloonChanged(Struct, frozen=True):
    """BALLOON_CHANGE: the guest has followed the balloon's target."""

    actual_bytes: int


LinkEvent = MonitorEvent | BalloonChanged | OthersWait | OthersUnseen
"""The events of a link: from QEMU or libvirt, and of its monitor's other clients."""


class PathSeen(Struct, frozen=True):
    """Discovery sees the VM's address, with this process behind it."""

    mark: SocketMark


class PathMissing(Struct, frozen=True):
    """Discovery no longer sees the VM's address."""


class PathRefused(Struct, frozen=True):
    """Discovery sees the VM's address, and it must not be used any more, or it makes room for others."""


class Duplicate(Struct, frozen=True):
    """Another address on this host holds this VM's id."""

    other: Address


class Displaced(Struct, frozen=True):
    """Another address has taken this VM's id, because the VM runs there now."""

    other: Address


class ClaimContested(Struct, frozen=True):
    """Another address has tried to claim this VM's id for an active VM."""


class ClaimFreed(Struct, frozen=True):
    """The address that held this VM's id may not hold it any more."""


class StateWanted(Struct, frozen=True):
    """The current state is requested, for a reader that has just started."""


class Tick(Struct, frozen=True):
    """Time has passed."""


Event = (
    Opened
    | LinkFailed
    | Introduced
    | Answered
    | Checked
    | ActualRead
    | Done
    | Refused
    | MonitorEvent
    | BalloonChanged
    | PathSeen
    | PathMissing
    | PathRefused
    | OthersWait
    | OthersUnseen
    | Duplicate
    | Displaced
    | ClaimContested
    | ClaimFreed
    | StateWanted
    | Tick
)


# --- effects: what to do ---


class OpenLink(Struct, frozen=True):
    """Connect and wait for the greeting.

    `look_first`: not if other connections wait to be accepted. `mark`: only to this socket, which discovery
    has judged; `None`: to any.
    """

    look_first: bool = False
    mark: SocketMark | None = None


class CloseLink(Struct, frozen=True):
    """Close the link at once, whatever is in flight."""


class Ask(Struct, frozen=True):
    """Ask a question. REMEMBER needs `change`, SET_INTERVAL `interval_s`, CLAIM `id` and `active`."""

    question: Question
    balloon_path: str | None = None
    interval_s: int | None = None
    change: IntervalChange | None = None
    id: VmId | None = None
    active: bool = True  # the VM may take the id from one that is not


class Disclaim(Struct, frozen=True):
    """Release the VM's id: another address may claim it."""


class Forget(Struct, frozen=True):
    """Remove this process's recorded interval change: it has quit, or the interval is no longer ours."""

    mark: SocketMark


class EmitSample(Struct, frozen=True):
    """Emit a sample."""

    sample: Sample


class EmitState(Struct, frozen=True):
    """Emit a state event: a change of state, or a heartbeat."""

    event: StateEvent


class Counted(Enum):
    """The kinds of readings that are counted."""

    REPEAT = "repeat"
    COALESCED = "coalesced"
    MISSED = "missed"


class CountReading(Struct, frozen=True):
    """Add `amount` to this counter."""

    counted: Counted
    amount: int = 1


class FoundNoCounters(Struct, frozen=True):
    """Log that these statistics fall although they should only grow; they decide no epoch any more."""

    statistics: frozenset[str]


class Retire(Struct, frozen=True):
    """End the VM's task."""


Effect = (
    OpenLink
    | CloseLink
    | Ask
    | Disclaim
    | Forget
    | EmitSample
    | EmitState
    | CountReading
    | FoundNoCounters
    | Retire
)
