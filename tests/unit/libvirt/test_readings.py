"""Tests of bulk readings from a stand-in for libvirt, with jobs, NOWAIT and QEMUs that can be stopped."""

import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import anyio
import pytest

from agent.contract.decode import BadAnswer
from agent.core.bulk_reading import LATE_MAX
from agent.core.reading import Reading
from agent.errors import Declined, LibvirtRefused
from agent.libvirt.api import Connection
from agent.libvirt.calls import Caller
from agent.libvirt.readings import Readings, Request
from agent.telemetry import Count, Counters


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Hypervisor:
    """A libvirt that asks one domain after the other. A stopped domain blocks the call and keeps its job."""

    stopped: dict[str, threading.Event] = field(default_factory=dict[str, threading.Event])
    jobs: set[str] = field(default_factory=set[str])
    calls: list[Sequence[str]] = field(default_factory=list[Sequence[str]])
    refuses: bool = False
    takes_s: float = 0.0

    def stop(self, uuid: str) -> None:
        self.stopped[uuid] = threading.Event()

    def go_on(self, uuid: str) -> None:
        self.stopped.pop(uuid).set()

    def stats(self, uuids: Sequence[str]) -> Mapping[str, Mapping[str, object]]:
        self.calls.append(tuple(uuids))
        if self.refuses:
            raise LibvirtRefused("libvirt says: no")
        return {uuid: self._ask(uuid) for uuid in uuids}

    def _ask(self, uuid: str) -> Mapping[str, object]:
        state = {"state.state": 1, "state.reason": 1}
        if uuid in self.jobs:
            return state
        self.jobs.add(uuid)
        time.sleep(self.takes_s)
        held = self.stopped.get(uuid)
        if held is not None:
            held.wait(120)
        self.jobs.discard(uuid)
        return {**state, "balloon.last-update": 1795404146, "balloon.rss": 12}


@dataclass
class Asker:
    """Asks for readings, and records the answer for each domain."""

    readings: Readings
    answers: dict[str, int] = field(default_factory=dict[str, int])
    refusals: list[str] = field(default_factory=list[str])
    states: dict[str, str] = field(default_factory=dict[str, str])
    resident: dict[str, int | None] = field(default_factory=dict[str, int | None])
    told: anyio.Event = field(default_factory=anyio.Event)

    def ask(self, *uuids: str) -> None:
        for uuid in uuids:
            self.readings.ask(
                Request(
                    uuid,
                    lambda answer, uuid=uuid: self._take(uuid, answer),
                    lambda state, uuid=uuid: self.states.update({uuid: state}),
                    lambda resident, uuid=uuid: self.resident.update({uuid: resident}),
                )
            )

    def _take(self, uuid: str, answer: Reading | BadAnswer | Declined) -> None:
        if isinstance(answer, Declined):
            self.refusals.append(uuid)
        else:
            self.answers[uuid] = self.answers.get(uuid, 0) + 1
        self.told.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        with anyio.fail_after(60):
            while not holds():
                await self.told.wait()
                self.told = anyio.Event()

    async def answered(self, *uuids: str) -> None:
        await self.until(lambda: self.answers.keys() >= set(uuids))


@asynccontextmanager
async def reading(hypervisor: Hypervisor, counters: Counters) -> AsyncGenerator[Asker, None]:
    returned: list[Readings] = []

    def late() -> None:
        counters.add(Count.LIBVIRT_LATE)
        returned[0].late_one_returned()

    caller = Caller("test calls", late)
    readings = Readings(cast(Connection, hypervisor), caller, counters)
    returned.append(readings)
    async with anyio.create_task_group() as group:
        group.start_soon(readings.run)
        yield Asker(readings)
        for uuid in list(hypervisor.stopped):
            hypervisor.go_on(uuid)
        group.cancel_scope.cancel()
    caller.close()


async def begin_call(asker: Asker, hypervisor: Hypervisor) -> None:
    """Ask for "a", and return as soon as libvirt's call has begun."""
    asker.ask("a")
    while not hypervisor.calls:  # noqa: ASYNC110 - it is called in a thread
        await anyio.sleep(0.001)


async def test_domains_due_together_are_asked_in_one_call() -> None:
    hypervisor = Hypervisor()
    async with reading(hypervisor, Counters()) as asker:
        asker.ask("a", "b", "c")
        await asker.answered("a", "b", "c")

    assert hypervisor.calls == [("a", "b", "c")]
    assert asker.states == {"a": "running", "b": "running", "c": "running"}


async def test_domains_that_become_due_during_a_call_are_asked_in_the_next_one() -> None:
    hypervisor = Hypervisor(takes_s=0.05)
    async with reading(hypervisor, Counters()) as asker:
        await begin_call(asker, hypervisor)
        asker.ask("b")
        asker.ask("c")
        await asker.answered("a", "b", "c")

    assert hypervisor.calls == [("a",), ("b", "c")]


