"""Tests of what the pressure job writes, and when."""

import json
from collections.abc import Iterable
from typing import Any

from jsonschema import Draft202012Validator

from agent.core.reading import Origin
from barograph_streams.core.documents import VALUE_BYTES_MAX, Outcome
from barograph_streams.core.jobs import JOBS, process
from barograph_streams.core.pressure import COUNTERS
from barograph_streams.core.pressure_job import HEARTBEAT_S, JOB
from barograph_streams.core.steps import Step
from tests.contract.test_schemas_asyncapi import STREAMS
from tests.unit.streams.making import AGENTS, T0_S, Made, epoch_name, make, redeliver, starved


def run(arrived: Iterable[Made]) -> tuple[list[Step], list[dict[str, Any]]]:
    """Return the steps, and the documents that were written."""
    kept: bytes | None = None
    steps: list[Step] = []
    for made in arrived:
        steps.append(JOB.step(kept, made.key, made.value))
        kept = steps[-1].state or kept
    return steps, [json.loads(record.value) for each in steps for record in each.records]


def levels(documents: list[dict[str, Any]]) -> list[tuple[str, str | None, bool]]:
    return [(each["level"], each.get("previous_level"), each["heartbeat"]) for each in documents]


def test_a_level_is_written_at_its_first_sample_at_each_change_and_as_a_heartbeat() -> None:
    _, documents = run(make(n, statistics=starved(n)) for n in range(1, 64))

    assert levels(documents) == [
        ("none", None, False),
        ("none", None, True),
        ("pressure", "none", False),
        ("pressure", None, True),
    ]
    assert [each["last_update"] - T0_S for each in documents] == [10, 310, 320, 620]
    assert documents[2]["since"] == documents[2]["last_update"] == documents[3]["since"]


def test_a_record_names_its_sample_and_has_the_events_headers() -> None:
    steps, (document,) = run([make(1, statistics=starved(1), host=1)])
    (record,) = steps[0].records

    assert document["schema"] == "barograph.vm.pressure/1.0"
    assert (document["host"]["id"], document["epoch"], document["sequence"]) == (
        AGENTS[1].host_id,
        epoch_name(0),
        1,
    )
    assert document["score"] == document["components"]["headroom"]
    assert record.key.decode() == document["vm"]["id"] == record.headers["ce_partitionkey"]
    assert record.headers["ce_time"].startswith("2026-11-")
    assert record.headers["ce_sequence"] == f"{1:020}"


def test_repeats_and_samples_of_unknown_age_change_nothing() -> None:
    once = [make(n, statistics=starved(n)) for n in range(1, 40)]
    disturbed = [
        copy
        for made in once
        for copy in (
            made,
            made,
            make(made.sample.sequence, vm=0, epoch=0, statistics={}),
        )
    ]

    assert run(disturbed)[1] == run(once)[1]
    assert run([make(1, origin=Origin.UNSOLICITED, statistics=starved(1))])[1] == []


def test_a_redelivered_sample_is_kept_and_changes_no_level() -> None:
    samples = [make(n, statistics=starved(n)) for n in range(1, 40) if n != 20]
    late = redeliver(make(20, statistics={"available_memory": 1, "total_memory": 1}))

    steps, documents = run([*samples, late])

    assert (steps[-1].outcome, steps[-1].records, steps[-1].lost) == (Outcome.REDELIVERED, (), -1)
    assert documents == run(samples)[1]


def test_the_late_samples_of_the_source_of_a_migration_change_no_level() -> None:
    """The level continues at the target, although the source's samples mix with the target's."""
    source = [make(n, statistics=starved(n)) for n in range(1, 36)]
    target = [
        make(n - 35, epoch=1, host=1, last_update_s=T0_S + 10 * n, statistics=starved(n))
        for n in range(36, 80)
    ]
    mixed = [*source[:-3], *target[:2], source[-3], target[2], source[-2], source[-1], *target[3:]]

    steps, documents = run(mixed)

    assert [each.outcome for each in steps].count(Outcome.SUPERSEDED) == 3
    assert [each["level"] for each in documents if not each["heartbeat"]] == ["none", "pressure"]


def test_a_clock_that_is_set_back_writes_the_level_again() -> None:
    samples = [make(n, statistics=starved(n)) for n in range(1, 3)]
    back = make(1, epoch=1, previous=(0, 2), last_update_s=T0_S - HEARTBEAT_S, statistics=starved(1))

    _, documents = run([*samples, back])

    assert levels(documents) == [("none", None, False), ("none", None, True)]
    assert documents[1]["since"] == T0_S - HEARTBEAT_S


def test_a_refused_record_changes_no_state() -> None:
    assert JOB.step(None, "x", b"{") == Step(Outcome.NOT_JSON, None)


def test_the_state_of_a_vm_is_small() -> None:
    plenty: dict[str, int] = dict.fromkeys(COUNTERS, (1 << 53) - 1)
    epochs = [
        make(1, epoch=n, previous=(n - 1, 1), last_update_s=T0_S + 10 * n, statistics=plenty)
        for n in range(1, 40)
    ]

    steps, _ = run(epochs)
    last = steps[-1].state

    assert last is not None
    assert len(JOB.decode(last)[0].epochs) == 16
    assert len(last) < 2048


def test_a_dead_letter_names_its_place_and_its_reason() -> None:
    frame = b"\0\0\0\2" + b"\0" * 7 + b"\5" + b"\0\3" + b"abc" + b"{"

    stepped, (record,) = process(JOBS["pressure"], None, "x", frame, 0)

    assert stepped.state is None
    assert (record.topic, record.key, record.value) == ("barograph.streams.dead", b"x", b"{")
    assert record.headers == {
        "reason": "not_json",
        "job": "pressure",
        "topic": "abc",
        "partition": "2",
        "offset": "5",
        "length": "1",
    }
    Draft202012Validator(STREAMS["components"]["schemas"]["deadHeaders"]).validate(dict(record.headers))


def test_a_dead_letter_is_never_too_long_to_be_written() -> None:
    key, value = "k" * 2_000_000, b" " * 5_000_000

    _, (record,) = process(JOBS["pressure"], None, key, b"\0" * 14 + value, 0)

    assert (len(record.key), len(record.value)) == (1_024, VALUE_BYTES_MAX)
    assert record.headers["length"] == "5000000"


def test_another_kind_of_record_is_skipped_without_a_dead_letter() -> None:
    frame = b"\0" * 14 + b'{"schema":"barograph.vm.other/1.0"}'

    stepped, records = process(JOBS["pressure"], None, "x", frame, 0)

    assert (stepped.outcome, list(records)) == (Outcome.OTHER_KIND, [])
