"""What is new in a reading: epochs, the watermark, and a sample's origin.

The rule of this module: a sample is emitted if and only if `last_update_s` is above the watermark of
its epoch and the reading differs from the last one seen. An epoch ends when `last-update` goes back
(QEMU >= 10 sets it to 0 at a reset; a new process; a clock step), at RESET, and when the cumulative
statistics fall (a reboot or loadvm on older QEMU: there the time goes on and only the values go
back; core/falling.py judges whether a fall is one). The watermark then starts again; the last reading seen
carries over, so that nothing is emitted twice. An epoch's name is random and is made with its first sample.
"""

from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from uuid import UUID

from msgspec import Struct, field
from msgspec.structs import replace

from agent.core.falling import NO_FALL, judge_fall, keep_rates
from agent.core.reading import EpochEnd, Origin, Reading

CUMULATIVE = frozenset(
    {
        "swap_in",
        "swap_out",
        "major_faults",
        "minor_faults",
        "htlb_pgalloc",
        "htlb_pgfail",
        "oom_kills",
        "alloc_stalls",
        "async_scans",
        "direct_scans",
        "async_reclaims",
        "direct_reclaims",
    }
)
"""Statistics that only grow while a guest runs. Source: linux drivers/virtio/virtio_balloon.c."""

GIVEN_MAX = 512
"""Names remembered per guest: far above QEMU's 16, and a bound against a monitor that invents new ones."""


def uuid7(unix_ms: int, chance: int) -> str:
    """Return a UUIDv7 (RFC 9562, 5.7) of `unix_ms` and the low 74 bits of `chance`."""
    random_a = (chance >> 62) & 0xFFF
    random_b = chance & ((1 << 62) - 1)
    bits = (unix_ms & ((1 << 48) - 1)) << 80 | 0x7 << 76 | random_a << 64 | 0b10 << 62 | random_b
    return str(UUID(int=bits))


class History(Struct, frozen=True):
    """What must be known of earlier readings to tell what is new in the next."""

    epoch: str | None = None  # None: no sample yet
    watermark_s: int = 0  # last_update of the epoch's last sample
    start_s: int = 0  # last_update of its first
    sequence: int = 0  # of its last sample
    ended: bool = False  # the next sample opens another epoch
    last: Reading | None = None  # the last reading seen; outlives epochs
    counters: Mapping[str, int] = field(default_factory=dict[str, int])  # newest of each, this epoch
    given: frozenset[str] = frozenset()  # statistics this guest gave since its last reset
    cadence_known: bool = False  # an update of this epoch was seen, and no pause since
    kicked: bool = False  # the agent set 0 to N, which asks the guest at once; no update since
    no_counters: Mapping[str, int] = field(default_factory=dict[str, int])  # rates: rises since their fall
    fell: frozenset[str] = frozenset()  # the counters whose falls ended the epochs before


class News(Enum):
    """What a reading is, compared with the one before."""

    NOTHING = "nothing"  # last-update is 0
    REPEAT = "repeat"  # equal to the one before
    COALESCED = "coalesced"  # an update within the second of the one before: no advance
    ADVANCE = "advance"


class Seen(Struct, frozen=True):
    """The history after a reading, and what the reading was. `previous` is set on an epoch's first sample."""

    history: History
    news: News
    previous: EpochEnd | None = None
    origin: Origin = Origin.UNSOLICITED
    missing: frozenset[str] = frozenset()
    no_counters: frozenset[str] = frozenset()  # newly found to be none


def end_epoch(history: History, *, guest_reset: bool) -> History:
    """End the epoch: after RESET (`guest_reset`), or when another process or device answers."""
    given: frozenset[str] = frozenset() if guest_reset else history.given
    no_counters: Mapping[str, int] = {} if guest_reset else history.no_counters
    return replace(
        history,
        ended=history.epoch is not None,
        counters={},
        given=given,
        cadence_known=False,
        kicked=False,
        no_counters=no_counters,
        fell=frozenset(),
    )


