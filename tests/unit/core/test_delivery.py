from agent.core import delivery
from agent.core.delivery import Delivery, DeliverySettings, Send

SETTINGS = DeliverySettings()


def test_a_sink_that_stays_away_is_tried_every_half_minute_at_least_and_no_more_rarely() -> None:
    state = Delivery()
    pauses_ns: list[int] = []
    for _ in range(40):
        state = delivery.unavailable(state, now_ns=0, retry_after_ns=None, chance=0, settings=SETTINGS)
        pauses_ns.append(state.retry_at_ns)

    assert pauses_ns[:3] == [500_000_000, 1_000_000_000, 2_000_000_000]
    assert max(pauses_ns) == pauses_ns[-1] == 30_000_000_000


def test_chance_takes_up_to_a_quarter_of_the_pause() -> None:
    state = delivery.unavailable(
        Delivery(), now_ns=0, retry_after_ns=None, chance=(1 << 128) - 1, settings=SETTINGS
    )

    assert 375_000_000 <= state.retry_at_ns < 376_000_000


def test_once_a_batch_is_taken_a_sink_that_goes_again_is_tried_as_soon_as_the_first_time() -> None:
    state = Delivery()
    for _ in range(5):
        state = delivery.unavailable(state, now_ns=0, retry_after_ns=None, chance=0, settings=SETTINGS)

    state = delivery.accepted(state)
    assert isinstance(delivery.next_action(state, waiting=1, now_ns=0), Send)
    state = delivery.unavailable(state, now_ns=0, retry_after_ns=None, chance=0, settings=SETTINGS)

    assert state.retry_at_ns == 500_000_000
