from collections.abc import Sequence

import anyio

from agent.core.reading import Record, RecordKind
from agent.spool.memory import MemoryBuffer
from agent.telemetry import Count, Counters


def record(n: int, kind: RecordKind = RecordKind.SAMPLE, size_bytes: int = 100) -> Record:
    return Record(kind, str(n), "k", n, b"", b"x" * (size_bytes - 1))


def ids(records: Sequence[Record]) -> list[str]:
    return [each.id for each in records]


async def drain(buffer: MemoryBuffer) -> list[str]:
    out: list[str] = []
    while batch := await buffer.take(records_max=3, size_bytes_max=10_000):
        out += ids(batch)
        await buffer.settle(())
    return out


async def test_records_come_out_in_the_order_they_went_in() -> None:
    buffer = MemoryBuffer("kafka", 10_000, Counters())
    for n in range(20):
        buffer.append(record(n, RecordKind.VM_STATE if n % 3 == 0 else RecordKind.SAMPLE))

    assert await drain(buffer) == [str(n) for n in range(20)]
    assert (buffer.waiting, buffer.held_bytes) == (0, 0)


async def test_a_taken_batch_is_returned_again_until_it_is_settled() -> None:
    buffer = MemoryBuffer("kafka", 10_000, Counters())
    for n in range(4):
        buffer.append(record(n))

    first = await buffer.take(records_max=2, size_bytes_max=10_000)
    again = await buffer.take(records_max=4, size_bytes_max=10_000)
    await buffer.settle(())
    second = await buffer.take(records_max=4, size_bytes_max=10_000)

    assert ids(first) == ids(again) == ["0", "1"]
    assert ids(second) == ["2", "3"]


async def test_a_batch_is_bounded_in_bytes_and_never_empty() -> None:
    buffer = MemoryBuffer("kafka", 10_000, Counters())
    for n in range(4):
        buffer.append(record(n))

    assert ids(await buffer.take(records_max=10, size_bytes_max=250)) == ["0", "1"]
    await buffer.settle(())
    assert ids(await buffer.take(records_max=10, size_bytes_max=1)) == ["2"]


async def test_the_buffer_never_holds_more_than_its_size() -> None:
    counters = Counters()
    buffer = MemoryBuffer("kafka", 1_000, counters)
    for n in range(50):
        buffer.append(record(n))
        assert buffer.held_bytes <= 1_000

    assert await drain(buffer) == [str(n) for n in range(40, 50)]


async def test_a_full_buffer_drops_memory_records_then_samples_then_states() -> None:
    counters = Counters()
    buffer = MemoryBuffer("kafka", 500, counters)
    buffer.append(record(0, RecordKind.VM_STATE))
    buffer.append(record(1))
    for n, kind in enumerate((RecordKind.VM_MEMORY, RecordKind.HOST_MEMORY) * 3, 2):
        buffer.append(record(n, kind))

    assert counters.total(Count.DROPPED, "kafka:full") == 3
    for n in range(8, 13):
        buffer.append(record(n))

    assert await drain(buffer) == ["0", "9", "10", "11", "12"]
    assert counters.total(Count.DROPPED, "kafka:full") == 8


async def test_a_batch_in_flight_is_not_dropped() -> None:
    buffer = MemoryBuffer("kafka", 300, Counters())
    for n in range(3):
        buffer.append(record(n))
    in_flight = await buffer.take(records_max=2, size_bytes_max=10_000)

    for n in range(3, 10):
        buffer.append(record(n))

    assert await buffer.take(records_max=9, size_bytes_max=10_000) == in_flight


async def test_every_drop_is_counted_by_sink_and_reason() -> None:
    counters = Counters()
    buffer = MemoryBuffer("lines", 10_000, counters)
    for n in range(5):
        buffer.append(record(n))
    await buffer.take(records_max=2, size_bytes_max=10_000)

    assert buffer.abandon() == 5
    assert counters.snapshot() == {"dropped/lines:shutdown": 5, "queued/lines": 5}
    assert buffer.waiting == 0


async def test_arrival_returns_once_a_record_is_held() -> None:
    buffer = MemoryBuffer("kafka", 10_000, Counters())
    arrived: list[int] = []

    async def wait() -> None:
        await buffer.arrival()
        arrived.append(buffer.waiting)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            assert arrived == []
            buffer.append(record(1))

    assert arrived == [1]
