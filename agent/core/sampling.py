"""A reading: whether it shows an update, what is emitted of it, and when to read again. Part of `step`."""

from msgspec.structs import replace

from agent.core import announcing, epochs, holding, pacing
from agent.core.epochs import News, Seen
from agent.core.events import Asking, Counted, CountReading, EmitSample, FoundNoCounters, Idle
from agent.core.pacing import Pace
from agent.core.poller import SECOND_NS, Poller
from agent.core.reading import Reading, Sample
from agent.core.turn import Turn


def read(p: Poller, reading: Reading, turn: Turn) -> Poller:
    """Return the poller after a reading; emits a sample if the reading shows a new update."""
    assert isinstance(p.phase, Asking)
    pace = p.cadence.pace
    assert pace is not None
    answered_ns = p.running.read(turn.mono_ns)
    asked_ns = max(answered_ns - (turn.mono_ns - p.phase.asked_ns), 0)
    seen = epochs.see(
        p.history,
        reading,
        on_time=_on_time(p, pace, answered_ns),
        unix_ms=turn.now.unix_ms,
        chance=turn.chance,
        told=not holding.is_visited(p),
    )
    if seen.no_counters:
        turn.do(FoundNoCounters(seen.no_counters))
    # An update from before the reset says nothing about this boot.
    still_rebooted = p.process.rebooted and p.process.reset_unread
    before = p
    p = replace(
        p,
        phase=Idle(),
        history=epochs.break_cadence(seen.history) if still_rebooted else seen.history,
        process=replace(p.process, reset_unread=False) if p.process.reset_unread else p.process,
        cadence=replace(p.cadence, read_at_ns=answered_ns, read_mono_ns=turn.mono_ns),
    )
    if seen.news in (News.NOTHING, News.REPEAT):
        turn.do(CountReading(Counted.REPEAT))
        return _with_pace(p, _pace_after_repeat(p, pace, asked_ns, answered_ns))
    p = _updated(before, p, reading, seen, turn, asked_ns=asked_ns, answered_ns=answered_ns)
    if p.process.rebooted == still_rebooted:
        return p
    return replace(p, process=replace(p.process, rebooted=still_rebooted))


def _on_time(p: Poller, pace: Pace, answered_ns: int) -> bool:
    """Return whether an update that this reading shows comes about one cadence after the one before."""
    if p.cadence.updated_at_ns is None:
        return False
    since_update_ns = answered_ns - p.cadence.updated_at_ns
    half_interval_ns = p.process.interval_s * SECOND_NS // 2
    return half_interval_ns <= since_update_ns <= pace.cadence_ns * 3 // 2 + SECOND_NS // 2


def _pace_after_repeat(p: Poller, pace: Pace, asked_ns: int, answered_ns: int) -> Pace:
    if not p.process.interval_s:
        return pacing.read_at(pace, answered_ns + pace.interval_ns)
    if p.process.run_state == "running":
        return pacing.miss(pace, asked_ns=asked_ns, answered_ns=answered_ns)
    # Paused: what was learned holds again when the VM resumes.
    return pacing.read_at(pace, pacing.expected_at(pace, answered_ns))


def _updated(
    before: Poller,
    p: Poller,
    reading: Reading,
    seen: Seen,
    turn: Turn,
    *,
    asked_ns: int,
    answered_ns: int,
) -> Poller:
    """Return the poller `p` with the update that `reading` shows; `before` is the poller before the
    reading."""
    pace, last = before.cadence.pace, before.history.last
    assert pace is not None
    first = before.cadence.read_at_ns is None
    interval_s = p.process.interval_s
    missed = before.cadence.overwritten_at_most
    if interval_s:
        missed += max(_gap_ns(before, answered_ns, turn) // (interval_s * SECOND_NS) - 1, 0)
    age_ns = max(turn.now.unix_ms - reading.last_update_s * 1000, 0) * 1_000_000
    early = last is not None and reading.last_update_s - last.last_update_s < interval_s
    if not first and not before.history.kicked and (early or pace.strayed):
        # QEMU would not have asked at this moment: check whether another client changed the interval.
        p = replace(p, schedule=replace(p.schedule, check_at_ns=turn.mono_ns))
    overwritten_at_most = p.cadence.overwritten_at_most
    if seen.news is News.COALESCED:
        turn.do(CountReading(Counted.COALESCED))
    else:
        turn.do(EmitSample(_sample(p, reading, seen, missed, turn)))
        overwritten_at_most = 0
        if missed:
            turn.do(CountReading(Counted.MISSED, missed))
    young = age_ns <= announcing.deadline_ns(interval_s, turn.settings)
    pace = pacing.hit(
        pace,
        asked_ns=asked_ns,
        answered_ns=answered_ns,
        not_before_ns=answered_ns - age_ns,
        missed=missed,
    )
    cadence = replace(
        p.cadence,
        pace=pace,
        updated_at_ns=answered_ns,
        updates_since=p.cadence.updates_since + 1,
        overwritten_at_most=overwritten_at_most,
        silent_since_ns=p.observed.read(turn.mono_ns),
        advancing=not first or (young and p.interval.set_to_s is None),
    )
    return replace(p, cadence=cadence)


def _gap_ns(p: Poller, answered_ns: int, turn: Turn) -> int:
    """Return the time since this device was read last; 0 if it was not read yet."""
    if p.cadence.read_at_ns is not None:
        return answered_ns - p.cadence.read_at_ns  # running time: nothing is missed while the VM is paused
    return 0 if p.cadence.read_mono_ns is None else max(turn.mono_ns - p.cadence.read_mono_ns, 0)


def _with_pace(p: Poller, pace: Pace) -> Poller:
    return replace(p, cadence=replace(p.cadence, pace=pace))


def _sample(p: Poller, reading: Reading, seen: Seen, missed: int, turn: Turn) -> Sample:
    assert p.process.identity is not None
    assert seen.history.epoch is not None
    return Sample(
        vm=p.process.identity,
        address=p.endpoint.address,
        epoch=seen.history.epoch,
        epoch_start_s=seen.history.start_s,
        sequence=seen.history.sequence,
        previous=seen.previous,
        last_update_s=reading.last_update_s,
        observed_at_ms=turn.now.unix_ms,
        origin=seen.origin,
        missed_at_most=missed,
        interval_s=p.process.interval_s,
        run_state=p.process.run_state,
        balloon=p.process.balloon,
        statistics=reading.statistics,
        missing=seen.missing,
    )
