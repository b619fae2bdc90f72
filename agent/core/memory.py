"""What the agent remembers of a VM across restarts, so that it emits nothing twice and reports every gap."""

from collections import OrderedDict
from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from agent.core.address import Address
from agent.core.epochs import History
from agent.core.reading import SocketMark, State, VmId
from agent.core.shares import Owner


class Memory(Struct, frozen=True):
    """The last known state of one VM: its watermark, and what tells an update from a repeated reading."""

    path: str  # the text of its address
    mark: SocketMark | None  # the QEMU process; None: no link was opened
    vm_id: VmId | None  # the VM that `history` belongs to
    history: History
    read_mono_ns: (
        int | None
    )  # the last reading; CLOCK_MONOTONIC belongs to the host, so it outlives the agent
    state: State | None = None  # last emitted
    sequence: int = 0  # of the last state event; counted per run, from 0
    owner: Owner = None  # of `vm_id`, if it is the owner of this VM (core/claims.py)


RETIRED_MAX = 10_000
"""Addresses whose VM has gone and whose sequences are kept, so that no id is used twice within a run."""


class RetiredMemories:
    """The memories of VMs that have no task now, by the text of their address; the oldest go first."""

    def __init__(self, of_an_earlier_run: Mapping[str, Memory], bound: int = RETIRED_MAX) -> None:
        self._bound = bound
        self._memories = OrderedDict(
            (text, replace(each, sequence=0)) for text, each in of_an_earlier_run.items()
        )

    def __len__(self) -> int:
        return len(self._memories)

    def put(self, memory: Memory) -> None:
        """Keep the memory of a VM whose task has ended."""
        self._memories[memory.path] = memory
        while len(self._memories) > self._bound:
            self._memories.popitem(last=False)

    def take(self, address: Address) -> Memory | None:
        """Remove and return the memory of a VM whose task starts; `None`: there is none."""
        return self._memories.pop(str(address), None)
