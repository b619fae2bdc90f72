"""Tests that the agent reads everything that 0.1.0 left on disk. `released-0.1.0/` is never rewritten."""

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from agent.core.reading import Record
from agent.spool.dead_letters import dead_letters
from agent.spool.ledger import open_ledger
from agent.spool.queues import Queue
from agent.spool.store import Bounds, Store, open_store
from agent.spool.verify import verify
from tests.golden import documents, state_directory
from tests.golden.command_line import RELEASED, released
from tests.golden.documents import FAR_MS, memory_document
from tests.golden.scenarios import DOMAIN, DOMAIN_MARK, DOMAIN_UUID, MONITOR, Told


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    released(tmp_path / "state")
    return tmp_path / "state"


@pytest.fixture
def store(directory: Path) -> Iterator[Store]:
    opened = open_store(directory / state_directory.SPOOL, Bounds())
    yield opened
    opened.close()


def of_the_stories() -> list[tuple[Record, str]]:
    """Return the records of the stories, each with the path of its VM."""
    return [
        (record, story.path)
        for story in state_directory.monitor_and_domain()
        for record in documents.records(story)
    ]


async def test_the_ledger_is_read_and_written_unchanged(directory: Path) -> None:
    async with open_ledger(str(directory), FAR_MS) as ledger:
        entries = ledger.entries()

    assert [str(each.address) for each in entries] == [MONITOR, "/run/vm/\u00e4 b.qmp", DOMAIN]
    assert {documents.write_changes([each]) for each in entries} == {
        documents.write_changes([each])
        for each in (documents.CHANGES[0], documents.SET_TWICE, documents.CHANGES[2])
    }
    content = (RELEASED / state_directory.LEDGER).read_bytes()
    assert documents.write_changes(documents.read_changes(content)) == content


def test_memories_are_those_of_the_stories_and_their_addresses_keep_their_text(store: Store) -> None:
    found, problems = store.memories()

    assert problems == []
    assert [str(address) for address in found] == [MONITOR, DOMAIN]
    assert [str(memory.path) for memory in found.values()] == [MONITOR, DOMAIN]
    assert [memory_document(memory) for memory in found.values()] == [
        memory_document(story.memory) for story in state_directory.monitor_and_domain()
    ]


def test_a_vm_continues_where_0_1_0_left_it(store: Store) -> None:
    found = {str(address): memory for address, memory in store.memories()[0].items()}
    before = {story.path: story for story in state_directory.monitor_and_domain()}
    again = [
        Told(wall_ms=FAR_MS, before=found[MONITOR], now_ns=before[MONITOR].now_ns),
        Told(
            wall_ms=FAR_MS,
            before=found[DOMAIN],
            now_ns=before[DOMAIN].now_ns,
            path=DOMAIN,
            uuid=DOMAIN_UUID,
            mark=DOMAIN_MARK,
            balloon_path="balloon0",
        ),
    ]
    for story in again:
        story.reading = before[story.path].reading
        story.start()  # what was sent is not sent again
        story.run_s(1)
        story.run_s(1)

        assert [each.sequence for each in story.samples] == [4, 5]
        assert {each.epoch for each in story.samples} == {before[story.path].samples[-1].epoch}


def test_queued_records_and_dead_letters_are_kept(directory: Path, store: Store) -> None:
    waiting = [record for queue in Queue for _, record in store.read(queue, after=0, size_bytes_max=1 << 20)]
    refused = [letter.record for letter in dead_letters(directory / state_directory.SPOOL)]

    ids = [record.id for record, _ in of_the_stories()]
    assert {record.id for record in waiting} == {*ids, "01926d2e-8f00-7000-8000-000000000001/7"} - {
        record.id for record in refused if record is not None
    }
    assert len(refused) == 2
    assert verify(directory / state_directory.SPOOL).problems == []


def test_opening_the_spool_does_not_change_it(directory: Path, store: Store) -> None:
    recorded = (RELEASED / "spool.sql").read_text(encoding="utf-8").splitlines()

    found = state_directory.logical(directory / state_directory.SPOOL).splitlines()
    assert found == recorded


def test_a_running_agent_uses_the_state_directory(directory: Path) -> None:
    async def taken() -> tuple[int, int, list[str]]:
        async with state_directory.open_spool(
            state_directory.Settings(directory=directory), state_directory.Counters(), lambda: FAR_MS
        ) as spool:
            paths = [str(address) for address in spool.memories]
            return spool.queue(Queue.SAMPLES).held, spool.queue(Queue.STATES).held, paths

    assert anyio.run(taken) == (5, 4, [MONITOR, DOMAIN])
