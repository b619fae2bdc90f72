"""The reader of docs/contract.md works as described, on records as the agent writes them."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.contract.encode import Agent, Mode, encode_sample
from agent.core.address import MonitorPath
from agent.core.reading import EpochEnd, Origin, Sample, VmId, VmIdentity

PAGE = Path(__file__).parents[2] / "docs" / "contract.md"
AGENT = Agent("9b1d4c1f0e6a4f0fa1f6f1c6c9a4b7d2", "node-7", "0199f2ff-1234-7abc-8def-0123456789ab", "0.1.0")


def new_reader() -> Any:
    code = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    page: dict[str, Any] = {}
    exec("\n".join(code), page)
    return page["Reader"]()


def epoch_name(number: int) -> str:
    return str(UUID(int=number + 1))


def sample(epoch: int, sequence: int, previous: EpochEnd | None = None, vm: int = 0) -> Sample:
    id = str(UUID(int=1000 + vm))
    return Sample(
        vm=VmIdentity(VmId(id), "uuid", id, None),
        address=MonitorPath("/run/vm/a.qmp"),
        epoch=epoch_name(epoch),
        epoch_start_s=1795404000,
        sequence=sequence,
        previous=previous,
        last_update_s=1795404000 + 10 * sequence,
        observed_at_ms=1795404000123 + 10_000 * sequence,
        origin=Origin.POLL,
        missed_at_most=0,
        interval_s=10,
        run_state="running",
        balloon=None,
        statistics={"free_memory": sequence},
    )


def read(samples: Iterable[Sample], mode: Mode = Mode.BINARY) -> tuple[list[tuple[str, int]], int]:
    reader = new_reader()
    taken = [reader.take(encode_sample(each, AGENT, mode).value) for each in samples]
    return [(each["epoch"], each["sequence"]) for each in taken if each is not None], reader.lost


def test_the_page_holds_one_reader_that_runs() -> None:
    assert callable(new_reader().take)


@pytest.mark.parametrize("mode", Mode)
def test_repeats_are_dropped_in_both_modes(mode: Mode) -> None:
    samples = [sample(0, 1), sample(0, 2), sample(0, 2), sample(0, 1), sample(0, 3)]

    assert read(samples, mode) == ([(epoch_name(0), n) for n in (1, 2, 3)], 0)


def test_a_jump_is_a_loss_of_its_size() -> None:
    assert read([sample(0, 1), sample(0, 5)])[1] == 3


def test_a_loss_between_two_epochs_is_counted() -> None:
    first = sample(1, 1, EpochEnd(epoch_name(0), 4))

    assert read([sample(0, 1), sample(0, 2), first])[1] == 2


def test_a_loss_of_the_beginning_of_an_epoch_is_counted() -> None:
    assert read([sample(0, 1), sample(1, 3)])[1] == 2


def test_a_reader_that_starts_in_the_middle_counts_no_loss() -> None:
    assert read([sample(0, 311), sample(0, 312)])[1] == 0
    assert read([sample(1, 1, EpochEnd(epoch_name(0), 4))])[1] == 0


def test_vms_are_independent() -> None:
    samples = [sample(0, 1, vm=1), sample(0, 1, vm=2), sample(0, 2, vm=2), sample(0, 2, vm=1)]

    taken, lost = read(samples)

    assert (len(taken), lost) == (4, 0)


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    gone=st.sets(st.integers(0, 20)),
    repeats=st.lists(st.integers(0, 20), max_size=5),
)
def test_sent_is_accepted_plus_lost(lengths: list[int], gone: set[int], repeats: list[int]) -> None:
    """The first sample of each epoch and the very last one are never lost: a reader cannot detect that."""
    sent = [
        sample(epoch, sequence, EpochEnd(epoch_name(epoch - 1), lengths[epoch - 1]) if epoch else None)
        if sequence == 1
        else sample(epoch, sequence)
        for epoch, length in enumerate(lengths)
        for sequence in range(1, length + 1)
    ]
    arrived = [
        each for place, each in enumerate(sent) if place not in gone or each.sequence == 1 or each is sent[-1]
    ]
    for place in repeats:
        arrived = [*arrived[: place + 2], *arrived[place:]]  # a batch is sent again

    taken, lost = read(arrived)

    assert taken == [(each.epoch, each.sequence) for each in sent if each in arrived]
    assert lost == len(sent) - len(taken)
