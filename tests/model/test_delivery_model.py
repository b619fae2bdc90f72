"""Model test of delivery: a sink accepts, is unavailable, asks for a delay, or closes its output."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.core import delivery
from agent.core.delivery import Delivery, DeliverySettings, Send, Stop, Wait
from agent.core.poller import SECOND_NS

SETTINGS = DeliverySettings(linger_ns=3 * SECOND_NS, backlog_records_per_s=2)
CHANCES = st.one_of(st.sampled_from((0, (1 << 128) - 1)), st.integers(0, (1 << 128) - 1))


class DeliveryModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.delivery = Delivery()
        self.now_ns = 10 * SECOND_NS
        self.queued: int = 0
        self.failed_in_a_row = 0
        self.failed_at_ns: int | None = None
        self.closing_failures = 0
        self.output_is_closed = False
        self.sent_at_ns: int | None = None  # when the last batch was sent
        self.pause_ns = 0  # after that batch

    def action(self) -> Send | Wait | Stop:
        return delivery.next_action(self.delivery, queued=self.queued, now_ns=self.now_ns)

    @rule(count=st.integers(1, 5))
    def records_arrive(self, count: int) -> None:
        self.queued += count

    @rule(passed_ns=st.integers(0, 40 * SECOND_NS))
    def time_passes(self, passed_ns: int) -> None:
        self.now_ns += passed_ns

    @precondition(lambda self: isinstance(self.action(), Send))
    @rule(count=st.integers(1, 5))
    def the_sink_accepts_a_batch(self, count: int) -> None:
        count = min(count, self.queued)
        if self.sent_at_ns is not None and not self.delivery.closing:
            assert self.now_ns >= self.sent_at_ns + self.pause_ns, "too soon after the last batch"
        self.queued -= count
        self.delivery = delivery.sent(
            delivery.accepted(self.delivery),
            begun_ns=self.now_ns,
            records=count,
            left=self.queued,
            settings=SETTINGS,
        )
        self.sent_at_ns = self.now_ns
        self.pause_ns = count * SECOND_NS // 2 if self.queued else SETTINGS.linger_ns
        self.failed_in_a_row, self.failed_at_ns = 0, None

    @precondition(lambda self: isinstance(self.action(), Send))
    @rule(
        chance=CHANCES,
        after_ns=st.one_of(st.none(), st.sampled_from((0, SECOND_NS, 3600 * SECOND_NS))),
    )
    def the_sink_is_unavailable(self, chance: int, after_ns: int | None) -> None:
        if self.failed_at_ns is not None and not self.delivery.closing:
            assert self.now_ns - self.failed_at_ns >= SETTINGS.first_retry_ns // 2, "a retry too soon"
        self.delivery = delivery.unavailable(
            self.delivery, now_ns=self.now_ns, retry_after_ns=after_ns, chance=chance, settings=SETTINGS
        )
        self.failed_in_a_row += 1
        self.failed_at_ns = self.now_ns
        self.closing_failures += self.delivery.closing
        pause_ns = self.delivery.retry_at_ns - self.now_ns
        doubled_ns = min(SETTINGS.first_retry_ns * 2 ** (self.failed_in_a_row - 1), SETTINGS.longest_retry_ns)
        if not self.delivery.closing:
            assert doubled_ns // 2 - 1 <= pause_ns <= SETTINGS.longest_retry_ns
            if after_ns is None:
                assert pause_ns <= doubled_ns
            else:
                assert pause_ns >= min(after_ns, SETTINGS.longest_retry_ns)

    @precondition(lambda self: isinstance(self.action(), Send))
    @rule()
    def the_output_is_closed(self) -> None:
        self.delivery = delivery.output_closed(self.delivery)
        self.output_is_closed = True

    @precondition(lambda self: not self.delivery.closing)
    @rule()
    def the_agent_stops(self) -> None:
        self.delivery = delivery.close(self.delivery)
        self.failed_in_a_row, self.failed_at_ns = 0, None

    @invariant()
    def the_action_fits_the_state(self) -> None:
        assert not self.output_is_closed or self.action() == Stop(), "a closed output is tried again"
        match self.action():
            case Send():
                assert self.queued
                assert (
                    self.delivery.closing
                    or not self.failed_in_a_row
                    or self.now_ns >= self.delivery.retry_at_ns
                )
            case Wait(until_ns):
                assert not self.delivery.closing, "a shutdown does not wait"
                if self.queued:
                    assert until_ns is not None
                    assert self.now_ns < until_ns <= self.now_ns + SETTINGS.longest_retry_ns
                else:
                    assert until_ns is None
            case Stop():
                assert self.delivery.closing or self.output_is_closed
                assert not self.queued or self.failed_in_a_row or self.output_is_closed

    @invariant()
    def a_shutdown_tries_once_after_its_last_failure(self) -> None:
        assert self.closing_failures <= 1


TestDelivery = DeliveryModel.TestCase
TestDelivery.settings = settings()  # the profile's; the default was fixed when hypothesis was imported
