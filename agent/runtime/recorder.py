"""Encodes the samples and states of the pollers as records, queues them, and keeps the board."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from agent.contract.encode import (
    Mode,
    as_log,
    encode_agent_state,
    encode_host_memory,
    encode_sample,
    encode_state,
    encode_vm_memory,
)
from agent.contract.payloads import Agent
from agent.core.address import Address
from agent.core.agent_state import AgentEvent
from agent.core.history import VmHistories
from agent.core.host_memory import HostMemoryEvent
from agent.core.memory import Memory
from agent.core.pressure import VmPressure, advance
from agent.core.reading import Origin, Record, Sample, State, StateEvent, VmIdentity, VmMemory, VmView
from agent.core.tap import Tap
from agent.runtime.state_lines import StateLines
from agent.telemetry import Count, Counters


class Keeper(Protocol):
    """Queues records until they are delivered: in memory, or on disk together with the memory of their VM."""

    def append(self, record: Record | None, memory: Memory | None) -> None: ...


class Recorder:
    """Owned by the event loop's thread; no method awaits."""

    def __init__(
        self,
        agent: Agent,
        mode: Mode,
        keepers: Sequence[Keeper],
        counters: Counters,
        *,
        logs: bool = False,
        histories: VmHistories | None = None,
        tap: Tap | None = None,
    ) -> None:
        """Create it.

        Args:
            agent: the host and this run of the agent.
            mode: the form of the records.
            keepers: queue the records.
            counters: count them.
            logs: whether changes of state are also queued for OTLP's logs.
            histories: keeps the last half hour of each VM; `None`: nothing shows it.
            tap: keeps the newest records for clients that show them; `None`: there are none.
        """
        self._tap = tap
        self._logs = logs
        self._lines = StateLines()
        self._histories = histories
        self._agent = agent
        self._mode: Mode = mode
        self._keepers = keepers
        self._counters = counters
        self._board: dict[Address, VmView] = {}
        self._newest_host_memory: HostMemoryEvent | None = None

    @property
    def board(self) -> Mapping[Address, VmView]:
        """The latest state and sample of each VM, by address."""
        return self._board

    def views(self) -> Sequence[VmView]:
        """Return a snapshot of the board's values."""
        return tuple(self._board.values())

    def sample(self, sample: Sample, memory: Memory) -> None:
        """Record a sample."""
        self._counters.add(Count.SAMPLES)
        view = self._board.get(sample.address)
        if view is not None:
            pressure = _pressure(view, sample)
            self._board[sample.address] = VmView(view.state, sample, sample.balloon, view.memory, pressure)
            if self._histories is not None:
                self._histories.sample(sample, view.pressure, pressure)
        self._emit(encode_sample(sample, self._agent, self._mode), memory, sample.vm, sample.address)

    def state(self, event: StateEvent, memory: Memory) -> None:
        """Record a change of state, or a heartbeat."""
        self._counters.add(Count.STATE_EVENTS)
        before = self._board.get(event.address)
        sample = pressure = None
        if before is not None and before.sample is not None and before.sample.vm == event.vm:
            sample = before.sample  # also one from before the VM was identified
            pressure = None if event.state is State.GONE else before.pressure
        has_ended = event.state in (State.GONE, State.DUPLICATE)  # a sum over VMs would count it again
        balloon = None if before is None or has_ended else before.balloon
        self._board[event.address] = VmView(event, sample, balloon, _still_valid(before, event), pressure)
        if not event.heartbeat:
            self._lines.write(event)
            if self._histories is not None:
                self._histories.state(event)
        self._emit(encode_state(event, self._agent, self._mode), memory, event.vm, event.address)
        if self._logs and not event.heartbeat:
            self._queue(as_log(encode_state(event, self._agent, Mode.BINARY)), None)

    def vm_memory(self, memory: VmMemory) -> None:
        """Record a VM's memory as its host sees it."""
        self._counters.add(Count.MEMORY_RECORDS)
        view = self._board.get(memory.address)
        if view is not None and view.state.vm == memory.vm and view.state.state is not State.GONE:
            self._board[memory.address] = replace(view, memory=memory)
            if self._histories is not None:
                self._histories.memory(memory)
        self._emit(encode_vm_memory(memory, self._agent, self._mode), None, memory.vm, memory.address)

    def retire(self, address: Address) -> None:
        """Remove a VM that is gone for good from the board."""
        self._board.pop(address, None)
        if self._histories is not None:
            self._histories.forget(address)

    def agent_state(self, event: AgentEvent) -> None:
        """Record a state of the agent itself."""
        self._counters.add(Count.AGENT_EVENTS)
        self._emit(encode_agent_state(event, self._agent, self._mode))
        if self._logs and not event.heartbeat:
            self._queue(as_log(encode_agent_state(event, self._agent, Mode.BINARY)), None)

    def host_memory(self, event: HostMemoryEvent) -> None:
        """Record a reading of the host's memory."""
        self._counters.add(Count.MEMORY_RECORDS)
        self._newest_host_memory = event
        self._emit(encode_host_memory(event, self._agent, self._mode))

    def end_second(self) -> None:
        """Write the summary of changes that had no log line of their own. Call it every second."""
        self._lines.end_second()
        if self._tap is not None:
            self._tap.end_second()

    def newest_host_memory(self) -> HostMemoryEvent | None:
        """Return the newest reading; `None`: there is none."""
        return self._newest_host_memory

    def _emit(
        self,
        record: Record,
        memory: Memory | None = None,
        vm: VmIdentity | None = None,
        address: Address | None = None,
    ) -> None:
        self._queue(record, memory)
        if self._tap is not None:
            self._tap.put(record.kind, record.value, vm, address)

    def _queue(self, record: Record, memory: Memory | None) -> None:
        for keeper in self._keepers:
            keeper.append(record, memory)


def _still_valid(before: VmView | None, event: StateEvent) -> VmMemory | None:
    """Return the memory of the same VM, as long as its process runs."""
    if before is None or before.memory is None or event.state is State.GONE:
        return None
    return before.memory if before.memory.vm == event.vm else None


def _pressure(view: VmView, sample: Sample) -> VmPressure | None:
    of_the_same = view.sample is not None and view.sample.vm.id == sample.vm.id
    return advance(
        view.pressure if of_the_same else None,
        epoch=sample.epoch,
        last_update_s=sample.last_update_s,
        polled=sample.origin is Origin.POLL,
        statistics=sample.statistics,
    )
