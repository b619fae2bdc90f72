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


def test_chance_shortens_a_pause_by_up_to_a_quarter() -> None:
    state = delivery.unavailable(
        Delivery(), now_ns=0, retry_after_ns=None, chance=(1 << 128) - 1, settings=SETTINGS
    )

    assert 375_000_000 <= state.retry_at_ns < 376_000_000


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


def test_a_closed_output_is_no_failed_attempt() -> None:
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
