"""Limit how many emulated guests boot at the same time on this machine, in all test processes.

A booting guest uses a whole CPU for seconds, a booted one hardly any. With the limit, many tests can run in
parallel, because most of them wait for a polling interval, and the agents still get CPU time.
"""

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from tests.lab.cache import cache


@contextmanager
def boot_slot() -> Generator[None]:
    """Wait until fewer guests are booting than there are CPUs, and hold a slot until the block ends.

    A process that is killed frees its slot, because the kernel holds the locks.
    """
    cache().mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        slots = [
            stack.enter_context((cache() / f".boot-{number}.lock").open("w"))
            for number in range(os.cpu_count() or 1)
        ]
        while not any(_is_locked(slot.fileno()) for slot in slots):
            time.sleep(0.05)
        yield


def _is_locked(descriptor: int) -> bool:
    """Try to take the lock, and return whether it was free."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
