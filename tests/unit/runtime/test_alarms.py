"""Tests that one timer wakes each task in time, and once."""

import time
from collections.abc import Callable
from typing import ClassVar

import anyio
import pytest

from agent.core.shares import Owner
from agent.runtime.alarms import SLEEP_STEP_NS, Alarms

pytestmark = pytest.mark.anyio

MS = 1_000_000


class Sleeper:
    """Notes when it was woken, and may set its next alarm then."""

    def __init__(self, alarms: Alarms, every_ns: int | None = None, owner: Owner = None) -> None:
        self.alarms, self.every_ns, self.owner = alarms, every_ns, owner
        self.woken_ns: list[int] = []
        self.woken = anyio.Event()

    def wake(self) -> None:
        now_ns = time.monotonic_ns()
        self.woken_ns.append(now_ns)
        self.woken.set()
        if self.every_ns is not None:
            self.alarms.set(self, now_ns + self.every_ns)


async def run_until(alarms: Alarms, holds: Callable[[], bool]) -> None:
    """Run the alarms until the condition holds."""
    async with anyio.create_task_group() as group:
        group.start_soon(alarms.run)
        with anyio.fail_after(60):
            while not holds():  # noqa: ASYNC110 - several sleepers, each with an event of its own
                await anyio.sleep(0.005)
        group.cancel_scope.cancel()


