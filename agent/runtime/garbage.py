"""When Python collects cyclic garbage: rarely, and only among new objects.

A full collection visits every object, and no VM is read meanwhile. With 1,000 VMs these pauses dominate the
lag. Objects that live as long as their VM are therefore frozen (`gc.freeze`) after one collection. The
thresholds of the collector are in `agent/__init__.py`, since most objects are made by imports.
"""

import contextlib
import ctypes
import gc

import anyio

SETTLED_AFTER_S = 10.0
"""Start-up makes most of the objects that stay: links, tasks, histories."""

COLLECT_EVERY_S = 30.0
"""A failed link leaves a cycle of exceptions, frames and up to 64 KiB of what it read. If the link lasted a
while, only a full collection finds it, and the thresholds cause one only after many megabytes. Frozen objects
are skipped, so these collections are short."""

AGAIN_AFTER_S = 600.0
"""VMs come and go. Garbage among frozen objects is found only after they are unfrozen."""

_M_ARENA_MAX = -8  # glibc's malloc.h


def use_one_arena() -> None:
    """Have glibc's malloc use one heap: otherwise each thread gets its own, which keeps what was freed.

    Call it before the first thread starts.
    """
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def freeze() -> None:
    """Collect garbage among all objects, then freeze the rest until the next call."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


async def keep_pauses_short(
    settled_after_s: float = SETTLED_AFTER_S,
    again_after_s: float = AGAIN_AFTER_S,
    collect_every_s: float = COLLECT_EVERY_S,
) -> None:
    """Freeze the objects that exist: now, after the start, and from time to time; until canceled.

    Newer objects are collected more often. At first nothing is collected: that would delay the scan. After
    the start only what it made is: the modules are not garbage.
    """
    gc.freeze()
    await anyio.sleep(settled_after_s)
    gc.collect()
    gc.freeze()
    while True:
        again_at_s = anyio.current_time() + again_after_s
        while (left_s := again_at_s - anyio.current_time()) > 0:
            await anyio.sleep(min(collect_every_s, left_s))
            gc.collect()
        freeze()
