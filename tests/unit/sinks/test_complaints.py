"""A library's complaints: each listener hears its own, and the logger is left as it was found."""

import asyncio
import logging
from collections.abc import Generator

import pytest

from agent.sinks.complaints import Complaints

ROOT = logging.getLogger()
LOGGER = logging.getLogger("a.library")


@pytest.fixture(autouse=True)
def logger_untouched() -> Generator[None]:
    """As in an agent that nobody asked for details, whatever level those who ran before have left behind."""
    before = ROOT.level
    ROOT.setLevel(logging.WARNING)
    LOGGER.setLevel(logging.NOTSET)
    LOGGER.propagate = True
    yield
    ROOT.setLevel(before)
    assert state() == (logging.NOTSET, True, [])


def state() -> tuple[int, bool, list[logging.Handler]]:
    return LOGGER.level, LOGGER.propagate, list(LOGGER.handlers)


def listener() -> Complaints:
    complaints = Complaints(LOGGER.name)
    complaints.start()
    return complaints


def test_the_newest_complaint_is_given_once() -> None:
    ours = listener()
    with ours.heard():
        LOGGER.warning("one")
        LOGGER.error("two %s", 2)
        LOGGER.info("not a complaint")

    assert (ours.take(), ours.take()) == ("two 2", "")

    ours.stop()


def test_nothing_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    ours = listener()

    LOGGER.warning("for nobody")

    assert caplog.records == []
    assert ours.take() == ""
    ours.stop()


def test_each_hears_what_its_own_calls_brought_about() -> None:
    ours, theirs = listener(), listener()
    with ours.heard():
        LOGGER.warning("ours")
    with theirs.heard():
        LOGGER.warning("theirs")

    assert (ours.take(), theirs.take()) == ("ours", "theirs")

    ours.stop()
    theirs.stop()


async def test_a_librarys_task_complains_to_whom_it_was_started_for() -> None:
    ours, theirs = listener(), listener()
    go_on = asyncio.Event()

    async def complain() -> None:
        await go_on.wait()
        LOGGER.warning("later")

    async with asyncio.TaskGroup() as library:
        with ours.heard():
            library.create_task(complain())
        with theirs.heard():
            go_on.set()

    assert (ours.take(), theirs.take()) == ("later", "")
    ours.stop()
    theirs.stop()


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)], ids=str)
def test_the_last_one_to_stop_restores_the_logger(order: tuple[int, ...]) -> None:
    found = state()
    listeners = [listener() for _ in range(3)]

    for number in order[:2]:
        listeners[number].stop()
        listeners[number].stop()
        assert (LOGGER.level, LOGGER.propagate) == (logging.WARNING, False)
    listeners[order[2]].stop()

    assert state() == found


def test_where_the_librarys_details_are_wanted_they_still_reach_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    LOGGER.setLevel(logging.DEBUG)
    ours = listener()

    with ours.heard():
        LOGGER.debug("a detail")
        LOGGER.warning("a complaint")

    assert [each.message for each in caplog.records] == ["a detail", "a complaint"]
    assert ours.take() == "a complaint"
    ours.stop()
    assert (LOGGER.level, LOGGER.propagate) == (logging.DEBUG, True)
    LOGGER.setLevel(logging.NOTSET)
