"""What is known of one VM, grouped by how long it stays true.

`begin` makes a `Poller`; core/polling.step changes it. Each group below has one lifetime. A reset assigns a
new group, so it forgets exactly what the group holds.

| group      | true for                               | replaced by               |
| ---------- | -------------------------------------- | ------------------------------ |
| `endpoint` | the poller's life                      | never                          |
| `socket`   | what discovery saw last                | `PathSeen`, `PathMissing`      |
| `link`     | one link, or the failure that ended it | `Opened`, `LinkFailed`         |
| `attempts` | a run of failures, from link to link   | the end of a link that lasted  |
| `others`   | the poller's life; `unseen`: a process | `OthersWait`, `OthersUnseen`   |
| `process`  | one introduction of one QEMU process   | `Opened`, unless known already |
| `interval` | one balloon device                     | another process or device      |
| `cadence`  | one balloon device                     | another process or device      |
| `schedule` | until each question is asked           | each question                  |
| `history`  | one VM, over all its processes         | another VM on the same path    |
| `reported` | until the next state event             | each state event               |
| `decision` | until the VM is introduced again       | `Introduced`                   |
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from msgspec import Struct, field
from msgspec.structs import replace

from agent.core import epochs
from agent.core.address import Address, Domain
from agent.core.choice import EVERY_VM, OBSERVED, Choice, Decision, Traits, decide
from agent.core.epochs import History
from agent.core.events import Away, Phase
from agent.core.memory import Memory
from agent.core.ownership import Ownership
from agent.core.pacing import Pace
from agent.core.reading import (
    NO_LABELS,
    Access,
    Balloon,
    Configured,
    IntervalPolicy,
    Peer,
    Resident,
    SocketMark,
    State,
    VmId,
    VmIdentity,
)
from agent.core.shares import Owner
from agent.core.states import Verdict
from agent.errors import LinkFault

SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PollSettings:
    """The operator's settings for polling."""

    interval_s: int = 10  # whole seconds, as QEMU takes them
    policy: IntervalPolicy = IntervalPolicy.FILL
    stall_deadline_ns: int | None = None  # None: max(3 x interval, interval + 5 s), on the VM's running time
    heartbeat_ns: int = 300 * SECOND_NS  # how often an unchanged state is repeated
    reading_deadline_ns: int = SECOND_NS  # then the VM is unreachable; the reading stays in flight
    recheck_ns: int = 30 * SECOND_NS  # how often interval and run state are read again
    set_again_ns: int = 60 * SECOND_NS  # the pause before an interval that was set back is set once more
    # Setting 0 to N makes QEMU ask the guest at once. Each VM gets its own moment within this time after it
    # is found: otherwise all guests of a host would answer at the same moment from then on.
    spread_ns: int = 0
    choice: Choice = EVERY_VM  # which VMs are observed
    visit_ns: int = 80_000_000  # in `share`: leave before other clients notice (100 ms is the promise)


class Clock(Struct, frozen=True):
    """A clock that can stand still. `since_ns` None: it stands still."""

    total_ns: int = 0
    since_ns: int | None = None

    def read(self, mono_ns: int) -> int:
        """Return the time that has passed on this clock at `mono_ns`."""
        return self.total_ns if self.since_ns is None else self.total_ns + mono_ns - self.since_ns

    def run(self, running: bool, mono_ns: int) -> "Clock":
        """Return the clock as it runs, or stands still, from `mono_ns` on."""
        if running == (self.since_ns is not None):
            return self
        return Clock(self.read(mono_ns), mono_ns if running else None)

    def when(self, reads_ns: int) -> int | None:
        """Return when (monotonic) it will read `reads_ns`; 0: it does already; `None`: it stands still."""
        if reads_ns <= self.total_ns:
            return 0
        return None if self.since_ns is None else self.since_ns + reads_ns - self.total_ns


class Endpoint(Struct, frozen=True):
    """Where the VM is, and what the configuration says of that place."""

    address: Address
    path_id: VmId  # the VM's id if QEMU has no uuid
    access: Access
    name: str | None = None  # the VM's name if QEMU has none
    labels: Mapping[str, str] = NO_LABELS
    holds_unseen: bool = False  # `access: hold` is configured: also where other clients cannot be seen


