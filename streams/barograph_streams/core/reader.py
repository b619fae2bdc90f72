"""Separates new samples of one VM from repeats, and counts losses: rules 2, 3, 10 and 11 of docs/contract.md.

The reader of that page keeps all VMs; here a state is that of one VM, and it is bounded. A state is changed
in place: the caller has decoded it from bytes for this record alone.
"""

from msgspec import Struct, UnsetType

from barograph_streams.core.documents import SEQUENCE_MAX, Outcome, Sample

EPOCHS_KEPT = 16
"""Of a VM, the newest by arrival. Their ids are not in order of time, since clocks are set back."""

UNOPENED_KEPT = 16
"""Of a VM, epochs of which only redelivered samples have arrived."""

GAPS_KEPT = 100
"""Of an epoch, the newest."""


class Epoch(Struct, array_like=True):
    """Which samples of one epoch have arrived."""

    highest: int  # sequence of the samples in order; redelivered ones do not move it
    first: int  # earlier samples are not counted as lost, because reading began here
    gaps: list[tuple[int, int]]  # the sequences that have not arrived; the last gap ends at SEQUENCE_MAX


class ReaderState(Struct, array_like=True):
    """What is kept of one VM."""

    epochs: dict[str, Epoch]  # in the order of arrival
    unopened: dict[str, Epoch]
    kept: int = 0
    repeats: int = 0
    redelivered: int = 0
    lost: int = 0  # samples that have not arrived; falls when one is redelivered
    missed: int = 0  # updates that were overwritten before an agent read them, at most


class Reading(Struct, frozen=True):
    """What one sample is to the reader."""

    outcome: Outcome
    lost: int  # change of the number of lost samples


def new_state() -> ReaderState:
    """Return the state of a VM that no sample has arrived of."""
    return ReaderState({}, {})


def take(state: ReaderState, sample: Sample) -> Reading:
    """Record a sample in the state, and return what it is."""
    lost_before = state.lost
    outcome = _place(state, sample)
    if outcome is Outcome.REPEAT:
        state.repeats += 1
    else:
        state.kept += 1
        state.missed = min(state.missed + sample.missed_at_most, SEQUENCE_MAX)
        state.redelivered += sample.redelivered
    return Reading(outcome, state.lost - lost_before)


def _place(state: ReaderState, sample: Sample) -> Outcome:
    epochs, sequence = state.epochs, sample.sequence
    if not isinstance(sample.previous, UnsetType) and (ended := epochs.get(sample.previous.epoch)):
        state.lost += _advance(ended, sample.previous.sequence)
    epoch = epochs.get(sample.epoch)
    if epoch is None and sample.redelivered:
        epoch = state.unopened.setdefault(sample.epoch, _new_epoch())
        _forget_oldest(state.unopened, UNOPENED_KEPT)
    elif epoch is None:
        epoch = state.unopened.pop(sample.epoch, None) or _new_epoch()
        if not epochs:
            epoch.first, epoch.highest = sequence, sequence - 1
        epochs[sample.epoch] = epoch
        _forget_oldest(epochs, EPOCHS_KEPT)
    if not sample.redelivered and sequence <= epoch.highest:
        return Outcome.REPEAT
    is_new = _fill(epoch, sequence)
    if not sample.redelivered:
        state.lost += _advance(epoch, sequence)
    elif is_new and epoch.first <= sequence <= epoch.highest:
        state.lost -= 1
    if not is_new:
        return Outcome.REPEAT
    if sample.redelivered:
        return Outcome.REDELIVERED
    return Outcome.KEPT if next(reversed(epochs)) == sample.epoch else Outcome.SUPERSEDED


def _new_epoch() -> Epoch:
    return Epoch(0, 1, [(1, SEQUENCE_MAX)])


def _fill(epoch: Epoch, sequence: int) -> bool:
    """Remove a sequence from its gap. Return False if it has arrived before."""
    gaps = epoch.gaps
    for place in range(len(gaps) - 1, -1, -1):
        first, last = gaps[place]
        if first <= sequence <= last:
            parts = (first, sequence - 1), (sequence + 1, last)
            gaps[place : place + 1] = [part for part in parts if part[0] <= part[1]]
            del gaps[:-GAPS_KEPT]
            return True
    return False


def _advance(epoch: Epoch, to: int) -> int:
    """Move `highest`. Return how many samples are missing between the old and the new one."""
    after = epoch.highest
    if to <= after:
        return 0
    epoch.highest = to
    missing = 0
    for first, last in reversed(epoch.gaps):  # in order, and those before `after` are of no interest
        if last <= after:
            break
        if first <= to:
            missing += min(last, to) - max(first, after + 1) + 1
    return missing


def _forget_oldest(entries: dict[str, Epoch], kept: int) -> None:
    while len(entries) > kept:
        del entries[next(iter(entries))]