async def test_each_is_woken_once_and_not_before_its_time() -> None:
    alarms = Alarms(128)
    sleepers = [Sleeper(alarms) for _ in range(200)]
    now_ns = time.monotonic_ns()
    due_ns = [now_ns + (number * 7919 % 200) * MS // 4 for number in range(200)]
    for sleeper, at_ns in zip(sleepers, due_ns, strict=True):
        alarms.set(sleeper, at_ns)

    await run_until(alarms, lambda: all(each.woken_ns for each in sleepers))

    assert [len(each.woken_ns) for each in sleepers] == [1] * 200
    assert all(each.woken_ns[0] >= at_ns for each, at_ns in zip(sleepers, due_ns, strict=True))


async def test_an_alarm_that_is_changed_or_canceled_does_not_go_off_at_its_old_time() -> None:
    alarms = Alarms(128)
    later, never, again = Sleeper(alarms), Sleeper(alarms), Sleeper(alarms)
    now_ns = time.monotonic_ns()
    alarms.set(later, now_ns + 5 * MS)
    alarms.set(later, now_ns + 40 * MS)
    alarms.set(never, now_ns + 5 * MS)
    alarms.set(never, None)
    alarms.set(again, now_ns + 5 * MS)
    alarms.set(again, now_ns + 9 * MS)
    alarms.set(again, now_ns + 5 * MS)

    await run_until(alarms, lambda: later.woken.is_set())  # the last of all times set here

    assert [len(each.woken_ns) for each in (later, never, again)] == [1, 0, 1]
    assert later.woken_ns[0] >= now_ns + 40 * MS


async def test_an_earlier_alarm_ends_a_sleep_that_has_begun() -> None:
    alarms = Alarms(128)
    late, early = Sleeper(alarms), Sleeper(alarms)
    alarms.set(late, time.monotonic_ns() + 60_000 * MS)

    async with anyio.create_task_group() as group:
        group.start_soon(alarms.run)
        await anyio.sleep(0.02)
        alarms.set(early, time.monotonic_ns() + 5 * MS)
        with anyio.fail_after(60):
            await early.woken.wait()
        group.cancel_scope.cancel()

    assert late.woken_ns == []


async def test_an_error_of_a_sleeper_ends_the_run() -> None:
    class Broken(Sleeper):
        def wake(self) -> None:
            raise LookupError("a bug")

    alarms = Alarms(128)
    alarms.set(Broken(alarms), time.monotonic_ns())

    with anyio.fail_after(60), pytest.raises(LookupError):
        await alarms.run()


async def test_the_timer_sleeps_between_alarms_instead_of_spinning() -> None:
    """A loop that counts in milliseconds would end a sleep of 2.5 ms after 2 ms, and then spin."""
    spent_ms: list[float] = []
    for _ in range(3):  # on a busy machine the same work takes more CPU; a loop that spins always does
        alarms = Alarms(128)
        busy = Sleeper(alarms, every_ns=SLEEP_STEP_NS * 5 // 2)
        alarms.set(busy, time.monotonic_ns())
        before_s = time.process_time()

        await run_until(alarms, lambda busy=busy: len(busy.woken_ns) > 100)

        spent_ms.append((time.process_time() - before_s) * 1000 / len(busy.woken_ns))
        if spent_ms[-1] < 1.0:
            break
    assert min(spent_ms) < 1.0, "too much CPU time for each alarm"


async def test_alarms_that_were_set_again_are_not_kept() -> None:
    alarms = Alarms(128)
    sleeper = Sleeper(alarms)
    now_ns = time.monotonic_ns()

    for number in range(100_000):
        alarms.set(sleeper, now_ns + 60_000 * MS + number)

    assert alarms.held <= 32


class Reader(Sleeper):
    """Has a reading under way from its wake-up until `answer`; notes the highest number of them."""

    under_way: ClassVar[int] = 0
    most: ClassVar[int] = 0

    def wake(self) -> None:
        super().wake()
        Reader.under_way += 1
        Reader.most = max(Reader.most, Reader.under_way)
        self.alarms.set(self, time.monotonic_ns() + 60_000 * MS, reading=True)

    def answer(self) -> None:
        Reader.under_way -= 1
        self.alarms.set(self, None)


async def test_readings_in_flight_are_bounded_and_each_reader_has_its_turn() -> None:
    Reader.under_way = Reader.most = 0
    alarms = Alarms(10, patience_ns=60_000 * MS)
    readers = [Reader(alarms) for _ in range(500)]
    now_ns = time.monotonic_ns()
    for reader in readers:
        alarms.set(reader, now_ns)

    async with anyio.create_task_group() as group:
        group.start_soon(alarms.run)
        with anyio.fail_after(60):
            for reader in readers:
                await reader.woken.wait()
                reader.answer()
        group.cancel_scope.cancel()

    assert Reader.most == 10
    woken_ns = [reader.woken_ns for reader in readers]
    assert woken_ns == sorted(woken_ns)
    assert all(len(each) == 1 for each in woken_ns)


async def test_a_reading_without_an_answer_is_woken_at_its_deadline_and_makes_room() -> None:
    alarms = Alarms(1, patience_ns=60_000 * MS)
    stuck, behind = Sleeper(alarms), Sleeper(alarms)
    now_ns = time.monotonic_ns()
    alarms.set(stuck, now_ns + 20 * MS, reading=True)
    alarms.set(behind, now_ns)

    async with anyio.create_task_group() as group:
        group.start_soon(alarms.run)
        with anyio.fail_after(60):
            await stuck.woken.wait()
            assert behind.woken_ns == []
            alarms.set(stuck, None)
            await behind.woken.wait()
        group.cancel_scope.cancel()


async def test_an_alarm_that_waits_for_room_and_is_changed_waits_for_its_new_time() -> None:
    alarms = Alarms(1, patience_ns=60_000 * MS)
    stuck, behind = Sleeper(alarms), Sleeper(alarms)
    now_ns = time.monotonic_ns()
    alarms.set(stuck, now_ns + 60_000 * MS, reading=True)
    alarms.set(behind, now_ns)

    async with anyio.create_task_group() as group:
        group.start_soon(alarms.run)
        await anyio.sleep(0.02)
        alarms.set(behind, now_ns + 60_000 * MS)
        alarms.set(stuck, None)
        await anyio.sleep(0.02)
        group.cancel_scope.cancel()

    assert behind.woken_ns == []


class Silent(Sleeper):
    """Has a reading in flight that is never answered, once it was woken."""

    def wake(self) -> None:
        super().wake()
        self.alarms.set(self, time.monotonic_ns() + 60_000 * MS, reading=True)


async def test_vms_that_never_answer_do_not_delay_those_of_another_owner() -> None:
    """A thousand of them take 10 s, ten at a time for a tenth of a second."""
    alarms = Alarms(10, patience_ns=100 * MS)
    now_ns = time.monotonic_ns()
    silent = [Silent(alarms, owner=1000) for _ in range(1000)]
    other = Sleeper(alarms, owner=1001)
    for sleeper in (*silent, other):
        alarms.set(sleeper, now_ns)

    await run_until(alarms, lambda: bool(other.woken_ns))

    assert sum(bool(each.woken_ns) for each in silent) < 500
    await run_until(alarms, lambda: sum(bool(each.woken_ns) for each in silent) > 30)
