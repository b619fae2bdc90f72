"""Tests of the stream jobs' reader: its bounds, and records of an odd agent. The model test has the rest."""

from typing import Any

from barograph_streams.core.documents import Outcome, Sample, parse_sample
from barograph_streams.core.reader import GAPS_KEPT, UNOPENED_KEPT, ReaderState, new_state, take
from tests.contract.test_schemas_reader import new_reader
from tests.unit.streams.making import Made, epoch_name, make, redeliver


def read(arrived: list[Made]) -> tuple[ReaderState, list[Outcome]]:
    """Return the state and the outcomes; assert that they agree with the contract's reader."""
    state, reference, outcomes = new_state(), new_reader(), list[Outcome]()
    for made in arrived:
        sample = parse_sample(made.key, made.value)
        assert isinstance(sample, Sample)
        outcomes.append(take(state, sample).outcome)
        taken: Any = reference.take(made.value)
        assert (outcomes[-1] is Outcome.REPEAT) is (taken is None)
    assert state.lost == reference.lost
    return state, outcomes


def test_an_epoch_that_names_an_early_end_does_not_move_the_highest_back() -> None:
    early = make(1, epoch=1, previous=(0, 1))

    state, outcomes = read([make(1), make(5), early, make(4), make(5), make(6)])

    assert outcomes[-3:] == [Outcome.REPEAT, Outcome.REPEAT, Outcome.SUPERSEDED]
    assert state.lost == 3  # counted once, at the gap


def test_samples_after_the_end_that_an_epoch_names_are_counted_from_there() -> None:
    border = make(1, epoch=1, previous=(0, 8))

    state, _ = read([make(1), make(5), border, make(10)])

    assert state.lost == 3 + 3 + 1  # at the gap, at the border, and 9


def test_the_oldest_gaps_of_an_epoch_are_forgotten_and_stay_lost() -> None:
    every_other = [make(n) for n in range(1, 2 * GAPS_KEPT + 20, 2)]

    state, outcomes = read([*every_other, redeliver(make(2)), redeliver(make(2 * GAPS_KEPT))])

    assert outcomes[-2:] == [Outcome.REPEAT, Outcome.REDELIVERED]
    assert len(state.epochs[epoch_name(0)].gaps) == GAPS_KEPT - 1


def test_unopened_epochs_are_bounded_and_do_not_displace_others() -> None:
    strays = [redeliver(make(1, epoch=n)) for n in range(1, 2 * UNOPENED_KEPT)]

    state, outcomes = read([make(1), *strays, make(2)])

    assert len(state.unopened) == UNOPENED_KEPT
    assert outcomes[-1] is Outcome.KEPT


def test_arrived_samples_are_counted() -> None:
    state, _ = read([make(1), make(1), make(4), redeliver(make(2))])

    assert (state.kept, state.repeats, state.redelivered, state.lost) == (3, 1, 1, 1)
