"""The host's clocks and random numbers, read here only and passed to the core."""

import random
import secrets
import time

from agent.core.reading import Now

# Seeded with 256 bits from the kernel: names do not repeat, and no event costs a system call.
_chance = random.Random(secrets.randbits(256))


def now() -> Now:
    """Return this instant on both clocks."""
    return Now(time.monotonic_ns(), unix_ms())


def unix_ms() -> int:
    """Return the wall clock alone, in Unix milliseconds."""
    return time.time_ns() // 1_000_000


def chance() -> int:
    """Return a uniform draw from [0, 2**128)."""
    return _chance.getrandbits(128)
