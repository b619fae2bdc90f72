"""Tests of deadlines on an event loop that is blocked, like one that gets no CPU."""

import gc
import time
import weakref

import anyio

from agent.deadline import answer_within


async def test_a_block_that_takes_too_long_is_canceled() -> None:
    with answer_within(0.01) as scope:
        await anyio.sleep_forever()

    assert scope.cancelled_caught


async def test_a_block_that_ends_in_time_leaves_no_timer_behind() -> None:
    with answer_within(0.2) as scope:
        await anyio.lowlevel.checkpoint()
    await anyio.sleep(0.3)

    assert not scope.cancel_called


async def test_an_answer_that_arrived_while_the_loop_was_blocked_is_taken() -> None:
    answered = anyio.Event()

    async def answer_in_some_steps() -> None:
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        answered.set()

    async with anyio.create_task_group() as group:
        with answer_within(0.01) as scope:
            await anyio.lowlevel.checkpoint()
            time.sleep(0.3)  # noqa: ASYNC251 - the loop is to be blocked
            group.start_soon(answer_in_some_steps)
            await answered.wait()
        assert not scope.cancel_called


async def test_silence_after_the_loop_was_blocked_is_canceled() -> None:
    with answer_within(0.01) as scope:
        await anyio.lowlevel.checkpoint()
        time.sleep(0.3)  # noqa: ASYNC251 - the loop is to be blocked
        await anyio.sleep_forever()

    assert scope.cancelled_caught


async def test_a_block_that_ends_in_time_leaves_nothing_for_the_garbage_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        with answer_within(60.0) as scope:
            await anyio.lowlevel.checkpoint()
        left = weakref.ref(scope)
        del scope
        assert left() is None
    finally:
        gc.enable()
