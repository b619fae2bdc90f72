"""Test of `barograph spool` next to a running agent, and of redelivery of records that Kafka refused."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab import qemu
from tests.lab.agent import agent, barograph
from tests.lab.kafka import RealKafka, consume

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("real_qemu")]

SAMPLES = "barograph.spool-cli.samples"
STATES = "barograph.spool-cli.states"


def wait(condition: Callable[[], bool], what: str, timeout_s: float = 240.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"no {what}"
        time.sleep(0.2)


def test_records_that_kafka_refused_are_listed_requeued_and_arrive_marked(
    folder: Path, shared_kafka: RealKafka
) -> None:
    state = folder / "state"

    def spool(*words: str) -> subprocess.CompletedProcess[str]:
        return barograph("spool", *words, "--state-directory", str(state))

    def status() -> dict[str, Any]:
        done = spool("status", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    shared_kafka.create_topic(SAMPLES, max_message_bytes="200")
    shared_kafka.create_topic(STATES)
    topics = {"BAROGRAPH_KAFKA__SAMPLES_TOPIC": SAMPLES, "BAROGRAPH_KAFKA__STATES_TOPIC": STATES}
    words = ["--monitor", f"{folder}/*.qmp", "--interval", "1s", "--kafka", shared_kafka.bootstrap]

    with qemu.guest(folder, "g"):
        with agent(folder / "1", *words, state=state, env=topics) as process:
            wait(lambda: state.joinpath("spool.sqlite").exists(), "spool")
            wait(lambda: status()["dead_letters"]["by_reason"].get("too_large", 0) >= 3, "dead letters")
            assert status()["agent_has_it"] is True
            verified = spool("verify")
            assert (verified.returncode, verified.stdout.splitlines()[-1]) == (0, "no problems found")
            for word in ("requeue", "drop"):
                refused = spool("dead-letters", word, "--all")
                assert refused.returncode == 3
                assert "an agent uses this state directory" in refused.stderr
            assert process.stop() == 0
        listed = [json.loads(line) for line in spool("dead-letters", "list", "--json").stdout.splitlines()]
        ids = [each["id"] for each in reversed(listed)]
        assert [each["value"]["sequence"] for each in reversed(listed)] == list(range(1, len(ids) + 1))

        shared_kafka.delete_topic(SAMPLES)
        shared_kafka.create_topic(SAMPLES)
        requeued = spool("dead-letters", "requeue", "--all")
        assert len(ids) >= 3
        assert requeued.stdout == f"requeued {len(ids)} records: {len(ids)} to samples\n"
        assert status()["agent_has_it"] is False
        assert spool("verify").returncode == 0

        with agent(folder / "2", *words, state=state, env=topics) as process:
            process.wait_for_log("state=reporting")
            wait(lambda: len(consume(shared_kafka.bootstrap, [SAMPLES])) > len(ids), "delivery")
            assert process.stop() == 0

    arrived = consume(shared_kafka.bootstrap, [SAMPLES])
    marked = [each for each in arrived if each.headers.get("ce_redelivered") == b"true"]
    assert [each.headers["ce_id"].decode() for each in marked] == ids
    assert arrived[: len(ids)] == marked
    assert {json.loads(each.value).get("redelivered") for each in marked} == {True}
    assert {json.loads(each.value).get("redelivered") for each in arrived[len(ids) :]} == {None}
    fresh = [json.loads(each.value)["sequence"] for each in arrived[len(ids) :]]
    assert fresh == list(range(len(ids) + 1, len(ids) + 1 + len(fresh)))
    assert status()["dead_letters"]["records"] == 0
