"""What outlives one run of the agent, so that a restart emits nothing twice and misses nothing unsaid."""

from msgspec import Struct

from agent.core.epochs import History
from agent.core.reading import SocketMark, State, VmId


class Memory(Struct, frozen=True):
    """One VM as it was left: its watermark and all that telling an update from a repeat needs."""

    path: str
    mark: SocketMark | None  # the QEMU process; None: none has greeted us
    vm_id: VmId | None  # whose history it is
    history: History
    read_mono_ns: int | None  # the last reading taken in; CLOCK_MONOTONIC is the host's, not the agent's
    state: State | None = None  # what was said last
    sequence: int = 0  # of the last state event; counted per run, so that another run starts at 0