class Socket(Struct, frozen=True):
    """What discovery saw last at the path."""

    present: bool = True
    mark: SocketMark | None = None
    refused: bool = False  # it is there, and must not be used any more


class Link(Struct, frozen=True):
    """The open link; after its end, how it ended."""

    claimed: bool = False  # the VM has been introduced and its id is claimed; also between visits
    active: bool = True  # as claimed: of two VMs with the same id, the active one is observed
    fault: LinkFault | None = None
    fault_detail: str = ""
    visit_ends_ns: int | None = None  # of a visit, while the link is open
    occupied_since_ns: int | None = (
        None  # between visits: other clients have the monitor; what is known remains valid
    )


class Attempts(Struct, frozen=True):
    """What decides when the next link is opened."""

    failures: int = 0  # in a row
    open_since_ns: int | None = None  # since when links open without a failure
    other_address: Address | None = None  # another link holds this VM's id
    looks: int = 0  # visits to a VM that has yet to be started


class Others(Struct, frozen=True):
    """What is known of the other clients of a monitor that the agent may hold."""

    waited: bool = False  # one waited for a link that was held; the monitor is shared from then on
    unseen: bool = False  # the kernel does not show which clients wait for this process's monitor


class Process(Struct, frozen=True):
    """One QEMU process, as its answers describe it."""

    mark: SocketMark | None = None  # None: no process has greeted yet
    identity: VmIdentity | None = None
    run_state: str | None = None  # None: being asked
    ran: bool = False  # it was seen running, and does not wait to be started again
    balloon_path: str | None = None
    interval_s: int = 0
    balloon: Balloon | None = None
    peer: Peer | None = None
    configured: Configured | None = None
    deflate_on_oom: bool | None = None  # of the device at `balloon_path`
    resident: Resident | None = None
    rebooted: bool = False  # RESET came, and no update of the new boot yet
    has_shut_down: bool = False  # SHUTDOWN came, and the VM has not been started again
    reset_unread: bool = False  # RESET came, and the next reading may still show the boot before


class Interval(Struct, frozen=True):
    """What the agent did, and is about to do, with one device's polling interval."""

    ownership: Ownership = field(default_factory=Ownership)
    set_to_s: int | None = None  # to be set next; None: leave it
    set_at_ns: int = 0  # not before
    recorded: bool = False  # the change is in the ledger, so that it can be restored


class Cadence(Struct, frozen=True):
    """When one device's updates come. Instants are on `Poller.running` unless the name says otherwise."""

    pace: Pace | None = None
    read_at_ns: int | None = None  # the last reading
    read_mono_ns: int | None = None  # the same on the monotonic clock, also if an earlier run read it
    updated_at_ns: int | None = None  # the last update seen
    interval_read_at_ns: int = 0  # when the interval was read last
    updates_since: int = 0  # updates seen since then
    overwritten_at_most: int = 0  # updates lost to a shorter interval; the next sample carries them
    silent_since_ns: int = 0  # on `Poller.observed`: the last update, or since when one is due
    advancing: bool = False

    @property
    def lag_at_most_ns(self) -> int | None:
        """The longest time between the last update and its reading; `None`: not known.

        The update came after the last reading without it, at least an interval after the update before, and
        not before its own second. The real lag is far below in most cases.
        """
        if self.updated_at_ns is None or self.pace is None or self.pace.low_ns is None:
            return None
        return self.updated_at_ns - self.pace.low_ns


class Schedule(Struct, frozen=True):
    """When the questions besides readings are due, on the monotonic clock."""

    check_at_ns: int = 0
    no_check_before_ns: int = 0  # whatever happens: see asking.CHECK_SPACING_NS
    checks_until_ns: int = 0  # until then the checks so far would have lasted, one in asking.CHECK_EVERY_NS
    actual_at_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Reported:
    """The last state event."""

    verdict: Verdict
    since_ms: int
    previous: State | None
    heartbeat_at_ns: int

    def due(self, mono_ns: int) -> "Reported":
        """Return the same, to be repeated at `mono_ns`."""
        return dataclasses.replace(self, heartbeat_at_ns=mono_ns)


