"""Tests of the agent with the state directory of another version: an upgrade, and a downgrade."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agent.spool.format import FORMAT
from tests.golden import state_directory
from tests.integration.watching import conserved
from tests.lab.agent import agent, barograph
from tests.lab.embedded_kafka import EmbeddedKafka
from tests.lab.process import wait_until
from tests.lab.record_release import RELEASES, contents, record

THIS_TREE = "this tree"
OF_KAFKA = ("samples", "states", "memory")
# The records of a recording have fixed times; they must not be dropped because of their age.
KEPT = {"BAROGRAPH_SPOOL__MODE": "disk", "BAROGRAPH_SPOOL__AGE": "365d"}


@pytest.fixture(params=[*sorted(path.name for path in RELEASES.glob("*")), THIS_TREE])
def recording(request: pytest.FixtureRequest, folder: Path) -> Path:
    if request.param != THIS_TREE:
        return RELEASES / request.param
    record(folder / "recording")
    return folder / "recording"


@pytest.fixture
def state(recording: Path, folder: Path) -> Path:
    state_directory.restore(recording / "state", folder / "state")
    return folder / "state"


def files(directory: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in directory.iterdir()}


def queued(directory: Path) -> int:
    done = barograph("spool", "status", "--json", "--state-directory", str(directory))
    assert done.returncode == 0, done.stderr
    waiting = json.loads(done.stdout)["waiting"]
    return sum(waiting[queue]["records"] for queue in OF_KAFKA)


def test_the_agent_delivers_the_records_that_every_release_left(
    recording: Path, state: Path, folder: Path, embedded_kafka: EmbeddedKafka
) -> None:
    expected = json.loads((recording / "contents.json").read_text())
    for topic in OF_KAFKA:
        embedded_kafka.create_topic(f"barograph.{topic}", 4)
    words = ("--monitor", f"{folder}/*.qmp", "--kafka", embedded_kafka.bootstrap)

    with agent(folder / "run", *words, state=state, env=KEPT) as process:
        wait_until(lambda: queued(state) == 0, "delivery", process.process, process.stderr, timeout_s=240)
        assert process.stop() == 0
        totals = conserved(process)

    for queue in ("samples", "states"):
        assert expected["queues"][queue]
        assert totals[f"carried.kafka.{queue}"] == len(expected["queues"][queue])
        assert totals[f"delivered.kafka.{queue}"] >= totals[f"carried.kafka.{queue}"]
    assert not list(state.glob("*.bad"))
    kept = contents(state)
    assert kept["dead_letters"] == expected["dead_letters"]
    assert kept["vms"] == expected["vms"]


@pytest.mark.parametrize("newer", ["spool.sqlite", "owed.json"])
def test_an_older_agent_refuses_to_start_and_changes_nothing(
    folder: Path, embedded_kafka: EmbeddedKafka, newer: str
) -> None:
    record(folder / "recording")
    state = folder / "state"
    state_directory.restore(folder / "recording/state", state)
    make_newer(state, newer)
    before = files(state)
    words = ("run", "--monitor", f"{folder}/*.qmp", "--kafka", embedded_kafka.bootstrap)
    variables = KEPT | {"BAROGRAPH_WEB__ENABLED": "false"}

    refused = barograph(*words, "--state-directory", str(state), env=variables)

    assert refused.returncode == 3
    assert f"cannot start: {state / newer}: format " in refused.stderr
    assert "is newer; this version reads format" in refused.stderr
    assert "install that version again, or " in refused.stderr
    assert files(state) == before

    # The other option in the message: the older agent runs without the file, which stays unchanged.
    (state / newer).rename(folder / newer)
    with agent(folder / "older", *words[1:], state=state, env=KEPT) as process:
        process.wait_for_log("discovery")
        assert process.stop() == 0
    assert (folder / newer).read_bytes() == before[newer]


def make_newer(state: Path, name: str) -> None:
    path = state / name
    if name == state_directory.LEDGER:
        path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
        return
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
