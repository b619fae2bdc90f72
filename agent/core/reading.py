"""The values decisions are made of: what was read, who a VM is, what is emitted.

Instants are `int` nanoseconds of the monotonic clock (`_ns`), or Unix milliseconds of the wall
clock (`_ms`) where they are shown to people. Seconds (`_s`) are QEMU's own: `last-update` and the
polling interval are whole seconds on the wire.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, NewType

from agent.core.address import Address

VmId = NewType("VmId", str)

NO_LABELS: Mapping[str, str] = MappingProxyType({})


class State(StrEnum):
    """Where a VM stands. They exclude each other: the first that holds, in this order, is the state."""

    GONE = "gone"
    CONNECTING = "connecting"
    DUPLICATE = "duplicate"
    NO_GREETING = "no-greeting"
    UNREACHABLE = "unreachable"
    NO_BALLOON = "no-balloon"
    PAUSED = "paused"
    OFF = "off"
    WAITING = "waiting"
    EMPTY = "empty"
    STALLED = "stalled"
    REPORTING = "reporting"


class Origin(StrEnum):
    """Whether an update's age is known."""

    POLL = "poll"  # QEMU asked and the guest answered within the cadence
    UNSOLICITED = (
        "unsolicited"  # anything else: the driver's probe, an old buffer read again, an answer that waited
    )


class IntervalPolicy(StrEnum):
    """Who decides a VM's polling interval."""

    FILL = "fill"  # set it only where it is 0
    ENFORCE = "enforce"  # ours everywhere
    OBSERVE = "observe"  # never set


class Access(StrEnum):
    """How a monitor socket is used: it serves one client at a time."""

    HOLD = "hold"
    SHARE = "share"


class Refusal(StrEnum):
    """Why a statistic that QEMU gave was kept out of a sample."""

    TOO_LARGE = "too_large"  # above 2^53-1, which not every JSON reader keeps exact
    NOT_INTEGER = "not_integer"  # a float, string, null or anything else
    IMPOSSIBLE = "impossible"  # contradicts another one: free > total, available > total, total = 0
    BAD_NAME = "bad_name"  # not a name that can be carried: empty, over 64 characters, odd characters


@dataclass(frozen=True, slots=True)
class Now:
    """One instant on both clocks, read together by the shell."""

    mono_ns: int  # time.monotonic_ns()
    unix_ms: int  # wall clock


@dataclass(frozen=True, slots=True)
class SocketMark:
    """Recognises one QEMU process by its monitor socket; never used to name anything.

    QEMU binds the socket anew at each start. ext4 gives the same inode again, so the modification
    time counts; the change time does not (a chmod moves it). Of a libvirt domain these three are the host's
    boot, the domain's id and 0: libvirt gives each start another id, as long as it runs itself.
    """

    device: int
    inode: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class VmIdentity:
    """Who a VM is: its uuid, or uuid5 of host id and socket path where QEMU was given none."""

    id: VmId
    id_source: Literal["uuid", "path"]
    uuid: str | None  # None: QEMU was started without -uuid
    name: str | None  # -name, or what the glob's pattern took from the path
    labels: Mapping[str, str] = field(default_factory=dict[str, str])  # what else the pattern took, e.g. vmid


@dataclass(frozen=True, slots=True)
class Balloon:
    """The balloon's `actual`: the memory the guest has, as the host counts it."""

    actual_bytes: int
    observed_at_ms: int


@dataclass(frozen=True, slots=True)
class Reading:
    """One answer to `qom-get guest-stats`, decoded.

    Source: QEMU hw/virtio/virtio-balloon.c, balloon_stats_get_all; units in schemas/sample.
    """

    last_update_s: (
        int  # Unix seconds of the host's wall clock; 0: nothing since the QEMU (or its reset, from 10.0)
    )
    statistics: Mapping[str, int]  # snake_case without "stat-"; only those set and credible
    unset: frozenset[str] = frozenset()  # names QEMU lists that this guest did not give
    refused: Mapping[str, Refusal] = field(default_factory=dict[str, Refusal])


@dataclass(frozen=True, slots=True)
class EpochEnd:
    """How the epoch before ended, so that a reader can see a loss across the border."""

    epoch: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A reading whose `last-update` has advanced: the change event."""

    vm: VmIdentity
    address: Address
    epoch: str
    epoch_start_s: int  # last_update_s of the epoch's first sample: where its counters start
    sequence: int  # from 1 in each epoch, without a gap
    previous: EpochEnd | None  # on an epoch's first sample only, where there was one
    last_update_s: int
    observed_at_ms: int
    origin: Origin
    missed_at_most: int
    interval_s: int
    run_state: str | None  # QEMU's word; None: not known yet on this link
    balloon: Balloon | None
    statistics: Mapping[str, int]
    missing: frozenset[str] = frozenset()  # given since this guest's last reset, and not now


@dataclass(frozen=True, slots=True)
class StateEvent:
    """A VM's state has changed, or is repeated (`heartbeat`)."""

    vm: VmIdentity | None  # None: not known yet
    address: Address
    sequence: int  # per VM and agent run, from 1
    state: State
    reason: str  # a Reason of core/states.py or a LinkFault; readers treat unknown ones as "other"
    detail: str  # for people
    since_ms: int
    observed_at_ms: int
    previous_state: State | None
    heartbeat: bool
    next_heartbeat_by_ms: int
    epoch: str | None
    last_sequence: int | None
    last_update_s: int | None  # None: not read yet; 0 means what it means in QEMU
    interval_s: int | None  # None: not read yet
    run_state: str | None


@dataclass(frozen=True, slots=True)
class VmView:
    """What the board shows of one VM: the newest of everything. A value; replaced, never changed."""

    state: StateEvent
    sample: Sample | None
    balloon: Balloon | None

    @property
    def address(self) -> Address:
        """Where the VM is reached."""
        return self.state.address

    @property
    def last_update_s(self) -> int | None:
        """When the newest update came, Unix seconds; `None`: none has, or nobody has looked."""
        return (self.state.last_update_s if self.sample is None else self.sample.last_update_s) or None


class RecordKind(StrEnum):
    """Decides a record's topic, and what goes first when there is no room."""

    SAMPLE = "sample"
    VM_STATE = "vm_state"
    AGENT_STATE = "agent_state"


@dataclass(frozen=True, slots=True)
class Record:
    """One event, encoded once and for all: what a sink takes and what the buffer keeps."""

    kind: RecordKind
    id: str  # the same reading has always the same one
    key: str  # VM id; the host id where that is not known and for the agent's own record
    timestamp_ms: int  # observed_at_ms
    headers: bytes  # names and values, as contract/headers.py encodes them
    value: bytes

    @property
    def size_bytes(self) -> int:
        """What it weighs in the buffer: key, value and headers."""
        return len(self.key) + len(self.headers) + len(self.value)
