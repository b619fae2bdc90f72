"""Tests of calls into libvirt: several at a time, in reused threads, with late results."""

import threading

import anyio
import pytest

from agent.libvirt.calls import Caller


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_result_and_an_error_reach_the_caller() -> None:
    caller = Caller("test", lambda: None)

    assert await caller.call(threading.current_thread) is not threading.current_thread()
    with pytest.raises(ZeroDivisionError):
        await caller.call(lambda: 1 // 0)
    caller.close()


async def test_an_abandoned_call_is_counted_when_it_returns_and_delays_no_other() -> None:
    late = anyio.Event()
    caller = Caller("test", late.set)
    go_on = threading.Event()

    with anyio.move_on_after(0.01) as scope:
        await caller.call(go_on.wait)
    assert scope.cancelled_caught
    assert caller.late == 1
    assert await caller.call(lambda: "another") == "another"
    assert not late.is_set()

    go_on.set()
    with anyio.fail_after(60):
        await late.wait()
    assert caller.late == 0
    caller.close()


async def test_threads_are_reused_and_end_when_the_caller_is_closed() -> None:
    caller = Caller("test threads", lambda: None)
    for _ in range(20):
        await caller.call(lambda: None)

    def mine() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each.name == "test threads"]

    (thread,) = mine()
    caller.close()
    await anyio.to_thread.run_sync(thread.join, 60)
    assert mine() == []


async def test_handles_of_a_failed_call_are_released_in_the_thread_of_the_call() -> None:
    released: list[str] = []

    class Handle:
        def __del__(self) -> None:
            released.append(threading.current_thread().name)

    def fail() -> None:
        handle = Handle()
        try:
            raise KeyError(id(handle))
        except KeyError as error:
            raise ValueError("refused") from error

    caller = Caller("test calls", lambda: None)
    with pytest.raises(ValueError, match="refused") as raised:
        await caller.call(fail)
    assert released == ["test calls"]
    assert raised.value.__traceback__ is not None  # the log shows where it was raised
    caller.close()
