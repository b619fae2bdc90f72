"""Calls into libvirt: several at a time, reused threads, late results."""

import threading

import anyio
import pytest

from agent.libvirt.calls import OWNERS_FACTOR, Caller, HeldThreads


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_result_and_an_error_come_back_to_the_caller() -> None:
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


def test_threads_of_very_many_owners_are_bounded() -> None:
    held = HeldThreads(8, 64)
    for owner in range(5_000):
        if held.refusal(f"{owner}", owner) is None:
            held.hold(f"{owner}", owner)
    refused = [held.refusal(f"{owner}", owner) for owner in range(5_000)]

    assert (
        refused.count("too many libvirt daemons do not answer: 256 calls have not ended; restart them")
        == 5_000
    )
    held.release("0", 0)
    assert held.refusal("0", 0) is None
    assert OWNERS_FACTOR * 64 == 256
