"""What one VM's poller goes through: its phases, the events that happen to it, the effects it asks for."""

from dataclasses import dataclass
from enum import Enum

from msgspec import Struct

from agent.core.address import Address
from agent.core.ownership import IntervalChange
from agent.core.reading import Reading, Sample, SocketMark, StateEvent, VmId
from agent.errors import LinkFault

# --- phases: what is under way ---


@dataclass(frozen=True, slots=True)
class Away:
    """No link and none being opened. `retry_at_ns` None: not before the socket is replaced."""

    retry_at_ns: int | None


@dataclass(frozen=True, slots=True)
class Opening:
    """A link is being opened. The edge gives up after its greeting deadline; this one is a backstop."""

    deadline_ns: int


@dataclass(frozen=True, slots=True)
class Idle:
    """A link is open and nothing is in flight."""


class Question(Enum):
    """What QEMU, or our own memory, is asked: one at a time."""

    INTRODUCE = "introduce"  # who are you, is there a balloon, what is the interval
    READ = "read"  # guest-stats
    CLAIM = "claim"  # our own registry: is this id ours; answered by Done or Duplicate
    CHECK = "check"  # run state, interval, balloon
    ACTUAL = "actual"  # the balloon's size
    REMEMBER = "remember"  # write down what we are about to change
    SET_INTERVAL = "set_interval"


class Asking(Struct, frozen=True):
    """One question is in flight. Past its deadline it stays so: the late answer ends the silence."""

    question: Question
    asked_ns: int
    deadline_ns: int
    overdue: bool = False


@dataclass(frozen=True, slots=True)
class Retired:
    """The VM is gone and its path with it; nothing more will happen."""


Phase = Away | Opening | Idle | Asking | Retired


# --- events: what happened ---


@dataclass(frozen=True, slots=True)
class Opened:
    """The link is open. `change`: the recorded change of this process's interval, not restored yet."""

    mark: SocketMark
    change: IntervalChange | None = None


@dataclass(frozen=True, slots=True)
class LinkFailed:
    """The link, or the attempt at it, ended."""

    fault: LinkFault
    detail: str


@dataclass(frozen=True, slots=True)
class Introduced:
    """The answer to INTRODUCE."""

    uuid: str | None
    name: str | None
    run_state: str
    balloon_path: str | None
    interval_s: int | None  # None: no balloon
    actual_bytes: int | None


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to READ, decoded."""

    reading: Reading


@dataclass(frozen=True, slots=True)
class Checked:
    """The answer to CHECK."""

    run_state: str
    balloon_path: str | None
    interval_s: int | None


@dataclass(frozen=True, slots=True)
class ActualRead:
    """The answer to ACTUAL."""

    actual_bytes: int | None


@dataclass(frozen=True, slots=True)
class Done:
    """REMEMBER, SET_INTERVAL or CLAIM succeeded."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The question in flight got no for an answer, or one that made no sense; the link is fine."""

    detail: str


class MonitorEventKind(Enum):
    """The events of a monitor that matter here, by QMP's names."""

    STOP = "STOP"
    RESUME = "RESUME"
    SUSPEND = "SUSPEND"  # to memory (S3): neither STOP nor RESUME come with it
    WAKEUP = "WAKEUP"
    RESET = "RESET"
    SHUTDOWN = "SHUTDOWN"
    DEVICE_DELETED = "DEVICE_DELETED"
    LOST = "OVERFLOW"  # events were dropped: any of them may have happened


@dataclass(frozen=True, slots=True)
class MonitorEvent:
    """The monitor, or libvirt in its place, sent an event."""

    kind: MonitorEventKind


@dataclass(frozen=True, slots=True)
class BalloonChanged:
    """BALLOON_CHANGE: the guest has followed the balloon's target."""

    actual_bytes: int


LinkEvent = MonitorEvent | BalloonChanged
"""What a link gives unasked."""


@dataclass(frozen=True, slots=True)
class PathSeen:
    """Discovery sees the path, with this socket behind it."""

    mark: SocketMark


@dataclass(frozen=True, slots=True)
class PathMissing:
    """Discovery does not see the path any more."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Another link on this host has this uuid."""

    other: Address


@dataclass(frozen=True, slots=True)
class Tick:
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
    | Duplicate
    | Tick
)


# --- effects: what to do ---


@dataclass(frozen=True, slots=True)
class OpenLink:
    """Connect and wait for the greeting. `look_first`: unless somebody is seen to wait there already."""

    look_first: bool = False


@dataclass(frozen=True, slots=True)
class CloseLink:
    """Leave at once, whatever is in flight."""


class Ask(Struct, frozen=True):
    """Ask a question. REMEMBER needs `change`, SET_INTERVAL `interval_s`, CLAIM `id`."""

    question: Question
    balloon_path: str | None = None
    interval_s: int | None = None
    change: IntervalChange | None = None
    id: VmId | None = None


@dataclass(frozen=True, slots=True)
class Disclaim:
    """This link has its id no longer: another one may claim it."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Remove this process's recorded interval change: it has quit, or the interval is no longer ours."""

    mark: SocketMark


@dataclass(frozen=True, slots=True)
class EmitSample:
    """The change event."""

    sample: Sample


@dataclass(frozen=True, slots=True)
class EmitState:
    """A change of state, or a heartbeat."""

    event: StateEvent


class Counted(Enum):
    """What a reading was, for the counters."""

    REPEAT = "repeat"
    COALESCED = "coalesced"
    MISSED = "missed"


@dataclass(frozen=True, slots=True)
class CountReading:
    """Count `amount` of it."""

    counted: Counted
    amount: int = 1


@dataclass(frozen=True, slots=True)
class Retire:
    """End the VM's task; all was said."""


Effect = OpenLink | CloseLink | Ask | Disclaim | Forget | EmitSample | EmitState | CountReading | Retire
