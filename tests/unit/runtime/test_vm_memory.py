"""Tests of the rounds of the VMs' memory, with files that can be read, that hang, and that raise."""

import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import pytest
from msgspec.structs import replace

from agent.core.address import Address
from agent.core.poller import Poller
from agent.core.reading import ProcessMemory, VmId, VmMemory
from agent.core.vm_memory import HostView, Subject
from agent.runtime import vm_memory
from agent.runtime.vm_memory import VmMemoryRounds
from tests.unit.core.driving import Story

pytestmark = pytest.mark.anyio

SEEN = HostView(ProcessMemory(7, 0, None, 5), None)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Records:
    """Notes the records."""

    all: list[VmMemory] = field(default_factory=list[VmMemory])
    came: anyio.Event = field(default_factory=anyio.Event)

    def vm_memory(self, memory: VmMemory) -> None:
        self.all.append(memory)
        self.came.set()
        self.came = anyio.Event()

    async def until(self, count: int) -> None:
        with anyio.fail_after(60):
            while len(self.all) < count:
                await self.came.wait()


@dataclass
class Files:
    """The host's files; `held` blocks each look until it is set."""

    held: threading.Event | None = None
    raises: bool = False
    looks: int = 0
    vms: list[int] = field(default_factory=list[int])  # in each look

    def look(self, subjects: Sequence[Subject], now_ms: int) -> Mapping[Address, HostView]:
        self.looks += 1
        self.vms.append(len(subjects))
        if self.held is not None:
            self.held.wait(30)
        if self.raises:
            raise OSError("odd")
        return {subject.address: SEEN for subject in subjects}


@asynccontextmanager
async def rounds(files: Files, pollers: Sequence[Poller] = ()) -> AsyncGenerator[Records]:
    records = Records()
    known = pollers or [Story().start().poller]
    async with anyio.create_task_group() as group:
        group.start_soon(VmMemoryRounds(lambda: known, records, 0.05, lambda _: None, files.look).run)
        try:
            yield records
        finally:
            if files.held is not None:
                files.held.set()
            group.cancel_scope.cancel()


async def test_each_round_has_one_look_and_a_record_of_each_vm_with_the_next_number() -> None:
    files = Files()
    async with rounds(files) as records:
        await records.until(3)
        assert files.looks >= 3

    assert [each.sequence for each in records.all[:3]] == [1, 2, 3]
    assert {each.process for each in records.all} == {SEEN.process}


def pollers_of(vms: int) -> list[Poller]:
    poller = Story().start().poller
    identity = poller.process.identity
    assert identity is not None
    return [
        replace(poller, process=replace(poller.process, identity=replace(identity, id=VmId(f"{number}"))))
        for number in range(vms)
    ]


async def test_a_round_of_many_vms_is_made_in_slices_and_a_vm_that_ends_meanwhile_is_left_out() -> None:
    files, pollers = Files(), pollers_of(45)
    async with rounds(files, pollers) as records:
        await records.until(20)
        del pollers[-1]
        await records.until(90)

    assert files.vms[:4] == [20, 20, 4, 20]
    assert [each.sequence for each in records.all[:88]] == [1] * 44 + [2] * 44
    assert [each.vm.id for each in records.all[:44]] == [f"{number}" for number in range(44)]


async def test_hanging_files_are_read_once_and_the_records_do_not_contain_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vm_memory, "READ_WITHIN_S", 0.05)
    files = Files(held=threading.Event())
    async with rounds(files) as records:
        await records.until(4)
        assert files.looks == 1
        assert {each.process for each in records.all} == {None}
        assert files.held is not None
        files.held.set()
        with anyio.fail_after(60):
            while records.all[-1].process is None:
                await records.came.wait()
        assert files.looks <= 3  # no look was queued meanwhile


async def test_a_bug_in_the_look_costs_its_values_and_no_record() -> None:
    files = Files(raises=True)
    async with rounds(files) as records:
        await records.until(2)

    assert {each.process for each in records.all} == {None}
