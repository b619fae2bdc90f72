"""Tests of one VM's task with peers that behave as no QEMU does."""

import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import pytest

from agent.core.address import Address, Domain, MonitorPath
from agent.core.epochs import History
from agent.core.events import PathMissing
from agent.core.memory import Memory
from agent.core.poller import PollSettings, begin
from agent.core.reading import Access, Sample, SocketMark, State, StateEvent, VmId
from agent.core.shares import Owner
from agent.qmp.link import QmpOpener, Settings
from agent.runtime.alarms import Alarms
from agent.runtime.links import Link, opener
from agent.runtime.probe import NoLedger
from agent.runtime.vm import ClaimsRegistry, VmServices, VmTask
from agent.telemetry import Counters
from tests.unit.qmp.peer import Client, serving


@dataclass
class Emitted:
    """What the task emits."""

    samples: list[Sample] = field(default_factory=list[Sample])
    states: list[StateEvent] = field(default_factory=list[StateEvent])

    def sample(self, sample: Sample, memory: Memory) -> None:
        self.samples.append(sample)

    def state(self, event: StateEvent, memory: Memory) -> None:
        self.states.append(event)

    def retire(self, address: Address) -> None:
        return


def no_domain(domain: Domain) -> AbstractAsyncContextManager[Link]:
    raise AssertionError(f"{domain} is not watched here")


def around(emitted: Emitted) -> VmServices:
    return VmServices(
        polling=PollSettings(interval_s=1),
        open_link=opener(QmpOpener(Settings()), no_domain),
        emissions=emitted,
        ledger=NoLedger(),
        claims=ClaimsRegistry(),
        counters=Counters(),
        alarms=Alarms(128),
    )


def value_of(command: dict[str, Any]) -> object:
    match str(command["execute"]), str(command.get("arguments", {}).get("property")):
        case "query-uuid", _:
            return {"UUID": "5f0c0000-0000-0000-0000-000000000001"}
        case "query-status", _:
            return {"status": "running"}
        case "query-balloon", _:
            return {"actual": 1 << 30}
        case "qom-list", _:
            return [{"name": "balloon0", "type": "child<virtio-balloon-pci>"}]
        case "qom-get", "guest-stats":
            return {"last-update": 1_795_404_146, "stats": {"stat-free-memory": 4096}}
        case "qom-get", "guest-stats-polling-interval":
            return 1
        case "qom-get", _:
            return False
        case _:
            return {}


INTRODUCTION = 7
"""Number of commands until the VM's task claims its id; it sends the next one without any wait."""


@pytest.mark.parametrize("turns", range(24))
async def test_a_question_to_a_link_that_has_just_ended_gets_no_answer_and_does_no_harm(
    turns: int,
) -> None:
    """The VM's task learns of the end of a link only when the link is closed. The peer runs on the same loop,
    so one of these turns falls between the two."""
    connections, again = 0, anyio.Event()

    async def script(peer: Client) -> None:
        nonlocal connections
        connections += 1
        if connections == 2:
            again.set()
        await peer.greet()
        for _ in range(INTRODUCTION):
            command = await peer.hear()
            await peer.say({"return": value_of(command), "id": command["id"]})
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        await peer.send(b"[]\n")
        await peer.wait_closed()

    emitted = Emitted()
    async with serving(script) as path, anyio.create_task_group() as group:
        shared = around(emitted)
        task = VmTask(begin(MonitorPath(path), VmId("path-id"), Access.HOLD), shared)
        group.start_soon(shared.alarms.run)
        group.start_soon(task.run)
        with anyio.fail_after(60):
            await again.wait()
        group.cancel_scope.cancel()
    assert "protocol" in [str(event.reason) for event in emitted.states]


async def test_events_before_the_task_runs_are_queued_and_after_its_end_are_dropped() -> None:
    emitted = Emitted()
    task = VmTask(begin(MonitorPath("/nowhere"), VmId("path-id"), Access.HOLD), around(emitted))
    task.happened(PathMissing())
    assert emitted.states == []

    with anyio.fail_after(60):
        await task.run()
    told = len(emitted.states)
    task.happened(PathMissing())

    assert [event.state for event in emitted.states][-1] is State.GONE
    assert len(emitted.states) == told


