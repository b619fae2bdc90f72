"""Limits the descriptors that this process may open."""

import os
import resource
from collections.abc import Generator
from contextlib import ExitStack, contextmanager


@contextmanager
def descriptors_left(count: int) -> Generator[None]:
    """Let this process open at most `count` more descriptors.

    The kernel limits their numbers, and numbers below the highest may be free, so these are used up first.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    with ExitStack() as stack:
        number = -1
        while number < highest:
            number = os.open("/", os.O_PATH)
            stack.callback(os.close, number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (number + 1 + count, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        yield
