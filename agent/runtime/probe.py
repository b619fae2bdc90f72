"""Probe one VM once: run its state machine until its state is known."""

from dataclasses import dataclass, field

import anyio

from agent.core.address import Address
from agent.core.memory import Memory
from agent.core.ownership import IntervalChange
from agent.core.poller import PollSettings, begin
from agent.core.reading import Access, Sample, SocketMark, State, StateEvent
from agent.core.states import Reason
from agent.runtime.alarms import Alarms
from agent.runtime.fleet import path_id
from agent.runtime.links import Opener
from agent.runtime.vm import ClaimsRegistry, VmServices, VmTask
from agent.telemetry import Counters


@dataclass(frozen=True, slots=True)
class Finding:
    """A VM's state and sample; either is `None` if there was none before the deadline."""

    state: StateEvent | None
    sample: Sample | None


@dataclass(slots=True)
class _Listener:
    """Takes what the VM's task emits, until enough is known."""

    wait_for_update: bool
    state_now: StateEvent | None = None
    sample_now: Sample | None = None
    updates: int = 0
    known: anyio.Event = field(default_factory=anyio.Event)

    def sample(self, sample: Sample, memory: Memory) -> None:
        self.sample_now = sample
        self.updates += 1
        self._judge()

    def state(self, event: StateEvent, memory: Memory) -> None:
        self.state_now = event
        self._judge()

    def retire(self, address: Address) -> None:
        self.known.set()

    def _judge(self) -> None:
        state = self.state_now
        if state is None or state.reason == Reason.FIRST_ATTEMPT:
            return
        if self.wait_for_update and self.updates < 2 and state.state in (State.CONNECTING, State.WAITING):
            return
        self.known.set()


class NoLedger:
    """A ledger that records nothing: a probe is asked to leave the interval changed."""

    def find(self, address: Address, mark: SocketMark) -> IntervalChange | None:
        return None

    async def record(self, change: IntervalChange) -> None:
        return

    async def remove(self, address: Address, mark: SocketMark) -> None:
        return


async def probe(
    address: Address,
    host_id: str,
    polling: PollSettings,
    open_link: Opener,
    *,
    deadline_s: float,
    wait_for_update: bool,
    access: Access = Access.HOLD,
    mark: SocketMark | None = None,
) -> Finding:
    """Ask the VM at `address` until its state is known, or the deadline has passed.

    Args:
        address: where the VM is.
        host_id: names a VM that has no uuid.
        polling: `policy` decides whether the VM may be changed; `observe` leaves it unchanged.
        open_link: opens links to it.
        deadline_s: how long to try at most.
        wait_for_update: polling is being enabled; wait for the guest's first answer.
        access: `share` connects to no monitor that other clients wait for, and leaves within 100 ms.
        mark: the socket that discovery has judged; no other is connected to. `None`: any.
    """
    listener = _Listener(wait_for_update)
    services = VmServices(
        polling=polling,
        open_link=open_link,
        emissions=listener,
        ledger=NoLedger(),
        claims=ClaimsRegistry(),
        counters=Counters(),
        alarms=Alarms(readings_at_once=1),
    )
    task = VmTask(begin(address, path_id(host_id, address), access, mark=mark), services)
    with anyio.move_on_after(deadline_s):
        async with anyio.create_task_group() as group:
            group.start_soon(services.alarms.run)
            group.start_soon(task.run)
            await listener.known.wait()
            group.cancel_scope.cancel()
    return Finding(listener.state_now, listener.sample_now)
