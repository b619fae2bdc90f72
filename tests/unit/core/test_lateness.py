"""Tests of when a deadline counts, and when the agent noticed it too late to judge."""

from agent.core.lateness import GRACE_NS, LATE_NS, extended

DEADLINE_NS = 5_000_000_000


def test_a_deadline_noticed_in_time_counts() -> None:
    assert extended(DEADLINE_NS, DEADLINE_NS) is None
    assert extended(DEADLINE_NS, DEADLINE_NS + LATE_NS) is None


def test_a_deadline_noticed_late_leaves_time_to_read() -> None:
    now_ns = DEADLINE_NS + LATE_NS + 1
    assert extended(DEADLINE_NS, now_ns) == now_ns + GRACE_NS
