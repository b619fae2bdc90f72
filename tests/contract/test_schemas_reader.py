"""The reader in docs/contract.md works as described there, on records that the agent's code writes."""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.contract.encode import Mode, encode_sample
from agent.contract.payloads import Agent
from agent.contract.redelivered import redelivered
from agent.core.address import MonitorPath
from agent.core.reading import EpochEnd, Origin, Sample, VmId, VmIdentity

PAGE = Path(__file__).parents[2] / "docs" / "contract.md"
AGENT = Agent("9b1d4c1f0e6a4f0fa1f6f1c6c9a4b7d2", "node-7", "0199f2ff-1234-7abc-8def-0123456789ab", "0.1.0")


def page() -> dict[str, Any]:
    code = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec("\n".join(code), names)
    return names


def new_reader() -> Any:
    return page()["Reader"]()


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


@dataclass(frozen=True)
class Again:
    """A sample that an operator sends again."""

    sample: Sample


def value(each: Sample | Again, mode: Mode = Mode.BINARY) -> bytes:
    if isinstance(each, Again):
        return redelivered(encode_sample(each.sample, AGENT, mode)).value
    return encode_sample(each, AGENT, mode).value


def read(arrived: Iterable[Sample | Again], mode: Mode = Mode.BINARY) -> tuple[list[tuple[str, int]], int]:
    reader = new_reader()
    taken = [reader.take(value(each, mode)) for each in arrived]
    return [(each["epoch"], each["sequence"]) for each in taken if each is not None], reader.lost


def sequences(arrived: Iterable[Sample | Again], mode: Mode = Mode.BINARY) -> tuple[list[int], int]:
    taken, lost = read(arrived, mode)
    return [sequence for _, sequence in taken], lost


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


# --- redelivered samples ---


@pytest.mark.parametrize("mode", Mode)
def test_a_redelivered_sample_that_fills_a_gap_is_accepted_once_and_no_longer_lost(mode: Mode) -> None:
    before: list[Sample | Again] = [sample(0, 1), sample(0, 5)]

    assert sequences(before, mode) == ([1, 5], 3)
    assert sequences([*before, Again(sample(0, 3))], mode) == ([1, 5, 3], 2)
    assert sequences([*before, Again(sample(0, 3)), Again(sample(0, 3))], mode) == ([1, 5, 3], 2)
    assert sequences([*before, *(Again(sample(0, n)) for n in (4, 2, 3))], mode) == ([1, 5, 4, 2, 3], 0)


def test_a_redelivered_sample_that_has_arrived_before_is_a_repeat() -> None:
    assert sequences([sample(0, 1), sample(0, 2), Again(sample(0, 1)), Again(sample(0, 2))]) == ([1, 2], 0)


def test_a_redelivered_sample_above_the_highest_does_not_move_it() -> None:
    above = [sample(0, 1), Again(sample(0, 7))]

    assert sequences(above) == ([1, 7], 0)
    assert sequences([*above, sample(0, 2), sample(0, 3)]) == ([1, 7, 2, 3], 0)
    assert sequences([*above, Again(sample(0, 7)), sample(0, 9)]) == ([1, 7, 9], 6)  # 2 to 6, and 8


def test_a_redelivered_sample_at_the_end_of_an_epoch_is_not_lost_when_the_next_one_begins() -> None:
    first = sample(1, 1, EpochEnd(epoch_name(0), 4))

    assert sequences([sample(0, 1), Again(sample(0, 3)), first]) == ([1, 3, 1], 2)
    assert sequences([sample(0, 1), first, Again(sample(0, 3))]) == ([1, 1, 3], 2)


def test_a_redelivered_sample_of_an_unknown_epoch_does_not_open_it() -> None:
    stray = [sample(0, 1), Again(sample(1, 5)), Again(sample(1, 5))]

    assert sequences(stray) == ([1, 5], 0)
    assert sequences([*stray, sample(1, 1), sample(1, 2)]) == ([1, 5, 1, 2], 0)
    assert sequences([*stray, sample(1, 7), Again(sample(1, 5))]) == ([1, 5, 7], 5)  # 1 to 4, and 6


def test_a_redelivered_sample_of_an_unknown_vm_does_not_begin_its_reading() -> None:
    """Otherwise the samples before the first one in order would count as lost."""
    assert sequences([Again(sample(0, 5)), sample(0, 311), sample(0, 312)]) == ([5, 311, 312], 0)


