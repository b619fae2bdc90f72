"""A running agent and a command that changes its spool exclude each other."""

import os
from pathlib import Path

import pytest

from agent.errors import StateFileError
from agent.spool.directory_lock import holders, is_in_use, kept_out, lock
from agent.spool.ledger import open_ledger
from tests.lab.leftovers import open_descriptors
from tests.unit.spool.making import NOW_MS


async def test_a_directory_is_in_use_while_an_agent_has_its_ledger_open(tmp_path: Path) -> None:
    assert is_in_use(tmp_path) is False
    async with open_ledger(str(tmp_path), NOW_MS):
        assert is_in_use(tmp_path) is True
    assert is_in_use(tmp_path) is False


def test_use_of_a_directory_that_cannot_be_opened_is_unknown(tmp_path: Path) -> None:
    assert is_in_use(tmp_path / "missing") is None


async def test_a_running_agent_excludes_commands(tmp_path: Path) -> None:
    async with open_ledger(str(tmp_path), NOW_MS):
        with pytest.raises(StateFileError, match="an agent uses this state directory; stop it first"):
            kept_out(tmp_path).__enter__()


def test_two_commands_exclude_each_other(tmp_path: Path) -> None:
    with kept_out(tmp_path), pytest.raises(StateFileError, match="stop it first"):
        kept_out(tmp_path).__enter__()


async def test_no_agent_starts_while_a_command_runs(tmp_path: Path) -> None:
    with kept_out(tmp_path), pytest.raises(StateFileError, match="another agent"):
        await open_ledger(str(tmp_path), NOW_MS).__aenter__()
    async with open_ledger(str(tmp_path), NOW_MS):
        pass


def test_the_check_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = open_descriptors()

    with kept_out(tmp_path):
        is_in_use(tmp_path)

    assert open_descriptors() <= before


def test_the_holder_of_the_lock_is_found_and_only_while_it_holds_it(tmp_path: Path) -> None:
    descriptor = lock(tmp_path)
    try:
        assert holders(tmp_path) == [os.getpid()]
    finally:
        os.close(descriptor)
    assert holders(tmp_path) == []
    assert holders(tmp_path / "missing") == []