async def test_the_resident_memory_comes_with_a_reading() -> None:
    async with reading(Hypervisor(), Counters()) as asker:
        asker.ask("a")
        await asker.answered("a")

    assert asker.resident == {"a": 12 * 1024}


async def test_a_stopped_qemu_delays_the_others_once_and_is_asked_alone_from_then_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # On a busy machine even a call without a stopped QEMU may take longer than the usual patience.
    monkeypatch.setattr("agent.core.bulk_reading.PATIENCE_NS", 1_000_000_000)
    hypervisor, counters = Hypervisor(), Counters()
    hypervisor.stop("b")
    async with reading(hypervisor, counters) as asker:
        begun_s = anyio.current_time()
        asker.ask("a", "b", "c")
        await asker.answered("a", "c")
        assert anyio.current_time() - begun_s < 30  # "b" is stopped for up to two minutes
        assert hypervisor.calls[:2] == [("a", "b", "c")] * 2

        for _ in range(3):
            asker.answers.clear()
            asker.ask("a", "c")
            await asker.answered("a", "c")
        assert {call for call in hypervisor.calls[2:] if len(call) > 1} == {("a", "c")}
        assert counters.snapshot()["libvirt_asides"] == 1

        assert "b" not in asker.answers
        hypervisor.go_on("b")
        await asker.answered("b")
        assert asker.answers["b"] == 1
        assert counters.snapshot()["libvirt_late_results"] == 1


async def test_a_domain_with_a_job_of_another_client_is_asked_alone_until_it_answers() -> None:
    hypervisor, counters = Hypervisor(jobs={"a"}), Counters()
    async with reading(hypervisor, counters) as asker:
        asker.ask("a", "b")
        await asker.answered("b")
        assert "a" not in asker.answers
        hypervisor.jobs.discard("a")
        await asker.answered("a")

    assert "libvirt_late_results" not in counters.snapshot()


async def test_a_forgotten_domain_is_not_asked_again() -> None:
    hypervisor = Hypervisor(jobs={"a"})
    async with reading(hypervisor, Counters()) as asker:
        asker.ask("a", "b")
        await asker.answered("b")
        asker.readings.forget("a")
        hypervisor.jobs.discard("a")
        calls = len(hypervisor.calls)
        await anyio.sleep(0.3)

        assert len(hypervisor.calls) <= calls + 1
        assert "a" not in asker.answers


async def test_the_only_domain_that_is_due_may_be_forgotten_during_a_call() -> None:
    hypervisor = Hypervisor(takes_s=0.05)
    async with reading(hypervisor, Counters()) as asker:
        await begin_call(asker, hypervisor)
        asker.ask("b")
        asker.readings.forget("b")
        await asker.answered("a")
        await anyio.wait_all_tasks_blocked()  # the loop has seen that no domain is left to ask
        asker.ask("c")
        await asker.answered("c")

    assert hypervisor.calls == [("a",), ("c",)]


async def test_a_refusal_reaches_every_domain_of_the_call() -> None:
    hypervisor = Hypervisor(refuses=True)
    async with reading(hypervisor, Counters()) as asker:
        asker.ask("a", "b")
        await asker.until(lambda: len(asker.refusals) == 2)

    assert sorted(asker.refusals) == ["a", "b"]


async def test_a_libvirt_that_answers_nothing_is_given_up_after_few_calls() -> None:
    hypervisor = Hypervisor()
    stuck = [f"{number}" for number in range(LATE_MAX + 1)]
    for uuid in stuck:
        hypervisor.stop(uuid)
    async with reading(hypervisor, Counters()) as asker:
        asker.ask(*stuck)
        with anyio.fail_after(60):
            await asker.readings.clogged.wait()

        assert len(hypervisor.calls) == LATE_MAX


async def test_qemus_that_are_all_slow_are_waited_for_and_the_connection_is_kept() -> None:
    hypervisor, counters = Hypervisor(takes_s=0.06), Counters()
    domains = [f"{number}" for number in range(10)]
    async with reading(hypervisor, counters) as asker:
        for _ in range(3):
            asker.answers.clear()
            asker.ask(*domains)
            await asker.answered(*domains)
        rounds_in_time = 0
        for _ in range(30):  # the duration is learned in some rounds; on a busy machine one more may be late
            late = counters.snapshot()["libvirt_late_results"]
            asker.answers.clear()
            asker.ask(*domains)
            await asker.answered(*domains)
            rounds_in_time += counters.snapshot()["libvirt_late_results"] == late
            if rounds_in_time:
                break

        assert not asker.readings.clogged.is_set()
        assert rounds_in_time
