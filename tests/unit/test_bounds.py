"""What a peer can make grow in the core, filled past its bound. The whole table stands in docs/limits.md."""

from agent.contract.decode import STATISTICS_MAX, BadAnswer, decode_guest_stats
from agent.core import epochs
from agent.core.epochs import History
from agent.core.reading import Reading
from agent.qmp.events import OVERFLOW, QUEUED_MAX, EventQueue, MonitorEvent


def test_the_names_a_guest_gave_are_bounded() -> None:
    history = History()
    for second in range(1, 100):
        names = {f"n{second}_{number}": 1 for number in range(STATISTICS_MAX)}
        seen = epochs.see(history, Reading(second, names), on_time=True, unix_ms=1, chance=second)
        history = seen.history

    assert len(history.given) < epochs.GIVEN_MAX + STATISTICS_MAX
    assert len(history.counters) <= len(epochs.CUMULATIVE)


def test_a_reading_has_so_many_statistics_or_is_none() -> None:
    def answer(names: int) -> object:
        return {"last-update": 1, "stats": {f"stat-n{number}": 1 for number in range(names)}}

    assert not isinstance(decode_guest_stats(answer(STATISTICS_MAX)), BadAnswer)
    assert isinstance(decode_guest_stats(answer(STATISTICS_MAX + 1)), BadAnswer)


def test_events_that_nobody_takes_are_bounded_and_say_so() -> None:
    queue = EventQueue()
    for number in range(10 * QUEUED_MAX):
        queue.put(MonitorEvent(("STOP", "RESUME")[number % 2], {}))

    taken: list[str] = []
    while queue:
        taken.append(queue.take().name)
    assert len(taken) <= QUEUED_MAX
    assert taken[0] == OVERFLOW
