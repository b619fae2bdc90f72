import anyio

from agent.core.reading import RecordKind
from agent.runtime.queue_watch import QueueWatch
from agent.spool.memory import MemoryBuffer
from agent.telemetry import Count, Counters
from tests.unit.spool.making import record


async def test_the_outlook_is_that_of_the_queues_now() -> None:
    counters = Counters()
    buffer = MemoryBuffer("lines", 1 << 20, counters, frozenset(RecordKind))
    watch = QueueWatch({"lines": buffer}, counters, None, None)
    async with anyio.create_task_group() as group:
        group.start_soon(watch.run)
        await anyio.wait_all_tasks_blocked()
        buffer.append(record(1), None)
        counters.add(Count.DELIVERED, 4, reason="lines")
        group.cancel_scope.cancel()

    outlook = watch.outlook()
    queue = outlook.queues["lines"]
    assert queue.size == 1
    assert queue.oldest_ms is not None
    assert queue.added_per_s is None  # the readings are less than 10 s apart
    assert outlook.spool is None
