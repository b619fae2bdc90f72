"""Tests of the event loops for libvirt's client library: what is called, when, where, and what is freed."""

import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest

from agent.libvirt import event_loops
from agent.libvirt.event_loops import ERROR, HANGUP, READABLE, WRITABLE, EventLoop, EventLoops

DEADLINE_S = 60
EACH_TURN_MS, NEVER_MS = 0, -1


class Calls:
    """A callback that records its arguments and the threads that call it."""

    def __init__(self, action: Callable[[], object] = lambda: None) -> None:
        self.all: list[tuple[object, ...]] = []
        self.threads: set[threading.Thread] = set()
        self._action = action
        self._more = threading.Semaphore(0)

    def __call__(self, *arguments: object) -> None:
        self.all.append(arguments)
        self.threads.add(threading.current_thread())
        self._action()
        self._more.release()

    def wait(self) -> tuple[object, ...]:
        assert self._more.acquire(timeout=DEADLINE_S)
        return self.all[-1]


@contextmanager
def pipe() -> Generator[tuple[int, int]]:
    """Open a pipe; yield the descriptor to read from and the one to write to."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


@contextmanager
def opened(loops: EventLoops) -> Generator[EventLoop]:
    """Open a loop that this thread adds to. The loop's own thread must end with the block."""
    loop = loops.open()
    with loops.using(loop):
        yield loop
    loop.close()
    loop.join()


def test_a_handle_is_called_for_its_events_in_the_thread_of_its_loop() -> None:
    loops, calls = EventLoops(), Calls()
    with opened(loops), pipe() as (reads, writes):
        number = loops.add_handle(reads, READABLE, calls, "mine")
        os.write(writes, b"x")

        assert calls.wait() == (number, reads, READABLE, "mine")
        assert threading.current_thread() not in calls.threads
        loops.remove(number)


def test_events_of_a_handle_are_those_of_its_descriptor() -> None:
    loops, ended, writable = EventLoops(), Calls(), Calls()
    with opened(loops):
        with pipe() as (reads, writes):
            number = loops.add_handle(writes, WRITABLE, writable, None)
            assert writable.wait()[2] == WRITABLE
            loops.remove(number)

            kept = os.dup(reads)
            number = loops.add_handle(kept, READABLE | ERROR | HANGUP, ended, None)
        assert ended.wait()[2] == HANGUP
        loops.remove(number)
        os.close(kept)

        assert loops.add_handle(kept, READABLE, ended, None) == -1  # it is not open


def test_a_handle_without_events_is_not_called_until_it_has_some() -> None:
    loops, calls, other = EventLoops(), Calls(), Calls()
    with opened(loops), pipe() as (reads, writes):
        number = loops.add_handle(reads, 0, calls, None)
        os.write(writes, b"x")
        timer = loops.add_timer(EACH_TURN_MS, other, None)
        for _ in range(3):
            other.wait()
        loops.remove(timer)
        assert not calls.all

        loops.update_handle(number, READABLE)
        calls.wait()
        loops.remove(number)


def test_a_timer_fires_repeatedly_until_it_is_disabled() -> None:
    loops, calls, other = EventLoops(), Calls(), Calls()
    with opened(loops):
        begun_s = time.monotonic()
        timer = loops.add_timer(20, calls, "mine")
        for _ in range(3):
            assert calls.wait() == (timer, "mine")
        assert time.monotonic() - begun_s >= 0.06

        loops.update_timer(timer, NEVER_MS)
        turns = loops.add_timer(EACH_TURN_MS, other, None)
        other.wait()  # one call may have been under way
        seen = len(calls.all)
        time.sleep(0.1)
        other.wait()
        assert len(calls.all) == seen
        for number in (timer, turns):
            loops.remove(number)


def test_a_disabled_timer_waits_until_it_is_started() -> None:
    loops, calls = EventLoops(), Calls()
    with opened(loops):
        timer = loops.add_timer(NEVER_MS, calls, None)
        time.sleep(0.05)
        assert not calls.all

        loops.update_timer(timer, EACH_TURN_MS)  # wakes a loop that waits without end
        for _ in range(3):
            calls.wait()
        loops.remove(timer)


def test_a_timer_that_is_put_off_fires_later_and_one_that_is_brought_forward_earlier() -> None:
    loops, calls, other = EventLoops(), Calls(), Calls()
    with opened(loops):
        put_off, brought_forward = loops.add_timer(20, calls, None), loops.add_timer(3_600_000, other, None)
        loops.update_timer(put_off, 3_600_000)
        time.sleep(0.05)  # the thread wakes, and finds nothing due
        loops.update_timer(brought_forward, 20)
        for _ in range(3):
            other.wait()
        assert len(calls.all) <= 1  # it may have fired before it was put off
        for number in (put_off, brought_forward):
            loops.remove(number)


def test_a_callback_may_update_and_remove_itself_and_others() -> None:
    loops, numbers, removed = EventLoops(), list[int](), threading.Event()

    def remove_all() -> None:
        for number in numbers:
            loops.remove(number)
        removed.set()

    first, second = Calls(remove_all), Calls(remove_all)
    with opened(loops), pipe() as (reads, writes), pipe() as (others_reads, others_writes):
        for end in (writes, others_writes):
            os.write(end, b"x")
        for end, calls in ((reads, first), (others_reads, second)):
            numbers.append(loops.add_handle(end, 0, calls, None))
        timer = loops.add_timer(NEVER_MS, Calls(), None)
        numbers.append(timer)
        for number in numbers[:2]:
            loops.update_handle(number, READABLE)
        assert removed.wait(DEADLINE_S)
    assert len(first.all) + len(second.all) <= 2
    assert first.all or second.all


