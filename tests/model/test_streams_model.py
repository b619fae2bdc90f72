"""Model test of the reader of the stream jobs against the reader of docs/contract.md.

The streams have repeats, gaps, several epochs, redelivered samples, migrations between two hosts, both modes,
a later minor version, other kinds, other major versions, and garbage.
"""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.contract.encode import Mode
from barograph_streams.core.documents import Outcome
from barograph_streams.core.pressure_job import JOB
from tests.contract.test_schemas_reader import new_reader
from tests.unit.streams.making import Made, make, redeliver

ACCEPTED = {Outcome.KEPT, Outcome.SUPERSEDED, Outcome.REDELIVERED}

Stream = list[tuple[str, bytes]]


@st.composite
def samples(draw: st.DrawFn, vm: int) -> list[Made]:
    """Return the samples of a VM as they arrive."""
    lengths = draw(st.lists(st.integers(1, 8), min_size=1, max_size=4))
    mode = draw(st.sampled_from(Mode))
    sent = [
        make(
            sequence,
            vm=vm,
            epoch=100 * vm + epoch,
            host=epoch % 2,
            previous=(100 * vm + epoch - 1, lengths[epoch - 1]) if epoch and sequence == 1 else None,
            mode=mode,
        )
        for epoch, length in enumerate(lengths)
        for sequence in range(1, length + 1)
    ]
    arrived = [made for made in sent if draw(st.integers(0, 4))]
    for _ in range(draw(st.integers(0, 4))):  # batches that are sent again
        start = draw(st.integers(0, len(arrived)))
        end = start + draw(st.integers(0, 4))
        arrived[end:end] = arrived[start:end]
    for made in draw(st.lists(st.sampled_from(sent), max_size=6)):
        arrived.insert(draw(st.integers(0, len(arrived))), redeliver(made))
    if draw(st.booleans()):  # a migration: records of two hosts mix
        place = draw(st.integers(0, len(arrived)))
        late = arrived[place : place + 3]
        arrived[place : place + 3] = []
        for made in late:
            arrived.insert(draw(st.integers(0, len(arrived))), made)
    return arrived


def garbage(made: Made) -> st.SearchStrategy[bytes]:
    """Return values that no reader accepts."""
    document: dict[str, Any] = json.loads(make(3).value)
    return st.one_of(
        st.binary(max_size=20),
        st.sampled_from([b"", b"{", b"null", made.value[:-1]]),
        st.sampled_from(["barograph.vm.sample/2.0", "barograph.vm.other/1.0", "x"]).map(
            lambda schema: json.dumps({**document, "schema": schema}).encode()
        ),
        st.sampled_from(["sequence", "vm", "epoch", "statistics"]).map(
            lambda field: json.dumps({**document, field: None}).encode()
        ),
    )


def later_version(value: bytes) -> bytes:
    """Return a document of version 1.9, with a field that the schema does not have."""
    document: dict[str, Any] = json.loads(value)
    inner = document.get("data", document)
    inner.update(schema="barograph.vm.sample/1.9", color="red")
    return json.dumps(document).encode()


@st.composite
def streams(draw: st.DrawFn) -> tuple[Stream, set[int]]:
    """Return records as they arrive, and the indexes of those that are garbage."""
    queues = [draw(samples(vm)) for vm in range(2)]
    stream: Stream = []
    bad: set[int] = set()
    while any(queues):
        made = draw(st.sampled_from([queue for queue in queues if queue])).pop(0)
        if draw(st.integers(0, 5)) == 0:
            bad.add(len(stream))
            stream.append((made.key, draw(garbage(made))))
        stream.append((made.key, later_version(made.value) if draw(st.integers(0, 3)) == 0 else made.value))
    return stream, bad


@given(streams())
def test_the_job_keeps_and_loses_the_same_samples_as_the_contracts_reader(
    drawn: tuple[Stream, set[int]],
) -> None:
    stream, bad = drawn
    reader, states, lost = new_reader(), dict[str, bytes](), 0

    for place, (key, value) in enumerate(stream):
        stepped = JOB.step(states.get(key), key, value)
        if place in bad:
            assert stepped.state is None
            assert stepped.outcome not in ACCEPTED | {Outcome.REPEAT}
            continue
        assert stepped.state is not None
        states[key] = stepped.state
        lost += stepped.lost
        taken = reader.take(value)
        assert (stepped.outcome in ACCEPTED) is (taken is not None), place
        assert lost == reader.lost, place

    kept = [JOB.decode(state)[0] for state in states.values()]
    assert sum(each.lost for each in kept) == reader.lost
    assert [list(each.epochs) for each in kept] == [list(reader.vms[vm]) for vm in states if vm in reader.vms]


@given(samples(0))
def test_the_records_do_not_depend_on_repeats(arrived: list[Made]) -> None:
    """Each sample is read twice in a row, as after a restart without transactions."""

    def written(stream: list[Made]) -> list[bytes]:
        state: bytes | None = None
        values: list[bytes] = []
        for made in stream:
            stepped = JOB.step(state, made.key, made.value)
            state = stepped.state or state
            values += [record.value for record in stepped.records]
        return values

    assert written([copy for made in arrived for copy in (made, made)]) == written(arrived)