class Poller(Struct, frozen=True):
    """Everything that is known of one VM. Made by `begin`, changed by core/polling.step alone.

    A `Struct`, as are its groups: `msgspec.structs.replace` costs a sixteenth of `dataclasses.replace`, and
    runs several times for each sample.
    """

    endpoint: Endpoint
    phase: Phase
    socket: Socket = field(default_factory=Socket)
    link: Link = field(default_factory=Link)
    attempts: Attempts = field(default_factory=Attempts)
    others: Others = field(default_factory=Others)
    process: Process = field(default_factory=Process)
    interval: Interval = field(default_factory=Interval)
    cadence: Cadence = field(default_factory=Cadence)
    schedule: Schedule = field(default_factory=Schedule)
    running: Clock = field(default_factory=Clock)  # the VM's running time, as far as it is known
    observed: Clock = field(default_factory=Clock)  # the same, while the VM also answered
    history: History = field(default_factory=History)
    history_id: VmId | None = None  # the VM that `history` belongs to
    owner: Owner = None  # of `history_id`, if it is the owner of the VM here
    before: Memory | None = None  # how an earlier run left this path; until the first link
    reported: Reported | None = None
    sequence: int = 0  # of the last state event
    state_before: State | None = None  # that an earlier task or run reported last at this address
    decision: Decision = OBSERVED  # whether the VM is observed


def begin(
    address: Address,
    path_id: VmId,
    access: Access,
    *,
    name: str | None = None,
    labels: Mapping[str, str] = NO_LABELS,
    mark: SocketMark | None = None,
    before: Memory | None = None,
    holds_unseen: bool = False,
    choice: Choice = EVERY_VM,
) -> Poller:
    """Return the poller of a VM that was just discovered. Call `step` with a `Tick` next: it opens a link.

    Args:
        address: where the VM is.
        path_id: its id if QEMU has no uuid.
        access: how its monitor is used.
        name: its name if QEMU has none.
        labels: what the configuration took from the path.
        mark: what discovery saw at the path.
        before: how the same path was left, in this run or an earlier one; `None`: not known. With it nothing
            is emitted twice, sequences continue, and the first sample of a new epoch names the one before.
        holds_unseen: hold the monitor also where the kernel does not show which clients wait for it.
        choice: which VMs are observed. No link is opened to a VM that is excluded by what is known already.
    """
    endpoint = Endpoint(address, path_id, access, name, labels, holds_unseen)
    decision = decide(choice, _traits(endpoint))
    away = Away(None if decision.is_excluded else 0)
    poller = Poller(endpoint, away, Socket(mark=mark), decision=decision)
    if before is None:
        return poller
    return replace(
        poller,
        before=before,
        history=epochs.end_epoch(before.history, guest_reset=True),
        history_id=before.vm_id,
        owner=before.owner,
        sequence=before.sequence,
        state_before=before.state,
    )


def _traits(endpoint: Endpoint) -> Traits:
    """Return what is known before a link is opened: of a domain all, of a monitor no name and no uuid."""
    match endpoint.address:
        case Domain(uuid=uuid):
            return Traits(str(endpoint.address), endpoint.labels, endpoint.name, uuid, is_introduced=True)
        case _:
            return Traits(str(endpoint.address), endpoint.labels)


def remember(p: Poller) -> Memory:
    """Return what to store of a VM, for the next `begin` on the same path."""
    if p.before is not None:  # no link yet: what an earlier run stored remains valid
        return replace(p.before, sequence=p.sequence)
    state = p.state_before if p.reported is None else p.reported.verdict.state
    return Memory(
        str(p.endpoint.address),
        p.process.mark,
        p.history_id,
        p.history,
        p.cadence.read_mono_ns,
        state,
        p.sequence,
        p.owner,
    )