async def test_a_bug_ends_the_task_and_is_raised_where_it_is_contained() -> None:
    class Broken(Emitted):
        def state(self, event: StateEvent, memory: Memory) -> None:
            raise ZeroDivisionError

    task = VmTask(begin(MonitorPath("/nowhere"), VmId("path-id"), Access.HOLD), around(Broken()))

    with anyio.fail_after(60), pytest.raises(ZeroDivisionError):
        await task.run()


UUID = VmId("5f0c0000-0000-0000-0000-000000000001")
PODS = tuple(f"pod {digit * 8}-{digit * 4}-4{digit * 3}-8{digit * 3}-{digit * 12}" for digit in "12")


def answering(status: str) -> Callable[[Client], Awaitable[None]]:
    async def script(peer: Client) -> None:
        await peer.greet()
        while True:
            command = await peer.hear()
            answer = {"status": status} if command["execute"] == "query-status" else value_of(command)
            await peer.say({"return": answer, "id": command["id"]})

    return script


def seen_as_another_users(shared: VmServices, path: str) -> VmServices:
    """Return services that see another user's monitor at `path`; only root could start a real one."""

    @asynccontextmanager
    async def open_link(
        address: Address, *, look_first: bool, mark: SocketMark | None, owner: Owner = None
    ) -> AsyncGenerator[Link, None]:
        async with shared.open_link(address, look_first=look_first, mark=mark) as link:
            if str(address) == path:
                link.owner = os.geteuid() + 1  # pyrefly: ignore[read-only]
            yield link

    return replace(shared, open_link=open_link)


async def duplicates_of(
    services: VmServices, emitted: Emitted, *vms: tuple[str, Owner], states: int
) -> set[str]:
    """Start each VM after the states of the previous one; after `states` states, return the duplicates."""
    async with anyio.create_task_group() as group:
        group.start_soon(services.alarms.run)
        for number, (path, owner) in enumerate(vms, 1):
            poller = begin(MonitorPath(path), VmId("x"), Access.HOLD)
            group.start_soon(VmTask(poller, services, owner).run)
            with anyio.fail_after(60):
                while len(emitted.states) < (states if number == len(vms) else 2):  # noqa: ASYNC110 - no event
                    await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    return {str(event.address) for event in emitted.states if event.state is State.DUPLICATE}


@pytest.mark.parametrize("other_user", [False, True])
async def test_the_id_of_a_vm_that_has_yet_to_be_started_is_not_taken_by_another_users_monitor(
    other_user: bool,
) -> None:
    emitted = Emitted()
    async with serving(answering("prelaunch")) as first, serving(answering("running")) as second:
        services = around(emitted)
        if other_user:
            services = seen_as_another_users(services, second)
        found = await duplicates_of(services, emitted, (first, None), (second, None), states=4)

    assert found == {second if other_user else first}


@pytest.mark.parametrize("other_pod", [False, True])
async def test_the_id_of_a_vm_in_a_pod_is_not_taken_by_another_pod_whatever_its_user(other_pod: bool) -> None:
    """A pod chooses its user. Both pods have the same user here, even root."""
    emitted = Emitted()
    async with serving(answering("prelaunch")) as first, serving(answering("running")) as second:
        pods = (first, PODS[0]), (second, PODS[1] if other_pod else PODS[0])
        found = await duplicates_of(around(emitted), emitted, *pods, states=4)

    assert found == {second if other_pod else first}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can listen as root")
@pytest.mark.parametrize("directory_of", [0, 1001])
async def test_a_listener_of_root_in_a_users_directory_does_not_have_roots_rights(directory_of: int) -> None:
    emitted = Emitted()
    async with serving(answering("prelaunch")) as first, serving(answering("running")) as second:
        services = seen_as_another_users(around(emitted), first)
        found = await duplicates_of(services, emitted, (first, 0), (second, directory_of), states=4)

    assert found == {first if directory_of == 0 else second}


async def test_another_users_monitor_that_comes_first_after_a_restart_returns_the_id() -> None:
    emitted = Emitted()
    async with serving(answering("running")) as strangers, serving(answering("running")) as ours:
        services = seen_as_another_users(around(emitted), strangers)
        services.claims.know([Memory(ours, None, UUID, History(), None, owner=os.geteuid())])
        found = await duplicates_of(services, emitted, (strangers, None), (ours, None), states=4)

    assert found == {strangers}
