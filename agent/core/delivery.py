"""One sink: when to send, when to wait, when to give up.

A batch is sent until the sink takes it; nothing behind it overtakes it. A sink that is away is tried
again after a pause that doubles up to a cap, less a random part, so that a fleet of agents does not
come back in one instant.
"""

from dataclasses import dataclass, replace

from agent.core.poller import SECOND_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    """How patient delivery is."""

    first_retry_ns: int = SECOND_NS // 2
    longest_retry_ns: int = 30 * SECOND_NS


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where one sink stands."""

    failures: int = 0  # in a row
    retry_at_ns: int = 0
    closing: bool = False  # no new retries: one attempt for each batch, until one fails


@dataclass(frozen=True, slots=True)
class Send:
    """Send the oldest batch now."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for records, or until an instant: whichever is asked for. Both `None`: for records."""

    until_ns: int | None


@dataclass(frozen=True, slots=True)
class Stop:
    """Nothing more can be done. What is left is the caller's to count."""


def next_action(delivery: Delivery, *, waiting: int, now_ns: int) -> Send | Wait | Stop:
    """Return what to do now, with `waiting` records not yet delivered."""
    if delivery.closing and (not waiting or delivery.failures):
        return Stop()
    if not waiting:
        return Wait(None)
    if delivery.failures and now_ns < delivery.retry_at_ns:
        return Wait(delivery.retry_at_ns)
    return Send()


def accepted(delivery: Delivery) -> Delivery:
    """The sink took the batch, or refused single records of it for good."""
    return replace(delivery, failures=0, retry_at_ns=0) if delivery.failures else delivery


def unavailable(
    delivery: Delivery, *, now_ns: int, retry_after_ns: int | None, chance: int, settings: DeliverySettings
) -> Delivery:
    """The sink did not take the batch.

    Args:
        delivery: before.
        now_ns: the monotonic clock.
        retry_after_ns: the delay the sink asked for; kept to, up to the longest pause.
        chance: a uniform draw from [0, 2**128).
        settings: how patient to be.
    """
    doubled_ns = settings.first_retry_ns << min(delivery.failures, 16)
    pause_ns = min(doubled_ns, settings.longest_retry_ns)
    pause_ns -= pause_ns * (chance >> 75) // (1 << 53) // 4
    if retry_after_ns is not None:
        pause_ns = min(max(pause_ns, retry_after_ns), settings.longest_retry_ns)
    return replace(delivery, failures=delivery.failures + 1, retry_at_ns=now_ns + pause_ns)


def close(delivery: Delivery) -> Delivery:
    """The agent is stopping: a batch that waits for its retry is tried once more, at once."""
    return delivery if delivery.closing else Delivery(closing=True)
