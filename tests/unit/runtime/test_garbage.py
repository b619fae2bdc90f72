"""Tests that full collections skip long-lived objects, and that no garbage is kept forever."""

import gc
import subprocess
import sys
import weakref
from collections.abc import Generator

import anyio
import pytest

from agent.runtime.garbage import freeze, keep_pauses_short


class Knot:
    """Garbage that only the collector finds, once nothing else refers to it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def as_before() -> Generator[None]:
    yield
    gc.unfreeze()


def test_live_objects_are_frozen_and_garbage_among_them_is_found_the_next_time() -> None:
    knot = Knot()
    left = weakref.ref(knot)
    freeze()
    assert gc.get_freeze_count() > 1000
    del knot
    gc.collect()
    assert left() is not None  # frozen objects are skipped

    freeze()

    assert left() is None


async def a_knot_is_found() -> None:
    found = anyio.Event()
    weakref.finalize(Knot(), found.set)
    with anyio.fail_after(60):
        await found.wait()


async def test_objects_are_frozen_at_once_after_the_start_and_again() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(keep_pauses_short, 0.01, 0.01)
        for _ in range(3):
            await a_knot_is_found()
        group.cancel_scope.cancel()


async def test_new_objects_are_collected_more_often_than_frozen_ones() -> None:
    old = Knot()
    kept = weakref.ref(old)
    async with anyio.create_task_group() as group:
        group.start_soon(keep_pauses_short, 0.01, 3600, 0.01)
        await anyio.wait_all_tasks_blocked()  # what is older is frozen by now
        for _ in range(3):  # at most one of them after the start
            await a_knot_is_found()
        del old
        await a_knot_is_found()
        assert kept() is not None
        group.cancel_scope.cancel()


def test_imports_cause_few_collections() -> None:
    code = (
        "import gc; import agent; before = gc.get_stats()[2]['collections'];"
        "import agent.config; print(gc.get_stats()[2]['collections'] - before)"
    )
    full = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout

    assert int(full) == 0


HEAPS = """
import ctypes, sys, threading
from agent.runtime.garbage import use_one_arena
if "one" in sys.argv:
    use_one_arena()
alive = threading.Barrier(5)
def allocate():
    kept = bytes(10_000)
    alive.wait()
threads = [threading.Thread(target=allocate) for _ in range(4)]
for each in threads:
    each.start()
alive.wait()
libc = ctypes.CDLL(None)
stdout = ctypes.c_void_p.in_dll(libc, "stdout")
libc.malloc_info(0, stdout)
libc.fflush(stdout)
"""


@pytest.mark.parametrize(("words", "heaps"), [(["one"], {1}), ([], {2, 3, 4, 5})])
def test_threads_share_one_heap(words: list[str], heaps: set[int]) -> None:
    said = subprocess.run([sys.executable, "-c", HEAPS, *words], check=True, capture_output=True).stdout

    assert said.count(b"<heap nr=") in heaps