def test_a_redelivered_sample_from_before_reading_began_is_accepted_and_was_not_lost() -> None:
    assert sequences([sample(0, 311), Again(sample(0, 300)), Again(sample(0, 300))]) == ([311, 300], 0)


def test_a_redelivered_first_sample_shows_the_loss_at_the_end_of_the_epoch_before() -> None:
    first = sample(1, 1, EpochEnd(epoch_name(0), 4))

    assert sequences([sample(0, 1), sample(1, 2)]) == ([1, 2], 1)
    assert sequences([sample(0, 1), sample(1, 2), Again(first), Again(first)]) == ([1, 2, 1], 3)


# --- memory and CPU ---


def test_the_oldest_epochs_of_a_vm_are_forgotten() -> None:
    reader, kept = new_reader(), page()["EPOCHS_KEPT"]

    for epoch in range(kept + 3):
        reader.take(value(sample(epoch, 1)))

    (epochs,) = reader.vms.values()
    assert list(epochs) == [epoch_name(epoch) for epoch in range(3, kept + 3)]


def test_the_oldest_gaps_of_an_epoch_are_forgotten_and_stay_lost() -> None:
    reader, kept = new_reader(), page()["GAPS_KEPT"]
    for sequence in range(1, 2 * kept + 20, 2):
        reader.take(value(sample(0, sequence)))

    (epochs,) = reader.vms.values()
    lost, gaps = reader.lost, len(epochs[epoch_name(0)].gaps)
    forgotten, known = (reader.take(value(Again(sample(0, sequence)))) for sequence in (2, 2 * kept))

    assert (gaps, lost) == (kept, kept + 9)
    assert (forgotten, known["sequence"], reader.lost) == (None, 2 * kept, lost - 1)


def test_unopened_epochs_are_bounded_and_do_not_displace_others() -> None:
    names = page()
    names["Reader"].__init__.__globals__["UNOPENED_KEPT"] = 5
    reader = names["Reader"]()
    reader.take(value(sample(0, 1)))

    for epoch in range(1, 21):
        assert reader.take(value(Again(sample(epoch, 1))))

    assert len(reader.unopened) == 5
    assert reader.take(value(sample(0, 1))) is None
    assert reader.take(value(sample(0, 2)))["sequence"] == 2


def test_the_cost_does_not_depend_on_the_number_of_vms() -> None:
    """Ten times the VMs take ten times as long, but 100 times as long if each record scans all VMs."""

    def fastest_s(vms: int) -> float:
        values = [value(sample(epoch, 2, vm=vm)) for epoch in (0, 1) for vm in range(vms)]
        took_s: list[float] = []
        for _ in range(3):
            reader = new_reader()
            began_s = time.process_time()
            for each in values:
                reader.take(each)
            took_s.append(time.process_time() - began_s)
        return min(took_s)

    assert fastest_s(3_000) < 40 * fastest_s(300)


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    gone=st.sets(st.integers(0, 20)),
    repeats=st.lists(st.integers(0, 20), max_size=5),
    again=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=8),
)
def test_sent_is_accepted_plus_lost(
    lengths: list[int], gone: set[int], repeats: list[int], again: list[tuple[int, int]]
) -> None:
    """Neither the first sample of an epoch nor the last of all is lost: a reader cannot detect that.

    `again` has lost samples, each with the number of records between its own place and its redelivery.
    """
    sent = [
        sample(epoch, sequence, EpochEnd(epoch_name(epoch - 1), lengths[epoch - 1]) if epoch else None)
        if sequence == 1
        else sample(epoch, sequence)
        for epoch, length in enumerate(lengths)
        for sequence in range(1, length + 1)
    ]
    arrived: list[Sample | Again] = [
        each for place, each in enumerate(sent) if place not in gone or each.sequence == 1 or each is sent[-1]
    ]
    in_order = [(each.epoch, each.sequence) for each in sent if each in arrived]
    late: list[tuple[str, int]] = []
    for place, distance in again:
        each = sent[place % len(sent)]
        if each not in arrived:
            late.append((each.epoch, each.sequence))
            arrived.insert(1 + min(place, len(sent)) + distance, Again(each))
    for place in repeats:
        arrived = [*arrived[: place + 2], *arrived[place:]]  # a batch is sent again

    taken, lost = read(arrived)

    assert [each for each in taken if each not in late] == in_order
    assert sorted(taken) == sorted({*in_order, *late})
    assert lost == len(sent) - len(taken)
