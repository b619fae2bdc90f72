from agent.core.outlook import EVERY_S, READINGS_MAX, QueueReading, Reading, Readings

SINK = "kafka.samples"


def reading(
    at_s: int, *, size: int = 0, added: int = 0, delivered: int = 0, used: int | None = None
) -> Reading:
    return Reading(at_s * 1_000_000_000, {SINK: QueueReading(size, added, delivered, None)}, used)


def test_the_first_reading_has_no_rates() -> None:
    outlook = Readings(1000).outlook(reading(0, size=7, used=10))

    queue, spool = outlook.queues[SINK], outlook.spool
    assert (queue.size, queue.added_per_s, queue.delivered_per_s, queue.empty_in_s) == (7, None, None, None)
    assert spool is not None
    assert (spool.used_bytes, spool.limit_bytes, spool.growth_bytes_per_s, spool.full_in_s) == (
        10,
        1000,
        None,
        None,
    )


def test_a_queue_is_empty_after_its_size_divided_by_the_difference_of_the_rates() -> None:
    readings = Readings(None)
    readings.add(reading(0, added=100, delivered=100))

    queue = readings.outlook(reading(100, size=300, added=200, delivered=500)).queues[SINK]

    assert (queue.added_per_s, queue.delivered_per_s, queue.empty_in_s) == (1.0, 4.0, 100.0)


def test_a_queue_that_does_not_drain_is_never_empty() -> None:
    readings = Readings(None)
    readings.add(reading(0))

    assert readings.outlook(reading(100, size=300, added=300)).queues[SINK].empty_in_s is None


def test_a_spool_is_full_after_its_free_space_divided_by_its_growth() -> None:
    readings = Readings(1000)
    readings.add(reading(0, used=100))

    grows = readings.outlook(reading(50, used=200)).spool
    shrinks = readings.outlook(reading(50, used=50)).spool

    assert grows is not None
    assert shrinks is not None
    assert (grows.growth_bytes_per_s, grows.full_in_s) == (2.0, 400.0)
    assert (shrinks.growth_bytes_per_s, shrinks.full_in_s) == (-1.0, None)


def test_a_sink_without_an_earlier_reading_has_no_rates() -> None:
    readings = Readings(None)
    readings.add(Reading(0, {}, None))

    assert readings.outlook(reading(100, size=3)).queues[SINK].added_per_s is None


def test_readings_are_bounded() -> None:
    readings = Readings(None)
    for number in range(3 * READINGS_MAX):
        readings.add(reading(number * EVERY_S))

    assert len(readings) == READINGS_MAX
