"""What the agent remembers of a VM across restarts, so that it emits nothing twice and reports every gap."""

from msgspec import Struct

from agent.core.epochs import History
from agent.core.reading import SocketMark, State, VmId


class Memory(Struct, frozen=True):
    """The last known state of one VM: its watermark, and what tells an update from a repeated reading."""

    path: str
    mark: SocketMark | None  # the QEMU process; None: never connected
    vm_id: VmId | None  # whose history it is
    history: History
    read_mono_ns: (
        int | None
    )  # of the last reading; CLOCK_MONOTONIC belongs to the host, so it outlives the agent
    state: State | None = None  # last emitted
    sequence: int = 0  # of the last state event; counted per run, from 0
