"""A reading: whether it shows an update, what is emitted of it, and when to read again."""

from msgspec.structs import replace

from agent.core import announcing, epochs, pacing
from agent.core.epochs import News
from agent.core.events import Asking, Counted, CountReading, Effect, EmitSample, Idle
from agent.core.poller import SECOND_NS, Poller, PollSettings
from agent.core.reading import Now, Reading, Sample


def read(
    p: Poller, reading: Reading, now: Now, chance: int, settings: PollSettings, effects: list[Effect]
) -> Poller:
    """Take in an answer to a reading: a sample where it shows an update, and when the next is due."""
    assert isinstance(p.phase, Asking)
    pace = p.pace
    assert pace is not None
    interval_ns = p.interval_s * SECOND_NS
    answered_ns = p.running.read(now.mono_ns)
    asked_ns = max(answered_ns - (now.mono_ns - p.phase.asked_ns), 0)
    since_update_ns = None if p.updated_at_ns is None else answered_ns - p.updated_at_ns
    on_time = (
        since_update_ns is not None
        and interval_ns // 2 <= since_update_ns <= pace.cadence_ns * 3 // 2 + SECOND_NS // 2
    )
    seen = epochs.see(p.history, reading, on_time=on_time, unix_ms=now.unix_ms, chance=chance)
    first, kicked, last = p.read_at_ns is None, p.history.kicked, p.history.last
    gap_ns = _gap_ns(p, answered_ns, now)
    rebooted = p.rebooted and p.reset_unread  # an update from before the reset says nothing of this boot
    history = epochs.break_rhythm(seen.history) if rebooted else seen.history
    p = replace(
        p,
        phase=Idle(),
        history=history,
        read_at_ns=answered_ns,
        read_mono_ns=now.mono_ns,
        reset_unread=False,
    )
    if seen.news in (News.NOTHING, News.REPEAT):
        effects.append(CountReading(Counted.REPEAT))
        if p.interval_s and p.run_state == "running":
            return replace(p, pace=pacing.miss(pace, asked_ns=asked_ns, answered_ns=answered_ns))
        if not p.interval_s:
            return replace(p, pace=pacing.read_at(pace, answered_ns + pace.interval_ns))
        # Paused: what was learnt stands for when it goes on.
        return replace(p, pace=pacing.read_at(pace, pacing.expected_at(pace, answered_ns)))
    missed = p.overwritten + (max(gap_ns // interval_ns - 1, 0) if interval_ns else 0)
    p = replace(p, updates_since=p.updates_since + 1)
    age_ns = max(now.unix_ms - reading.last_update_s * 1000, 0) * 1_000_000
    soon = last is not None and reading.last_update_s - last.last_update_s < p.interval_s
    if not first and not kicked and (soon or pace.strayed):
        p = replace(p, check_at_ns=now.mono_ns)  # not when QEMU would ask: somebody changed the interval?
    if seen.news is News.COALESCED:
        effects.append(CountReading(Counted.COALESCED))
    else:
        effects.append(EmitSample(_sample(p, reading, seen, missed, now)))
        p = replace(p, overwritten=0)
        if missed:
            effects.append(CountReading(Counted.MISSED, missed))
    young = age_ns <= announcing.deadline_ns(p.interval_s, settings)
    return replace(
        p,
        pace=pacing.hit(
            pace,
            asked_ns=asked_ns,
            answered_ns=answered_ns,
            not_before_ns=answered_ns - age_ns,
            missed=missed,
        ),
        updated_at_ns=answered_ns,
        quiet_since_ns=p.watched.read(now.mono_ns),
        advancing=not first or (young and p.set_to_s is None),
        rebooted=rebooted,
    )


def _gap_ns(p: Poller, answered_ns: int, now: Now) -> int:
    """Return for how long nobody read this device; 0 where nobody has yet."""
    if p.read_at_ns is not None:
        return answered_ns - p.read_at_ns  # the VM's own time: while it stood, nothing was missed
    return 0 if p.read_mono_ns is None else max(now.mono_ns - p.read_mono_ns, 0)


def _sample(p: Poller, reading: Reading, seen: epochs.Seen, missed: int, now: Now) -> Sample:
    assert p.identity is not None
    assert seen.history.epoch is not None
    return Sample(
        vm=p.identity,
        address=p.address,
        epoch=seen.history.epoch,
        epoch_start_s=seen.history.start_s,
        sequence=seen.history.sequence,
        previous=seen.previous,
        last_update_s=reading.last_update_s,
        observed_at_ms=now.unix_ms,
        origin=seen.origin,
        missed_at_most=missed,
        interval_s=p.interval_s,
        run_state=p.run_state,
        balloon=p.balloon,
        statistics=reading.statistics,
        missing=seen.missing,
    )
