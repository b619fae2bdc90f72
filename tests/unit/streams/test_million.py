"""Tests of the stream jobs' reader against the reader of docs/contract.md, on all that may arrive.

The short form reads some thousand records, the long form a million. `integration/test_streams.py` reads them
through Flink.
"""

from collections import Counter

import pytest

from barograph_streams.core.documents import Outcome
from barograph_streams.core.pressure_job import JOB
from tests.contract.test_schemas_reader import new_reader
from tests.unit.streams.making import AGENTS
from tests.unit.streams.mixing import GARBAGE, an_hour_behind, later_versions, mixed

ACCEPTED = {Outcome.KEPT, Outcome.SUPERSEDED, Outcome.REDELIVERED}
BATCH = 10_000
"""Records at a time, each batch of other VMs, since a million records would not fit into memory."""


@pytest.mark.slow
@pytest.mark.parametrize("is_late", [False, True], ids=["in order", "a host an hour behind"])
@pytest.mark.parametrize(
    "records", [5_000, pytest.param(1_000_000, marks=[pytest.mark.long, pytest.mark.timeout(1_800)])]
)
def test_each_record_is_kept_dropped_and_counted_as_by_the_contracts_reader(
    records: int, is_late: bool
) -> None:
    reader, lost, outcomes = new_reader(), 0, Counter[Outcome]()
    for batch in range(max(1, records // BATCH)):
        made = mixed(seed=batch, vms=40, samples=min(records, BATCH) // 40, step_s=60)
        stream = later_versions(made, batch)
        states: dict[str, bytes] = {}
        for key, value in an_hour_behind(stream, AGENTS[1].host_id) if is_late else stream:
            stepped = JOB.step(states.get(key), key, value)
            outcomes[stepped.outcome] += 1
            if value in GARBAGE:
                assert stepped.outcome.is_dead
                continue
            assert stepped.state is not None
            states[key] = stepped.state
            taken = reader.take(value)
            lost += stepped.lost
            assert (stepped.outcome in ACCEPTED) is (taken is not None)
            assert lost == reader.lost
        reader.vms.clear()
        reader.unopened.clear()

    assert outcomes.keys() >= ACCEPTED - {Outcome.SUPERSEDED} | {Outcome.REPEAT, Outcome.NOT_JSON}
    assert outcomes[Outcome.SUPERSEDED] > 0 or not is_late
    print(f"{outcomes.total()} records: {dict(outcomes)}, {lost} lost")
