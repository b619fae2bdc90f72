"""When Python looks for cyclic garbage: rarely, and only among what is new.

A full collection walks every object there is. With 1,000 VMs that is 285,000 of them, 80 to 180 ms each time,
every 2.5 s, while nobody is read: a p99 of the lag of 77 ms was those pauses. What lives as long as its VM
is set aside instead (`gc.freeze`), after it has been looked through once.
"""

import contextlib
import ctypes
import gc

import anyio

THRESHOLDS = (10_000, 20, 20)
"""Python's own are 700, 10, 10: one sample makes a few hundred objects, and next to no cycles."""

SETTLED_AFTER_S = 10.0
"""Start-up makes most of what stays: links, tasks, histories."""

COLLECT_EVERY_S = 30.0
"""A link that fails leaves a cycle of exceptions, frames and up to 64 KiB of what it read. Of links that
lasted a while only a full collection finds it, and those that the thresholds bring come after many megabytes:
eighty hostile monitors made 0.2 MB a second. What is set aside is left out, so it is short: with 1,000 VMs
the lag's p99 stayed at 31 ms."""

AGAIN_AFTER_S = 600.0
"""VMs come and go; what set aside objects leave behind is found only once they are looked through again."""

_M_ARENA_MAX = -8  # glibc's malloc.h


def use_one_arena() -> None:
    """Have malloc keep one heap, where it is glibc's: else threads get one each, which keeps what they freed.

    With 1,000 VMs it saves 4 of 146 MiB. To be called before the first thread is started.
    """
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def set_aside() -> None:
    """Collect what is garbage among everything, then leave the rest out until the next time."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


async def keep_pauses_short(
    settled_after_s: float = SETTLED_AFTER_S,
    again_after_s: float = AGAIN_AFTER_S,
    collect_every_s: float = COLLECT_EVERY_S,
) -> None:
    """Set aside what has been built so far now, after the start, and now and then; until cancelled.

    What is new since is collected more often.
    """
    gc.set_threshold(*THRESHOLDS)
    set_aside()
    await anyio.sleep(settled_after_s)
    while True:
        set_aside()
        again_at_s = anyio.current_time() + again_after_s
        while (left_s := again_at_s - anyio.current_time()) > 0:
            await anyio.sleep(min(collect_every_s, left_s))
            gc.collect()