def test_the_data_of_a_removed_handle_is_freed_in_the_loops_thread_after_its_callback() -> None:
    freed: list[tuple[object, threading.Thread]] = []
    running, go_on = threading.Event(), threading.Event()
    loops = EventLoops(free=lambda opaque: freed.append((opaque, threading.current_thread())))

    def stay() -> None:
        running.set()
        assert go_on.wait(DEADLINE_S)

    calls = Calls(stay)
    with opened(loops), pipe() as (reads, writes):
        number = loops.add_handle(reads, READABLE, calls, "mine")
        os.write(writes, b"x")
        assert running.wait(DEADLINE_S)

        assert loops.remove(number) == 0  # while it runs
        assert loops.remove(number) == -1
        assert not freed
        go_on.set()
    assert freed == [("mine", *calls.threads)]
    assert len(calls.all) == 1


def test_a_busy_event_loop_does_not_delay_another_event_loop() -> None:
    loops, go_on, running = EventLoops(), threading.Event(), threading.Event()

    def stay() -> None:
        running.set()
        assert go_on.wait(DEADLINE_S)

    busy, other = Calls(stay), Calls()
    first, second = loops.open(), loops.open()
    try:
        with loops.using(first):
            hung = loops.add_timer(EACH_TURN_MS, busy, None)
        assert running.wait(DEADLINE_S)
        with loops.using(second):
            timer = loops.add_timer(1, other, None)
        other.wait()
        assert not busy.threads & other.threads
    finally:
        go_on.set()
        for number in (hung, timer):
            loops.remove(number)
        for loop in (first, second):
            loop.close()
            loop.join()


def test_what_a_callback_adds_belongs_to_its_own_loop() -> None:
    loops, later = EventLoops(), Calls()
    numbers: list[int] = []

    def add() -> None:
        if not numbers:  # the callback may run once more after its timer was removed
            numbers.append(loops.add_timer(1, later, None))

    first = Calls(add)
    with opened(loops):
        timer = loops.add_timer(EACH_TURN_MS, first, None)
        first.wait()
        loops.remove(timer)
        later.wait()
        assert first.threads == later.threads
        loops.remove(numbers[0])


def test_a_thread_that_has_no_loop_adds_to_a_shared_one() -> None:
    loops, calls = EventLoops(), Calls()

    numbers = [loops.add_timer(1, calls, None) for _ in range(2)]
    calls.wait()
    for number in numbers:
        loops.remove(number)

    assert len(calls.threads) == 1
    shared = loops._shared  # pyrefly: ignore[protected-access]
    assert shared is not None
    shared.close()
    shared.join()


def test_a_closed_loop_ends_after_its_last_handle_and_accepts_no_more() -> None:
    loops = EventLoops()
    before = set(threading.enumerate())
    loop = loops.open()
    with loops.using(loop):
        timer = loops.add_timer(NEVER_MS, Calls(), None)
        loop.close()
        (thread,) = set(threading.enumerate()) - before
        thread.join(0.05)
        assert thread.is_alive()

        loops.remove(timer)
        loop.join()
        assert loops.add_timer(1, Calls(), None) == -1
        assert loops.add_handle(0, READABLE, Calls(), None) == -1
        loops.update_timer(timer, 1)
        loops.update_handle(timer, READABLE)


def test_a_callback_that_raises_does_not_end_its_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loops, "_PAUSE_AFTER_FAILURE_S", 0.001)

    def fail() -> None:
        raise MemoryError

    failing, calls = Calls(fail), Calls()
    loops = EventLoops()
    with opened(loops):
        numbers = [loops.add_timer(1, each, None) for each in (failing, calls)]
        calls.wait()
        assert failing.all
        for number in numbers:
            loops.remove(number)


def test_each_descriptor_can_be_replaced_before_the_loop_waits_for_it() -> None:
    loops, calls, readable = EventLoops(), Calls(), Calls()
    with pipe() as (reads, writes), pipe() as (others, _):
        loop = loops.open(lambda descriptor: (calls(descriptor), os.dup2(reads, descriptor)))
        with loops.using(loop):
            number = loops.add_handle(others, READABLE, readable, None)
        assert calls.all == [(others,)]
        os.write(writes, b"x")
        assert readable.wait()[1] == others
        loops.remove(number)
        loop.close()
        loop.join()


def test_a_handle_is_not_added_if_its_descriptor_cannot_be_replaced() -> None:
    def fail(_descriptor: int) -> None:
        raise OSError

    loops = EventLoops()
    loop = loops.open(fail)
    with pipe() as (reads, _), loops.using(loop):
        assert loops.add_handle(reads, READABLE, Calls(), None) == -1
    loop.close()
    loop.join()


def test_without_a_thread_no_descriptor_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(RuntimeError):
        EventLoops().open()
    assert os.listdir("/proc/self/fd") == before
