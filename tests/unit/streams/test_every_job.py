"""What holds for every job: its records conform, and no input makes it raise."""

import json
from functools import cache
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from barograph_streams.core.jobs import JOBS, Job
from barograph_streams.core.records import Record
from tests.contract.schema_files import SCHEMAS, examples, load, newest
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
    """Return those of a document's value and headers."""
    headers = {**ASYNCAPI["components"]["messages"][name]["headers"], "components": ASYNCAPI["components"]}
    return Draft202012Validator(newest(name)), Draft202012Validator(headers)


def check(record: Record) -> None:
    """Assert that a record conforms to its schema and to the AsyncAPI document."""
    document = json.loads(record.value)
    name = record.headers["ce_dataschema"].split(":")[3]
    message = ASYNCAPI["components"]["messages"][name]
    of_value, of_headers = validators(name)
    of_value.validate(document)  # pyright: ignore[reportUnknownMemberType]: its stub is untyped
    of_headers.validate(dict(record.headers))  # pyright: ignore[reportUnknownMemberType]: its stub is untyped
    assert message["name"] == record.headers["ce_type"] == f"{record.topic}.v1"
    assert document["schema"] == f"{record.topic}/1.0"
    assert record.headers.keys() <= ASYNCAPI["components"]["schemas"]["headers"]["properties"].keys()


@EACH_JOB
def test_every_record_conforms(job: Job) -> None:
    states: dict[str, bytes] = {}
    written = 0
    stream = mixed(seed=3, vms=6, samples=200, step_s=9_000)
    for document in ("state", "agent"):
        for path in examples(document, "valid"):
            value = path.read_bytes()
            vm: Any = load(path).get("vm", {})
            stream.append((vm.get("id", json.loads(value)["host"]["id"]), value))

    for now_ms, (key, value) in enumerate(stream):
        stepped = job.steps.step(states.get(key), key, value, now_ms)
        states |= {key: stepped.state} if stepped.state else {}
        for record in stepped.records:
            check(record)
            written += 1

    assert written >= 2


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
