"""Delivery to one sink: when to send, when to retry, when to stop.

A batch is sent until the sink accepts it; later records do not overtake it. An unavailable sink is retried
after a pause that doubles up to a limit, less a random part, so that the agents of a fleet do not all
retry at the same instant.
"""

from dataclasses import dataclass, replace

from agent.core.poller import SECOND_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    """The pauses between retries."""

    first_retry_ns: int = SECOND_NS // 2
    longest_retry_ns: int = 30 * SECOND_NS


@dataclass(frozen=True, slots=True)
class Delivery:
    """The state of delivery to one sink."""

    failures: int = 0  # in a row
    retry_at_ns: int = 0
    closing: bool = False  # the agent is stopping: one attempt for each batch, until one fails
    output_closed: bool = False  # the sink can never accept anything again


@dataclass(frozen=True, slots=True)
class Send:
    """Send the oldest batch now."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until an instant; `None`: until there are records."""

    until_ns: int | None


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop delivering. The caller keeps or counts the records that are left."""


def next_action(delivery: Delivery, *, queued: int, now_ns: int) -> Send | Wait | Stop:
    """Return what to do now, with `queued` records not yet delivered."""
    if delivery.output_closed:
        return Stop()
    if delivery.closing and (not queued or delivery.failures):
        return Stop()
    if not queued:
        return Wait(None)
    if delivery.failures and now_ns < delivery.retry_at_ns:
        return Wait(delivery.retry_at_ns)
    return Send()


def accepted(delivery: Delivery) -> Delivery:
    """The sink accepted the batch, except for records that it refused for good."""
    return replace(delivery, failures=0, retry_at_ns=0) if delivery.failures else delivery


def unavailable(
    delivery: Delivery, *, now_ns: int, retry_after_ns: int | None, chance: int, settings: DeliverySettings
) -> Delivery:
    """The sink did not accept the batch. Schedule a retry.

    Args:
        delivery: the state before.
        now_ns: monotonic time.
        retry_after_ns: the delay the sink asked for; respected up to the longest pause.
        chance: a uniform draw from [0, 2**128).
        settings: the pauses.
    """
    doubled_ns = settings.first_retry_ns << min(delivery.failures, 16)
    pause_ns = min(doubled_ns, settings.longest_retry_ns)
    pause_ns -= pause_ns * (chance >> 75) // (1 << 53) // 4
    if retry_after_ns is not None:
        pause_ns = min(max(pause_ns, retry_after_ns), settings.longest_retry_ns)
    return replace(delivery, failures=delivery.failures + 1, retry_at_ns=now_ns + pause_ns)


def output_closed(delivery: Delivery) -> Delivery:
    """The sink's output is closed for good, as a pipe whose reader has ended: stop, whatever is queued."""
    return replace(delivery, output_closed=True)


def close(delivery: Delivery) -> Delivery:
    """The agent is stopping. A batch that awaits its retry is sent once more, at once."""
    return delivery if delivery.closing else replace(delivery, failures=0, retry_at_ns=0, closing=True)
