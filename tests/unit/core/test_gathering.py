"""Tests of core/gathering.py: when the spool commits."""

from agent.core import gathering
from agent.core.gathering import Commit, Gathering, GatherSettings, Wait

MS = 1_000_000
SETTINGS = GatherSettings()


def action(state: Gathering, *, at_ms: int, records: int = 1) -> Commit | Wait:
    return gathering.next_action(state, records=records, now_ns=at_ms * MS, settings=SETTINGS)


def started() -> Gathering:
    return gathering.start(now_ns=0, settings=SETTINGS)


def committed(state: Gathering, *, records: int, at_ms: int) -> Gathering:
    return gathering.committed(gathering.begun(state), records=records, now_ns=at_ms * MS, settings=SETTINGS)


def failed(state: Gathering, *, at_ms: int) -> Gathering:
    return gathering.failed(state, now_ns=at_ms * MS, settings=SETTINGS)


def test_nothing_is_committed_while_nothing_is_pending() -> None:
    assert action(started(), at_ms=3_600_000, records=0) == Wait(None)


def test_records_gather_for_100_ms_from_the_first_one_on() -> None:
    state = gathering.arrived(started(), now_ns=1_000 * MS)
    state = gathering.arrived(state, now_ns=1_050 * MS)

    assert action(state, at_ms=1_099) == Wait(1_100 * MS)
    assert action(state, at_ms=1_100) == Commit()


def test_enough_records_do_not_wait() -> None:
    state = gathering.arrived(started(), now_ns=1_000 * MS)

    assert action(state, at_ms=1_000, records=499) == Wait(1_100 * MS)
    assert action(state, at_ms=1_000, records=500) == Commit()


def test_fewer_than_200_records_a_second_gather_for_200_ms() -> None:
    state = committed(started(), records=199, at_ms=1_000)
    state = gathering.arrived(state, now_ns=1_000 * MS)
    assert action(state, at_ms=1_100) == Wait(1_200 * MS)

    state = committed(state, records=40, at_ms=1_200)
    state = gathering.arrived(state, now_ns=1_300 * MS)
    assert action(state, at_ms=1_300) == Wait(1_400 * MS)


def test_what_arrives_during_a_commit_waits_for_the_next_one() -> None:
    state = gathering.begun(gathering.arrived(started(), now_ns=0))
    assert action(state, at_ms=100) == Wait(None)

    state = gathering.arrived(state, now_ns=110 * MS)
    state = gathering.committed(state, records=500, now_ns=120 * MS, settings=SETTINGS)

    assert action(state, at_ms=120) == Wait(210 * MS)


def test_a_failed_commit_is_retried_after_a_pause_that_doubles_up_to_30_s() -> None:
    state = gathering.arrived(started(), now_ns=0)
    pauses_ms: list[int] = []
    for _ in range(8):
        state = failed(state, at_ms=0)
        pauses_ms.append(state.retry_at_ns // MS)

    assert pauses_ms == [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]


def test_a_retry_waits_even_with_enough_records_and_gathers_those_that_arrive() -> None:
    state = failed(gathering.arrived(started(), now_ns=0), at_ms=500)

    assert action(state, at_ms=1_499, records=10_000) == Wait(1_500 * MS)
    assert action(state, at_ms=1_500, records=10_000) == Commit()
    assert action(state, at_ms=1_500) == Wait(1_600 * MS)


def test_a_commit_that_succeeds_ends_the_retries() -> None:
    state = gathering.arrived(started(), now_ns=0)
    for _ in range(5):
        state = failed(state, at_ms=0)
    state = gathering.arrived(committed(state, records=1, at_ms=20_000), now_ns=20_000 * MS)

    assert action(state, at_ms=20_200) == Commit()
    assert failed(state, at_ms=20_200).retry_at_ns == 21_200 * MS
