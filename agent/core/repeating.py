"""How often all states may be repeated on request. Pure."""

SPACING_NS = 10_000_000_000
"""At least between two repetitions: each makes a record of every VM."""


def due_at(last_ns: int | None, now_ns: int) -> int:
    """Return when (monotonic) to repeat the states, requested now and last repeated at `last_ns`."""
    return now_ns if last_ns is None else max(now_ns, last_ns + SPACING_NS)
