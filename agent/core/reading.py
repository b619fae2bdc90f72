"""The values that decisions are made of: readings, a VM's identity, samples and states.

Instants are `int` nanoseconds of the monotonic clock (`_ns`), or Unix milliseconds of the wall
clock (`_ms`) where they are emitted. Seconds (`_s`) are QEMU's own: `last-update` and the
polling interval are whole seconds on the wire.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, NewType

from msgspec import Struct, field

from agent.core.address import Address
from agent.core.pressure import VmPressure
from agent.core.psi import Psi

VmId = NewType("VmId", str)


NO_LABELS: Mapping[str, str] = MappingProxyType({})


class State(StrEnum):
    """The state of a VM: the first of these, in this order, whose condition holds (core/states.py)."""

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
        "unsolicited"  # any other: the driver's first update, an old buffer read again, a delayed answer
    )


class IntervalPolicy(StrEnum):
    """Who controls a VM's polling interval."""

    FILL = "fill"  # the agent sets it only if it is 0
    ENFORCE = "enforce"  # the agent sets it everywhere
    OBSERVE = "observe"  # the agent never sets it


class Access(StrEnum):
    """How a monitor socket is used: it serves one client at a time."""

    HOLD = "hold"
    SHARE = "share"


class Refusal(StrEnum):
    """Why a statistic that QEMU gave was kept out of a sample."""

    TOO_LARGE = "too_large"  # above 2^53-1, which not every JSON reader keeps exact
    NOT_INTEGER = "not_integer"  # a float, string, null or anything else
    IMPOSSIBLE = "impossible"  # contradicts another one, or stands for "no value"
    BAD_NAME = "bad_name"  # not a name that can be carried: empty, over 64 characters, odd characters


class Now(Struct, frozen=True):
    """One instant on both clocks, read together by the shell."""

    mono_ns: int  # time.monotonic_ns()
    unix_ms: int  # wall clock


@dataclass(frozen=True, slots=True)
class SocketMark:
    """Identifies one QEMU process by its monitor socket; never used to name anything.

    QEMU creates the socket at each start. ext4 gives the same inode again, so the modification
    time counts; the change time does not (a chmod moves it). Of a libvirt domain these three are the host's
    boot, the domain's id and 0: libvirt gives each start another id, as long as it runs itself.
    """

    device: int
    inode: int
    mtime_ns: int


class VmIdentity(Struct, frozen=True):
    """A VM's identity: its uuid, or a uuid5 of host id and address if QEMU was started without one."""

    id: VmId
    id_source: Literal["uuid", "path"]
    uuid: str | None  # None: QEMU was started without -uuid
    name: str | None  # -name, or from the path by the glob's pattern
    labels: Mapping[str, str] = field(default_factory=dict[str, str])  # from the path, e.g. vmid


@dataclass(frozen=True, slots=True)
class Balloon:
    """The balloon's `actual`: the guest's memory as the host counts it."""

    actual_bytes: int
    observed_at_ms: int


@dataclass(frozen=True, slots=True)
class Configured:
    """The memory that the VM was given, whether or not its guest uses it."""

    base_bytes: int  # from the start
    plugged_bytes: int  # DIMMs, and what virtio-mem has plugged
    observed_at_ms: int


SERVICE_MANAGER_PID = 1
"""The process that listens on sockets for other processes (systemd.socket(5)). It is not a VM."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a monitor's socket. A pid is used again; with its start it is not."""

    pid: int
    started_ticks: int  # since the host's boot: field 22 of /proc/PID/stat
    user_id: int | None = dataclasses.field(default=None, compare=False)  # root if it can be root again


@dataclass(frozen=True, slots=True)
class Resident:
    """QEMU's resident memory, as libvirt gives it."""

    resident_bytes: int
    observed_at_ms: int


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """What the QEMU process takes of the host. `None`: not known."""

    resident_bytes: int  # without huge pages
    swap_bytes: int | None
    hugetlb_bytes: int | None
    observed_at_ms: int


@dataclass(frozen=True, slots=True)
class CgroupMemory:
    """The memory of a cgroup of version 2. `None`: not known, or no such limit."""

    path: str  # below the root of the hierarchy; VMs with the same path share the figures
    current_bytes: int
    limit_bytes: int | None  # the lowest one of this cgroup and those above it
    swap_bytes: int | None
    pressure: Psi | None
    observed_at_ms: int