def break_cadence(history: History) -> History:
    """Return the history after a pause, a stall or a wait: the next update's age will not be known."""
    if not history.cadence_known and not history.kicked:
        return history
    return replace(history, cadence_known=False, kicked=False)


def see(
    history: History, reading: Reading, *, on_time: bool, unix_ms: int, chance: int, told: bool = True
) -> Seen:
    """Compare a reading with the ones before.

    Args:
        history: before the reading.
        reading: what QEMU answered.
        on_time: the reading came about one cadence after the update before, on the VM's clock.
        unix_ms: the wall clock, for the name of a new epoch.
        chance: a uniform draw from [0, 2**128), for the same.
        told: a reset of the guest and a loaded snapshot are events of this link.
    """
    last = history.last
    went_back = last is not None and reading.last_update_s < last.last_update_s
    fall = NO_FALL
    if went_back:
        history = end_epoch(history, guest_reset=True)
    else:
        fall = judge_fall(
            history.counters,
            reading.statistics,
            no_counters=history.no_counters,
            fell_before=history.fell,
            sequence=history.sequence,
            steady=on_time and history.cadence_known,
            told=told,
        )
    fell = fall.restarted
    if fell:
        # The fall may be that of a rate: forgetting the others would end an epoch for each again.
        no_counters = history.no_counters
        history = replace(end_epoch(history, guest_reset=True), no_counters=no_counters, fell=fall.fell)
    elif fall.no_counters:
        history = replace(
            history, no_counters={**history.no_counters, **dict.fromkeys(sorted(fall.no_counters), 0)}
        )
    if reading.last_update_s == 0:
        return Seen(replace(history, last=reading), News.NOTHING)
    if last is not None and reading.last_update_s == last.last_update_s and not fell:
        same = reading.statistics == last.statistics and reading.unset == last.unset
        if same:
            return Seen(history, News.REPEAT)
        if not history.ended and history.epoch is not None:
            coalesced = _remember(history, reading)
            return Seen(coalesced, News.COALESCED, no_counters=fall.no_counters)
    seen = _advance(history, reading, on_time=on_time, unix_ms=unix_ms, chance=chance)
    return replace(seen, no_counters=fall.no_counters) if fall.no_counters else seen


def _advance(history: History, reading: Reading, *, on_time: bool, unix_ms: int, chance: int) -> Seen:
    first = history.epoch is None or history.ended
    asked_for = not first and (history.kicked or (history.cadence_known and on_time))
    origin = Origin.POLL if asked_for else Origin.UNSOLICITED
    missing = history.given - reading.statistics.keys()
    previous = None
    if first:
        if history.epoch is not None:
            previous = EpochEnd(history.epoch, history.sequence)
        history = replace(
            history, epoch=uuid7(unix_ms, chance), ended=False, sequence=0, start_s=reading.last_update_s
        )
    history = replace(
        _remember(history, reading),
        watermark_s=reading.last_update_s,
        sequence=history.sequence + 1,
        cadence_known=True,
        kicked=False,
    )
    return Seen(history, News.ADVANCE, previous, origin, missing)


@lru_cache(maxsize=256)
def _shared(names: frozenset[str]) -> frozenset[str]:
    """Return an equal set: most guests give the same statistics, and a set of them takes 2 KB."""
    return names


def _remember(history: History, reading: Reading) -> History:
    counters = {name: value for name, value in reading.statistics.items() if name in CUMULATIVE}
    # A counter that is missing now must still be compared when it comes back.
    if history.counters.keys() - counters.keys():
        counters = {**history.counters, **counters}
    given = history.given
    if len(given) < GIVEN_MAX and not given.issuperset(reading.statistics):
        given = _shared(given.union(reading.statistics))
    return replace(
        history,
        last=reading,
        counters=counters,
        given=given,
        no_counters=keep_rates(history.no_counters, history.counters, reading.statistics),
    )
