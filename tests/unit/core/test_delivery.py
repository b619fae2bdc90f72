import pytest

from agent.core import delivery
from agent.core.delivery import Delivery, DeliverySettings, Send, Stop, Wait
from agent.core.poller import SECOND_NS

SETTINGS = DeliverySettings()


def test_the_pause_between_retries_doubles_up_to_half_a_minute() -> None:
    state = Delivery()
    pauses_ns: list[int] = []
    for _ in range(40):
        state = delivery.unavailable(state, now_ns=0, retry_after_ns=None, chance=0, settings=SETTINGS)
        pauses_ns.append(state.retry_at_ns)

    assert pauses_ns[:3] == [500_000_000, 1_000_000_000, 2_000_000_000]
    assert max(pauses_ns) == pauses_ns[-1] == 30_000_000_000


def test_chance_shortens_a_pause_by_up_to_half() -> None:
    state = delivery.unavailable(
        Delivery(), now_ns=0, retry_after_ns=None, chance=(1 << 128) - 1, settings=SETTINGS
    )

    assert 250_000_000 <= state.retry_at_ns < 251_000_000


@pytest.mark.parametrize(("asked_s", "pause_s"), [(0.1, 0.5), (7, 7), (3600, 30)])
def test_a_delay_that_the_sink_asks_for_is_kept_up_to_the_longest_pause(
    asked_s: float, pause_s: float
) -> None:
    asked_ns = int(asked_s * SECOND_NS)

    state = delivery.unavailable(Delivery(), now_ns=0, retry_after_ns=asked_ns, chance=0, settings=SETTINGS)

    assert state.retry_at_ns == pause_s * SECOND_NS


def test_an_accepted_batch_resets_the_pause() -> None:
    state = Delivery()
    for _ in range(5):
        state = delivery.unavailable(state, now_ns=0, retry_after_ns=None, chance=0, settings=SETTINGS)

    state = delivery.accepted(state)
    assert isinstance(delivery.next_action(state, queued=1, now_ns=0), Send)
    state = delivery.unavailable(state, now_ns=0, retry_after_ns=None, chance=0, settings=SETTINGS)

    assert state.retry_at_ns == 500_000_000


def test_delivery_stops_at_once_when_the_output_is_closed() -> None:
    state = delivery.output_closed(Delivery())

    for queued in (0, 1, 5):
        assert delivery.next_action(state, queued=queued, now_ns=0) == Stop()
    assert delivery.next_action(delivery.close(state), queued=5, now_ns=0) == Stop()


def test_a_closed_output_is_not_a_failed_attempt() -> None:
    failed = delivery.unavailable(Delivery(), now_ns=0, retry_after_ns=None, chance=0, settings=SETTINGS)

    assert delivery.output_closed(failed).failures == 1
    assert delivery.output_closed(Delivery()).failures == 0


def test_a_stopping_agent_sends_a_batch_that_awaits_its_retry_once_more() -> None:
    failed = delivery.unavailable(Delivery(), now_ns=0, retry_after_ns=None, chance=0, settings=SETTINGS)
    assert delivery.next_action(failed, queued=1, now_ns=1) == Wait(failed.retry_at_ns)

    closing = delivery.close(failed)

    assert delivery.next_action(closing, queued=1, now_ns=1) == Send()
    failed = delivery.unavailable(closing, now_ns=1, retry_after_ns=None, chance=0, settings=SETTINGS)
    assert delivery.next_action(failed, queued=1, now_ns=1) == Stop()


PACED = DeliverySettings(linger_ns=3 * SECOND_NS, backlog_records_per_s=200)


def send(state: Delivery, begun_ns: int, records: int, left: int) -> Delivery:
    return delivery.sent(
        delivery.accepted(state), begun_ns=begun_ns, records=records, left=left, settings=PACED
    )


def at_rate(per_s: int) -> Delivery:
    """Return the state of a sink after an hour in which `per_s` records a second were queued."""
    state = Delivery()
    for second in range(3600):
        state = delivery.arrived(state, total=second * per_s, now_ns=second * SECOND_NS)
    return state


def test_batches_are_sent_at_intervals_and_after_a_pause_at_once() -> None:
    state = send(Delivery(), begun_ns=SECOND_NS, records=5, left=0)

    assert delivery.next_action(state, queued=1, now_ns=2 * SECOND_NS) == Wait(4 * SECOND_NS)
    assert delivery.next_action(state, queued=0, now_ns=2 * SECOND_NS) == Wait(None)
    assert delivery.next_action(state, queued=1, now_ns=4 * SECOND_NS) == Send()


def test_a_stopping_agent_sends_batches_without_a_distance() -> None:
    state = delivery.close(send(Delivery(), begun_ns=SECOND_NS, records=5, left=0))

    assert delivery.next_action(state, queued=1, now_ns=SECOND_NS + 1) == Send()
    assert delivery.batch_max(state, sink_max=4000, settings=PACED) == 4000


def test_a_backlog_is_sent_at_its_rate() -> None:
    state, now_ns, queued = Delivery(), 0, 2_000
    while queued:
        match delivery.next_action(state, queued=queued, now_ns=now_ns):
            case Wait(until_ns):
                assert until_ns is not None
                now_ns = until_ns
            case _:
                records = min(delivery.batch_max(state, sink_max=4000, settings=PACED), queued)
                queued -= records
                state = send(state, now_ns, records, queued)

    assert now_ns == 9 * SECOND_NS  # ten batches of 200


@pytest.mark.parametrize(("new_per_s", "backlog_per_s"), [(10, 200), (49, 200), (1_000, 4_000)])
def test_a_backlog_shrinks_whatever_the_rate_of_new_records(new_per_s: int, backlog_per_s: int) -> None:
    state = at_rate(new_per_s)

    state = send(state, begun_ns=0, records=1_000, left=1)

    assert state.next_at_ns == pytest.approx(1_000 * SECOND_NS // backlog_per_s, rel=0.01)


@pytest.mark.parametrize("new_per_s", [10, 1_000])
def test_one_batch_has_room_for_what_arrives_between_two_batches(new_per_s: int) -> None:
    assert delivery.batch_max(at_rate(new_per_s), sink_max=10_000, settings=PACED) >= 3 * new_per_s


def test_without_a_limit_a_backlog_is_sent_as_fast_as_the_sink_accepts() -> None:
    settings = DeliverySettings(linger_ns=3 * SECOND_NS)

    state = delivery.sent(Delivery(), begun_ns=0, records=4000, left=1, settings=settings)

    assert delivery.batch_max(state, sink_max=4000, settings=settings) == 4000
    assert delivery.next_action(state, queued=1, now_ns=0) == Send()
