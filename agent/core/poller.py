"""What is known of one VM. Made by `begin`; changed by core/polling.step and what it calls."""

from collections.abc import Mapping
from dataclasses import dataclass

from msgspec import Struct, field
from msgspec.structs import replace

from agent.core import epochs
from agent.core.address import Address
from agent.core.epochs import History
from agent.core.events import Away, Phase
from agent.core.memory import Memory
from agent.core.ownership import Ownership
from agent.core.pacing import Pace
from agent.core.reading import (
    NO_LABELS,
    Access,
    Balloon,
    IntervalPolicy,
    SocketMark,
    State,
    VmId,
    VmIdentity,
)
from agent.core.states import Judgement
from agent.errors import LinkFault

SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PollSettings:
    """What the operator decides about polling."""

    interval_s: int = 10  # whole seconds, as QEMU takes them
    policy: IntervalPolicy = IntervalPolicy.FILL
    stall_deadline_ns: int | None = None  # None: max(3 x interval, interval + 5 s), on the VM's running time
    heartbeat_ns: int = 300 * SECOND_NS  # how often an unchanged state is repeated
    reading_deadline_ns: int = SECOND_NS  # then the VM is unreachable; the reading stays in flight
    recheck_ns: int = 30 * SECOND_NS  # how often interval and run state are read again
    set_again_ns: int = 60 * SECOND_NS  # the pause before an interval that somebody set back is set once more
    # Polling is switched on (0 to N asks at once) within so long of finding a VM, at a place of its own:
    # else the guests of a host whose agent starts would all answer at one moment, now and ever after.
    spread_ns: int = 0
    visit_ns: int = 80_000_000  # in `share`: leave before a second tool notices (100 ms is the promise)


@dataclass(frozen=True, slots=True)
class Clock:
    """Time that can stand still. `since_ns` None: it stands."""

    total_ns: int = 0
    since_ns: int | None = None

    def read(self, mono_ns: int) -> int:
        """Return the time that has passed on it."""
        return self.total_ns if self.since_ns is None else self.total_ns + mono_ns - self.since_ns

    def run(self, running: bool, mono_ns: int) -> "Clock":
        """Let it run, or stand still, from `mono_ns` on."""
        if running == (self.since_ns is not None):
            return self
        return Clock(self.read(mono_ns), mono_ns if running else None)

    def when(self, reads_ns: int) -> int | None:
        """Return when (monotonic) it will read `reads_ns`, 0 where it does already; `None`: it stands."""
        if reads_ns <= self.total_ns:
            return 0
        return None if self.since_ns is None else self.since_ns + reads_ns - self.total_ns


@dataclass(frozen=True, slots=True)
class Announced:
    """What was said of this VM last."""

    judgement: Judgement
    since_ms: int
    previous: State | None
    heartbeat_at_ns: int


class Poller(Struct, frozen=True):
    """Everything that is known of one VM. Made by `begin`, changed by `step` alone.

    A `Struct`, as are its parts that are replaced at every event: `dataclasses.replace` of so many fields
    takes 8 µs, some nine times for each sample; msgspec's takes 0.5 µs.
    """

    address: Address
    path_id: VmId  # its id where QEMU has no uuid
    access: Access
    given_name: str | None
    labels: Mapping[str, str]
    phase: Phase
    # the link
    path_present: bool = True
    seen_mark: SocketMark | None = None  # what discovery saw last at the path
    greeted: SocketMark | None = None  # the process of this link, or of the last one
    answered: bool = False  # it has introduced itself and its id is ours
    fault: LinkFault | None = None
    fault_detail: str = ""
    failures: int = 0  # in a row; forgotten once a conversation has lasted
    in_touch_since_ns: int | None = None  # since when links open and nothing fails
    other_address: Address | None = None
    visit_ends_ns: int | None = None  # in `share`, while the link is open
    kept_out_since_ns: int | None = None  # in `share`: others are inside, and what we know still stands
    # the VM
    identity: VmIdentity | None = None
    run_state: str | None = None
    balloon_path: str | None = None
    interval_s: int = 0
    balloon: Balloon | None = None
    rebooted: bool = False
    reset_unread: bool = False  # the next reading may still show the boot before
    check_at_ns: int = 0
    no_check_before_ns: int = 0  # whatever happens: see asking.CHECK_SPACING_NS
    actual_at_ns: int | None = None
    ownership: Ownership = field(default_factory=Ownership)
    set_to_s: int | None = None  # the interval is to be set to this next
    set_at_ns: int = 0  # and not before
    remembered: bool = False  # and that is written down
    # its updates; instants on `running`, the VM's own time as far as we know
    running: Clock = field(default_factory=Clock)
    watched: Clock = field(default_factory=Clock)  # the same, but only while we were in conversation
    pace: Pace | None = None
    history: History = field(default_factory=History)
    history_id: VmId | None = None  # whose history it is
    read_at_ns: int | None = None  # the last reading of this device
    read_mono_ns: int | None = None  # the same on the monotonic clock, also where an earlier run took it
    updated_at_ns: int | None = None  # the last update seen
    interval_read_at_ns: int = 0  # when the interval was asked last
    updates_since: int = 0  # seen since then
    overwritten: int = 0  # at most; the next sample carries it
    quiet_since_ns: int = 0  # on `watched`: the last update, or since when one is due
    advancing: bool = False
    # what was said
    before: Memory | None = (
        None  # how this path was left before, until the first link tells whether it is the same
    )
    announced: Announced | None = None
    sequence: int = 0  # of the last state event

    @property
    def lag_at_most_ns(self) -> int | None:
        """For how long the last update may have been there when it was read; `None`: nothing is known of it.

        Not from before the reading that showed nothing yet, nor sooner than an interval after the update
        before it, nor from before its own second: the true lag is mostly far below.
        """
        if self.updated_at_ns is None or self.pace is None or self.pace.low_ns is None:
            return None
        return self.updated_at_ns - self.pace.low_ns


def begin(
    address: Address,
    path_id: VmId,
    access: Access,
    *,
    name: str | None = None,
    labels: Mapping[str, str] = NO_LABELS,
    mark: SocketMark | None = None,
    before: Memory | None = None,
) -> Poller:
    """Return the poller of a VM just discovered; its first `step` opens a link.

    `mark` is what discovery saw at the path. `before` is how the same path was left, in this run or an
    earlier one, where that is known: nothing is emitted twice, sequences go on, and the first sample of a
    new epoch can name the one before.
    """
    poller = Poller(address, path_id, access, name, labels, Away(0), seen_mark=mark)
    if before is None:
        return poller
    return replace(
        poller,
        before=before,
        history=epochs.end_epoch(before.history, guest_reset=True),
        history_id=before.vm_id,
        sequence=before.sequence,
    )


def remember(p: Poller) -> Memory:
    """Return what to keep of a VM, for `begin`."""
    if p.before is not None:  # nobody has answered yet: what was known stands
        return replace(p.before, sequence=p.sequence)
    state = None if p.announced is None else p.announced.judgement.state
    return Memory(str(p.address), p.greeted, p.history_id, p.history, p.read_mono_ns, state, p.sequence)