class Reading(Struct, frozen=True):
    """One answer to `qom-get guest-stats`, decoded.

    Source: QEMU hw/virtio/virtio-balloon.c, balloon_stats_get_all; units in schemas/sample.
    """

    last_update_s: (
        int  # Unix seconds of the host's wall clock; 0: none since QEMU started (or its reset, from 10.0)
    )
    statistics: Mapping[str, int]  # snake_case without "stat-"; only set and valid ones
    unset: frozenset[str] = frozenset()  # names that QEMU lists and this guest did not set
    refused: Mapping[str, Refusal] = field(default_factory=dict[str, Refusal])


@dataclass(frozen=True, slots=True)
class EpochEnd:
    """How the epoch before ended, so that readers of the topic can see a loss between the two."""

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
    previous: EpochEnd | None  # only on an epoch's first sample, and if there was one
    last_update_s: int
    observed_at_ms: int
    origin: Origin
    missed_at_most: int
    interval_s: int
    run_state: str | None  # QEMU's term; None: not known yet on this link
    balloon: Balloon | None
    statistics: Mapping[str, int]
    missing: frozenset[str] = frozenset()  # set since this guest's last reset, and not now


@dataclass(frozen=True, slots=True)
class StateEvent:
    """A change of a VM's state, or its repetition (`heartbeat`)."""

    vm: VmIdentity | None  # None: not known yet
    address: Address
    sequence: int  # per VM and agent run, from 1
    state: State
    reason: str  # a Reason of core/states.py or a LinkFault; readers treat unknown ones as "other"
    detail: str  # a text, not for programs
    since_ms: int
    observed_at_ms: int
    previous_state: State | None
    heartbeat: bool
    next_heartbeat_by_ms: int
    epoch: str | None
    last_sequence: int | None
    last_update_s: int | None  # None: not read yet; 0: as in QEMU
    interval_s: int | None  # None: not read yet
    run_state: str | None


@dataclass(frozen=True, slots=True)
class VmMemory:
    """What a VM was given and what it takes of the host, whatever its guest reports. `None`: not known."""

    vm: VmIdentity
    address: Address
    sequence: int  # of the round in this run: the same for all VMs of a round
    observed_at_ms: int
    interval_s: int  # between two rounds
    state: State
    configured: Configured | None
    balloon: Balloon | None
    deflate_on_oom: bool | None
    process: ProcessMemory | None
    cgroup: CgroupMemory | None


@dataclass(frozen=True, slots=True)
class VmView:
    """The newest values of one VM, for the board. Replaced, never changed."""

    state: StateEvent
    sample: Sample | None
    balloon: Balloon | None
    memory: VmMemory | None = None
    pressure: VmPressure | None = None  # None: no sample with origin `poll` yet

    @property
    def address(self) -> Address:
        """Where the VM is reached."""
        return self.state.address

    @property
    def last_update_s(self) -> int | None:
        """When the newest update came, in Unix seconds; `None`: none has come, or none was read."""
        return (self.state.last_update_s if self.sample is None else self.sample.last_update_s) or None


class RecordKind(StrEnum):
    """The kind of a record: it decides the topic, and the order of dropping when a queue is full."""

    SAMPLE = "sample"
    VM_STATE = "vm_state"
    AGENT_STATE = "agent_state"
    VM_MEMORY = "vm_memory"
    HOST_MEMORY = "host_memory"
    LOG = "log"  # a change of a VM's or the agent's state, for OTLP's logs


@dataclass(frozen=True, slots=True)
class Record:
    """One event, encoded once: what queues keep and sinks deliver."""

    kind: RecordKind
    id: str  # the same for the same reading, always
    key: str  # VM id; the host id for an unknown VM, for the agent's own record and for the host's memory
    timestamp_ms: int  # observed_at_ms
    headers: bytes  # names and values, as contract/headers.py encodes them
    value: bytes

    @property
    def size_bytes(self) -> int:
        """Its size in a queue: key, value and headers."""
        return len(self.key) + len(self.headers) + len(self.value)
