"""What the agent counts of itself, declared in one table.

Every loss, refusal and miss is a counter with a reason from a fixed list, so that nothing is lost
silently and the number of series does not grow with the VMs.
"""

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Count(StrEnum):
    """The counters. Those that take a reason say from which list it is."""

    READINGS = "readings"  # answers to a reading, of whatever content
    SAMPLES = "samples"  # advances recorded
    REPEATS = "repeats"  # readings that showed nothing new
    COALESCED = "coalesced"  # updates within the second of the one before: no advance, so no event
    MISSED = "missed_at_most"  # updates overwritten before we read them, upper bound
    READINGS_REFUSED = "readings_refused"  # by contract.decode.BadAnswerReason
    STATISTICS_REFUSED = "statistics_refused"  # by core.reading.Refusal
    STATE_EVENTS = "state_events"  # changes and heartbeats recorded
    LINKS_OPENED = "links_opened"
    LINK_FAILURES = "link_failures"  # by errors.LinkFault
    INTERVALS_SET = "intervals_set"
    INTERVALS_GIVEN_BACK = "intervals_given_back"
    VM_FAILURES = "vm_failures"  # a bug of ours met on one VM and contained
    QUEUED = "queued"  # by sink; records handed to it, delivered or not
    CARRIED = "carried"  # by sink; records that the run before left on disk
    DELIVERED = "delivered"  # by sink
    DEAD_LETTERED = "dead_lettered"  # by "<sink>:<reason>"; refused for good and kept for people
    DEAD_LETTERS_DROPPED = "dead_letters_dropped"  # no room for them within the spool's bound
    DELIVERY_FAILURES = "delivery_failures"  # by sink; the batch is kept and tried again
    DROPPED = "dropped"  # by "<sink>:<reason>"; reasons: full, expired, damaged, refused, shutdown
    RESTAMPED = "restamped"  # the broker refused the record's time; sent again with a new one
    POINTS_SENT = "otlp_points_sent"
    POINTS_REFUSED = "otlp_points_refused"  # by reason
    POINTS_PASSED_OVER = "otlp_samples_passed_over"  # a newer sample came before the cycle
    CYCLES_SKIPPED = "otlp_cycles_skipped"  # the exporter was still busy or the backend away


class Counters:
    """Totals since start. The event loop's thread owns them; other threads hand back theirs as values."""

    def __init__(self) -> None:
        self._totals: Counter[str] = Counter()

    def add(self, name: Count, amount: int = 1, reason: str = "") -> None:
        """Add `amount` to `name`, or to its `reason`, which must come from the list the table names."""
        self._totals[f"{name}/{reason}" if reason else name.value] += amount

    def total(self, name: Count, reason: str = "") -> int:
        """One total; 0 where nothing was counted."""
        return self._totals[f"{name}/{reason}" if reason else name.value]

    def snapshot(self) -> Mapping[str, int]:
        """Every total that is not 0, as "name" or "name/reason"."""
        return MappingProxyType(dict(sorted(self._totals.items())))
