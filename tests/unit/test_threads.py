"""Tests of the bridge to threads that may hang."""

import gc
import re
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import anyio
import pytest

from agent.threads import Call, WorkerThread, in_thread


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Result:
    """Something that can be referred to weakly."""


async def ended(thread: WorkerThread) -> None:
    with anyio.fail_after(60):
        while thread.is_alive:  # noqa: ASYNC110 - a thread sets no event when it has ended
            await anyio.sleep(0.005)


async def test_a_result_and_an_error_reach_the_event_loop() -> None:
    thread = WorkerThread("test")

    assert await thread.run(lambda: threading.current_thread().name) == "test"
    with pytest.raises(ZeroDivisionError):
        await thread.run(lambda: 1 // 0)
    with pytest.raises(SystemExit):
        await thread.run(sys.exit)
    thread.end()
    await ended(thread)


async def test_calls_are_made_in_order_one_at_a_time_and_the_thread_ends_after_them() -> None:
    thread = WorkerThread("test")
    log: list[str] = []

    def call(n: int) -> None:
        log.append(f"begin {n}")
        time.sleep(0.01)
        log.append(f"end {n}")

    calls = [thread.submit(lambda n=n: call(n)) for n in range(3)]
    thread.end()
    for each in calls:
        await each.wait()

    assert log == [f"{what} {n}" for n in range(3) for what in ("begin", "end")]
    await ended(thread)


async def test_a_canceled_task_leaves_its_call_running_and_the_next_call_waits_for_it() -> None:
    thread = WorkerThread("test")
    go_on = threading.Event()
    returned: list[str] = []
    abandoned: list[Call[bool]] = []
    with anyio.move_on_after(0.01) as scope:
        abandoned.append(thread.submit(go_on.wait, lambda: returned.append("abandoned")))
        await abandoned[0].wait()
    assert scope.cancelled_caught

    following = thread.submit(lambda: "following", lambda: returned.append("following"))
    await anyio.sleep(0.02)
    assert (returned, abandoned[0].done.is_set()) == ([], False)

    go_on.set()
    assert await following.wait() == "following"
    assert returned == ["abandoned", "following"]
    thread.end()
    await ended(thread)


async def test_reports_reach_the_event_loop_in_order_before_the_end_of_the_call() -> None:
    thread = WorkerThread("test")
    heard: list[int | str] = []

    def call() -> None:
        for n in range(3):
            assert thread.report(lambda n=n: heard.append(n))

    await thread.submit(call, lambda: heard.append("end")).wait()

    assert heard == [0, 1, 2, "end"]
    thread.end()
    await ended(thread)


async def test_an_idle_thread_keeps_no_result() -> None:
    thread = WorkerThread("test")
    kept = weakref.ref(await thread.run(Result))

    with anyio.fail_after(60):
        while kept() is not None:  # the thread may not be idle yet
            await anyio.sleep(0.005)
            gc.collect()
    thread.end()
    await ended(thread)


def test_a_thread_ends_after_its_event_loop() -> None:
    go_on, reported = threading.Event(), threading.Event()
    outcomes: list[bool] = []

    async def begin() -> WorkerThread:
        thread = WorkerThread("test")

        def call() -> None:
            go_on.wait(60)
            outcomes.append(thread.report(lambda: None))
            reported.set()

        thread.submit(call)
        return thread

    thread = anyio.run(begin)
    go_on.set()
    assert reported.wait(60)
    deadline_s = time.monotonic() + 60
    while thread.is_alive and time.monotonic() < deadline_s:
        time.sleep(0.005)

    assert outcomes == [False]
    assert not thread.is_alive


HANGS = """
import anyio, threading
from agent.threads import WorkerThread
async def main():
    with anyio.move_on_after(0.05):
        await WorkerThread("hangs").run(threading.Event().wait)
anyio.run(main)
print("over")
"""


def test_a_hung_call_does_not_delay_the_end_of_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], check=True, capture_output=True, timeout=120)

    assert done.stdout == b"over\n"


async def test_a_single_call_that_hangs_delays_neither_its_caller_nor_the_end_of_the_loop() -> None:
    go_on = threading.Event()
    with anyio.move_on_after(0.01) as scope:
        await in_thread(go_on.wait)

    assert scope.cancelled_caught
    assert await in_thread(lambda: threading.current_thread().daemon)
    go_on.set()


async def test_single_calls_that_hang_are_bounded() -> None:
    def threads() -> int:
        return sum(each.name == "blocking call" for each in threading.enumerate())

    go_on = threading.Event()
    async with anyio.create_task_group() as group:
        for _ in range(60):
            group.start_soon(in_thread, go_on.wait)
        with anyio.fail_after(60):
            while threads() < 40:  # noqa: ASYNC110 - a thread sets no event when it has begun
                await anyio.sleep(0.005)
        await anyio.sleep(0.05)  # time in which more could begin
        group.cancel_scope.cancel()
    try:
        assert threads() <= 40
        with anyio.move_on_after(0.01) as scope:
            await in_thread(bool)
        assert scope.cancelled_caught
    finally:
        go_on.set()
    with anyio.fail_after(60):
        assert await in_thread(bool) is False


def test_no_module_uses_threads_that_the_interpreter_waits_for() -> None:
    sources = [
        path for path in (Path(__file__).parents[2] / "agent").rglob("*.py") if path.name != "threads.py"
    ]
    used = re.compile(r"to_thread\.|run_in_executor|anyio\.getaddrinfo|loop\.getaddrinfo|ThreadPoolExecutor")
    assert len(sources) > 50
    assert [str(path) for path in sources if used.search(path.read_text())] == []


async def test_the_result_of_a_canceled_call_is_discarded() -> None:
    begun, go_on, discarded = threading.Event(), threading.Event(), anyio.Event()

    def call() -> int:
        begun.set()
        go_on.wait(60)
        return 7

    def discard(result: int) -> None:
        assert result == 7
        discarded.set()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(in_thread, call, discard)
            while not begun.is_set():  # noqa: ASYNC110 - an event of the thread
                await anyio.sleep(0.005)
            group.cancel_scope.cancel()
        assert not discarded.is_set()
        go_on.set()
        await discarded.wait()


def test_the_result_of_a_call_that_outlives_its_event_loop_is_discarded() -> None:
    go_on, discarded = threading.Event(), threading.Event()

    async def begin() -> None:
        with anyio.move_on_after(0.01):
            await in_thread(lambda: go_on.wait(60), lambda _: discarded.set())

    anyio.run(begin)
    assert not discarded.is_set()
    go_on.set()

    assert discarded.wait(60)
