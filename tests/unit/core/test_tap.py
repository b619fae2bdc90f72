"""Tests of the tap: what a reader gets, and what is kept for readers."""

import pytest

from agent.core.address import Address, MonitorPath
from agent.core.reading import RecordKind, VmIdentity
from agent.core.tap import (
    IDLE_S,
    KINDS,
    PAGE_BYTES_MAX,
    PAGE_RECORDS_MAX,
    RECORDS_MAX,
    SIZE_BYTES_MAX,
    Page,
    Tap,
    Wanted,
)
from tests.unit.sinks.views import vm

ALL = Wanted()
PATH = MonitorPath("/run/vm/web.qmp")


def opened(**bounds: int) -> Tap:
    tap = Tap(**bounds)
    tap.read(None, ALL)
    return tap


def put(
    tap: Tap,
    text: str,
    kind: RecordKind = RecordKind.SAMPLE,
    of: VmIdentity | None = None,
    at: Address = PATH,
) -> None:
    tap.put(kind, text.encode(), of or vm(), at)


def texts(page: Page) -> list[str]:
    return [record.value.decode() for record in page.records]


def test_nothing_is_kept_before_the_first_reader() -> None:
    tap = Tap()
    for number in range(10):
        put(tap, str(number))

    assert not tap.is_open
    assert len(tap) == 0


def test_a_reader_gets_the_records_that_come_after_it_once_and_in_order() -> None:
    tap = Tap()
    put(tap, "before")
    start = tap.read(None, ALL)
    put(tap, "a")
    put(tap, "b")
    first = tap.read(start.next, ALL)
    again = tap.read(first.next, ALL)
    put(tap, "c")
    last = tap.read(again.next, ALL)

    assert (texts(start), texts(first), texts(again), texts(last)) == ([], ["a", "b"], [], ["c"])
    assert [page.skipped for page in (start, first, again, last)] == [0, 0, 0, 0]


def test_a_slow_reader_gets_the_number_it_missed_and_delays_no_other() -> None:
    tap = opened(records_max=3)
    slow = tap.read(None, ALL)
    fast = slow.next
    for number in range(10):
        put(tap, str(number))
        page = tap.read(fast, ALL)
        assert texts(page) == [str(number)]
        fast = page.next
    late = tap.read(slow.next, ALL)

    assert (texts(late), late.skipped) == (["7", "8", "9"], 7)
    assert late.next == fast


def test_records_are_bounded_in_number_and_size() -> None:
    many, large = opened(), opened()
    for _ in range(RECORDS_MAX + 10):
        put(many, "x")
    for _ in range(10):
        put(large, "x" * (SIZE_BYTES_MAX // 4))
    put(large, "x" * (SIZE_BYTES_MAX + 1))

    assert len(many) == RECORDS_MAX
    assert many.read(0, ALL).skipped == 10
    assert len(large) == 0
    assert large.read(0, ALL).skipped == 11


def test_a_page_is_bounded_and_the_next_one_has_the_rest() -> None:
    tap = opened()
    for number in range(PAGE_RECORDS_MAX + 5):
        put(tap, str(number))
    first = tap.read(0, ALL)
    rest = tap.read(first.next, ALL)
    for _ in range(3):
        put(tap, "x" * (PAGE_BYTES_MAX - 1))
    large = tap.read(rest.next, ALL)
    put(tap, "x" * (PAGE_BYTES_MAX + 1))
    alone = tap.read(rest.next + 3, ALL)

    assert len(first.records) == PAGE_RECORDS_MAX
    assert texts(rest) == [str(number) for number in range(PAGE_RECORDS_MAX, PAGE_RECORDS_MAX + 5)]
    assert len(large.records) == len(alone.records) == 1


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(), ["sample", "other", "path only", "agent", "host"]),
        (Wanted("web"), ["sample"]),
        (Wanted("id-web"), ["sample"]),
        (Wanted("/run/vm/web.qmp"), ["sample", "path only"]),
        (Wanted("we"), []),
        (Wanted(kinds=frozenset({RecordKind.VM_STATE, RecordKind.HOST_MEMORY})), ["path only", "host"]),
        (Wanted("/run/vm/web.qmp", frozenset({RecordKind.VM_STATE})), ["path only"]),
    ],
)
def test_a_reader_gets_the_vm_and_the_kinds_it_asks_for(wanted: Wanted, expected: list[str]) -> None:
    tap = opened()
    put(tap, "sample", of=vm("id-web", "web"))
    put(tap, "other", of=vm("id-other", "other"), at=MonitorPath("/run/vm/other.qmp"))
    tap.put(RecordKind.VM_STATE, b"path only", None, PATH)
    tap.put(RecordKind.AGENT_STATE, b"agent")
    tap.put(RecordKind.HOST_MEMORY, b"host")

    page = tap.read(0, wanted)

    assert texts(page) == expected
    assert tap.read(page.next, wanted).records == []


def test_the_tap_closes_without_a_reader_and_counts_the_missed_records() -> None:
    tap = opened()
    put(tap, "a")
    for _ in range(IDLE_S):
        tap.end_second()
    kept = len(tap)
    start = tap.read(0, ALL)
    for _ in range(IDLE_S + 1):
        tap.end_second()
    put(tap, "missed")
    closed = (tap.is_open, len(tap))
    late = tap.read(start.next, ALL)
    put(tap, "c")

    assert kept == 1
    assert closed == (False, 0)
    assert (texts(late), late.skipped) == ([], 1)
    assert texts(tap.read(late.next, ALL)) == ["c"]


def test_a_position_of_another_run_means_now() -> None:
    tap = opened()
    put(tap, "a")

    page = tap.read(99, ALL)

    assert (texts(page), page.skipped, page.next) == ([], 0, 1)


def test_all_kinds_but_log_records_are_shown() -> None:
    assert frozenset(RecordKind) - {RecordKind.LOG} == KINDS
