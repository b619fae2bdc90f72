"""Tests of collecting a library's warnings: each collector gets its own, and the logger is restored."""

import asyncio
import logging
from collections.abc import Generator

import pytest

from agent.sinks.library_warnings import LibraryWarnings

ROOT = logging.getLogger()
LOGGER = logging.getLogger("a.library")


@pytest.fixture(autouse=True)
def logger_untouched() -> Generator[None]:
    """Set the levels of an agent that logs no details, whatever other tests have set."""
    before = ROOT.level
    ROOT.setLevel(logging.WARNING)
    LOGGER.setLevel(logging.NOTSET)
    LOGGER.propagate = True
    yield
    ROOT.setLevel(before)
    assert state() == (logging.NOTSET, True, [])


def state() -> tuple[int, bool, list[logging.Handler]]:
    return LOGGER.level, LOGGER.propagate, list(LOGGER.handlers)


def collector() -> LibraryWarnings:
    warnings = LibraryWarnings(LOGGER.name)
    warnings.start()
    return warnings


def test_the_newest_warning_is_returned_once() -> None:
    ours = collector()
    with ours.collect():
        LOGGER.warning("one")
        LOGGER.error("two %s", 2)
        LOGGER.info("not a warning")

    assert (ours.take(), ours.take()) == ("two 2", "")

    ours.stop()


def test_nothing_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    ours = collector()

    LOGGER.warning("for no collector")

    assert caplog.records == []
    assert ours.take() == ""
    ours.stop()


def test_each_collector_gets_the_warnings_of_its_own_calls() -> None:
    ours, theirs = collector(), collector()
    with ours.collect():
        LOGGER.warning("ours")
    with theirs.collect():
        LOGGER.warning("theirs")

    assert (ours.take(), theirs.take()) == ("ours", "theirs")

    ours.stop()
    theirs.stop()


async def test_a_warning_of_a_librarys_task_goes_to_the_collector_that_started_it() -> None:
    ours, theirs = collector(), collector()
    proceed = asyncio.Event()

    async def warn() -> None:
        await proceed.wait()
        LOGGER.warning("later")

    async with asyncio.TaskGroup() as library:
        with ours.collect():
            library.create_task(warn())
        with theirs.collect():
            proceed.set()

    assert (ours.take(), theirs.take()) == ("later", "")
    ours.stop()
    theirs.stop()


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)], ids=str)
def test_the_last_collector_to_stop_restores_the_logger(order: tuple[int, ...]) -> None:
    found = state()
    collectors = [collector() for _ in range(3)]

    for number in order[:2]:
        collectors[number].stop()
        collectors[number].stop()
        assert (LOGGER.level, LOGGER.propagate) == (logging.WARNING, False)
    collectors[order[2]].stop()

    assert state() == found


def test_details_of_the_library_still_reach_the_log_if_wanted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    LOGGER.setLevel(logging.DEBUG)
    ours = collector()

    with ours.collect():
        LOGGER.debug("a detail")
        LOGGER.warning("a warning")

    assert [each.message for each in caplog.records] == ["a detail", "a warning"]
    assert ours.take() == "a warning"
    ours.stop()
    assert (LOGGER.level, LOGGER.propagate) == (logging.DEBUG, True)
    LOGGER.setLevel(logging.NOTSET)
