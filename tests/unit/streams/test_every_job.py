"""Tests of every job: its records conform to their schemas, and no input makes it raise."""

import json
from functools import cache
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from barograph_streams.core.jobs import JOBS, Job
from barograph_streams.core.records import Record
from tests.contract.schema_files import SCHEMAS, examples, load, newest
from tests.unit.streams.hosting import Fleet, host_memory, pressed_round, vm_memory
from tests.unit.streams.making import make, vm_id
from tests.unit.streams.mixing import mixed

ASYNCAPI: Any = yaml.safe_load((SCHEMAS / "asyncapi.streams.yaml").read_text())
EACH_JOB = pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
EXTREMES = [0, 1, 2**31, 2**53 - 1]
NAMES = [
    "available_memory",
    "total_memory",
    "major_faults",
    "swap_in",
    "swap_out",
    "oom_kills",
    "direct_scans",
]


@cache
def validators(name: str) -> tuple[Draft202012Validator, Draft202012Validator]:
    """Return the validators of a message's value and headers."""
    headers = {**ASYNCAPI["components"]["messages"][name]["headers"], "components": ASYNCAPI["components"]}
    return Draft202012Validator(newest(name)), Draft202012Validator(headers)


def check(record: Record) -> None:
    """Assert that a record conforms to its schema and to the AsyncAPI document."""
    document = json.loads(record.value)
    name = record.headers["ce_dataschema"].split(":")[3]
    message = ASYNCAPI["components"]["messages"][name]
    of_value, of_headers = validators(name)
    of_value.validate(document)
    of_headers.validate(dict(record.headers))
    assert message["name"] == record.headers["ce_type"] == f"{record.topic}.v1"
    assert document["schema"] == f"{record.topic}/1.0"
    assert record.headers.keys() <= ASYNCAPI["components"]["schemas"]["headers"]["properties"].keys()


@EACH_JOB
def test_every_record_conforms(job: Job) -> None:
    stream = mixed(seed=3, vms=6, samples=200, step_s=9_000)
    for document in ("state", "agent"):
        for path in examples(document, "valid"):
            value = path.read_bytes()
            vm: Any = load(path).get("vm", {})
            stream.append((vm.get("id", json.loads(value)["host"]["id"]), value))

    stream += [sent for number in range(40) for sent in pressed_round(number)]
    fleet = Fleet(job)
    for place, sent in enumerate(stream):
        fleet.now_ms = place
        fleet.read(sent)
    fleet.wait(10**7)
    records = [record for stepped in fleet.steps for record in stepped.records]
    for record in records:
        check(record)

    assert len(records) >= 2


@EACH_JOB
@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.integers(1, 6),
            st.sampled_from([1, 2, 86_399, 86_400, 900_000, 253_402_300_799]),
            st.dictionaries(st.sampled_from(NAMES), st.sampled_from(EXTREMES)),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_no_samples_raise(job: Job, steps: list[tuple[int, int, int, dict[str, int], bool]]) -> None:
    state: bytes | None = None
    for epoch, sequence, at_s, statistics, again in steps:
        value = json.loads(make(sequence, epoch=epoch, statistics=statistics, again=again).value)
        value["last_update"] = at_s
        stepped = job.steps.step(state, vm_id(0), json.dumps(value).encode(), 1)
        state = stepped.state or state
        assert stepped.state is not None
        assert job.steps.on_timer(state, vm_id(0), 10**12) is not None
        for record in stepped.records:
            check(record)


@pytest.mark.parametrize("job", [job for job in JOBS.values() if job.by_host], ids=lambda job: job.name)
@settings(deadline=None, max_examples=40)
@given(
    rounds=st.lists(
        st.tuples(
            st.integers(0, 1),
            st.sampled_from([1, 2, 86_400]),
            st.sampled_from([0, 1, 60_000, 2**40, 253_402_300_799_999]),
            st.sampled_from(EXTREMES[1:]),
            st.sampled_from(EXTREMES),
            st.booleans(),
        ),
        max_size=8,
    )
)
def test_no_memory_records_raise(job: Job, rounds: list[tuple[int, int, int, int, int, bool]]) -> None:
    fleet = Fleet(job)
    for number, (host, interval_s, at_ms, large, size, is_whole) in enumerate(rounds):
        times: dict[str, Any] = {"observed_at_ms": at_ms, "interval_s": interval_s}
        whole: dict[str, Any] = {
            "memory": {"total_bytes": size, "available_bytes": large},
            "pressure": {"some": {"total_us": size}},
            "vms": {"count": size, "reporting": 0},
        }
        fleet.read(make(number + 1, host=host, statistics=dict.fromkeys(NAMES, size)).record)
        fleet.read(
            vm_memory(
                0,
                host,
                number,
                configured={"base_bytes": large, "plugged_bytes": size} if is_whole else None,
                balloon={"actual_bytes": size, "deflate_on_oom": is_whole},
                process={"resident_bytes": size, "swap_bytes": large} if is_whole else None,
                **times,
            )
        )
        fleet.read(host_memory(host, number, **times, **whole if is_whole else {"memory": {}}))
        fleet.wait(interval_s * 2_000)
    for stepped in fleet.steps:
        for record in stepped.records:
            check(record)
