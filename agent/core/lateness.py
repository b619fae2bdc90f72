"""Deadlines for the answers of others, on a host where the agent itself may run late.

An agent that got no CPU when a deadline passed has not read what arrived meanwhile. Nothing is known of the
other side then, so the deadline is extended until the agent has had time to read.
"""

LATE_NS = 100_000_000
"""Later than this, the agent did not run. On a host with CPU to spare it is late by a few milliseconds."""

GRACE_NS = 100_000_000
"""How long the agent then reads what may have arrived."""


def extended(deadline_ns: int, now_ns: int) -> int | None:
    """Return the new deadline if the agent came too late to judge this one; `None` if the deadline counts.

    Args:
        deadline_ns: when it passed (monotonic).
        now_ns: when the agent notices (monotonic, at or after the deadline).
    """
    return now_ns + GRACE_NS if now_ns - deadline_ns > LATE_NS else None
