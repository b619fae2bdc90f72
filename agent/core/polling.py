"""One VM: what happened to it, what to do now, and what to say of it.

Three rules hold here and nowhere else in the agent:

1. Every change of a VM's polling state is made by `step`.
2. This module reads no clock, draws no random number, logs nothing, awaits nothing.
3. `step` accepts every event in every phase; `IGNORED` lists the pairs that do nothing.

The state a VM is *in* is not stored: it is judged anew from the facts after every event
(core/states.py), and announced when it differs from what was announced last.

Here is what each event means; core/asking.py says what to do next, core/announcing.py what to say.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import assert_never
from zlib import crc32

from msgspec.structs import replace

from agent.core import announcing, asking, epochs, ownership, pacing
from agent.core.epochs import History, News
from agent.core.events import (
    ActualRead,
    Answered,
    Asking,
    Away,
    BalloonChanged,
    Checked,
    CloseLink,
    Counted,
    CountReading,
    Done,
    Duplicate,
    Effect,
    EmitSample,
    Event,
    Forget,
    Heard,
    Idle,
    Introduced,
    LinkFailed,
    MonitorSaid,
    Opened,
    Opening,
    PathMissing,
    PathSeen,
    Phase,
    Question,
    Refused,
    Retired,
    Tick,
)
from agent.core.ownership import Owed, Ownership
from agent.core.poller import SECOND_NS, Poller, PollSettings
from agent.core.reading import (
    Access,
    Balloon,
    Now,
    Reading,
    Sample,
    SocketMark,
    State,
    VmId,
    VmIdentity,
)
from agent.core.states import LEFT_ALONE
from agent.errors import LinkFault

DYING_TRIES, DYING_WAIT_NS = 5, 40_000_000
"""A killed QEMU closes its connections before its listener: `gone` within 0.4 s, not `unreachable` first."""

SHARED_AGAIN_NS = {LinkFault.BUSY: SECOND_NS, LinkFault.SILENT: 3 * SECOND_NS}
"""When to come back to a shared monitor that others are in. A silence leaves one of ours in QEMU's queue."""

JUST_NOW_VISITS = 4
"""A visit so soon after a check goes on where the one before broke off: a slow QEMU must not be asked the
same again and again."""

LASTING_NS = 30 * SECOND_NS
"""A conversation that ends sooner was no success: a peer that greets and hangs up is not asked in a loop."""


@dataclass(frozen=True, slots=True)
class Step:
    """The next poller, and the effects to perform in order."""

    poller: Poller
    effects: tuple[Effect, ...] = ()


_LEFT = "from a link we left"
IGNORED: Mapping[tuple[type[Event], type[Phase]], str] = {
    **{
        (event, phase): _LEFT
        for event in (Introduced, Answered, Checked, ActualRead, Done, Refused, Duplicate)
        for phase in (Away, Opening, Idle)
    },
    **{(event, phase): _LEFT for event in (MonitorSaid, BalloonChanged) for phase in (Away, Opening)},
    **{(Opened, phase): "an attempt we gave up" for phase in (Away, Idle, Asking)},
    (LinkFailed, Away): "told already",
}
"""Late facts are normal; these pairs of event and phase do nothing, and why. `Retired` ignores everything."""


ANSWERS: Mapping[type[Event], Container[Question]] = {
    Introduced: {Question.INTRODUCE},
    Answered: {Question.READ},
    Checked: {Question.CHECK},
    ActualRead: {Question.ACTUAL},
    Done: {Question.CLAIM, Question.REMEMBER, Question.SET_INTERVAL},
    Duplicate: {Question.CLAIM},
}
"""Which question each answer answers; `Refused` answers any."""


def step(poller: Poller, event: Event, *, now: Now, chance: int, settings: PollSettings) -> Step:
    """Apply one event.

    Args:
        poller: the poller `event` happened to.
        event: what happened. An answer belongs to the question in flight.
        now: the instant of the event; never earlier on the monotonic clock than in the call before.
        chance: a uniform draw from [0, 2**128): names a new epoch, jitters a retry.
        settings: what the operator decided.

    Returns:
        The next poller, and the effects to perform in order. No effect depends on the outcome of
        another one in the same step.
    """
    if isinstance(poller.phase, Retired) or (type(event), type(poller.phase)) in IGNORED:
        return Step(poller)
    if isinstance(poller.phase, Asking) and poller.phase.question not in ANSWERS.get(type(event), Question):
        return Step(poller)  # the answer to a question of a link we left
    effects: list[Effect] = []
    poller = _apply(poller, event, now, chance, settings, effects)
    poller = asking.proceed(poller, now, settings, effects)
    running = poller.run_state == "running"
    poller = replace(
        poller,
        running=poller.running.run(running, now.mono_ns),
        watched=poller.watched.run(running and announcing.conversing(poller), now.mono_ns),
    )
    poller = announcing.announce(poller, now, settings, effects)
    return Step(poller, tuple(effects))


def wakeup_at(poller: Poller, settings: PollSettings) -> int | None:
    """Return when to call `step` with a `Tick` (monotonic nanoseconds); `None`: no need to."""
    if isinstance(poller.phase, Retired):
        return None
    times = [
        _phase_wakeup_at(poller),
        announcing.stall_at(poller, settings),
        None if poller.announced is None else poller.announced.heartbeat_at_ns,
    ]
    return min((at for at in times if at is not None), default=None)


def is_reading(poller: Poller) -> bool:
    """Whether a reading is under way whose deadline has not passed."""
    match poller.phase:
        case Asking(question=Question.READ, overdue=False):
            return True
        case _:
            return False


def _phase_wakeup_at(p: Poller) -> int | None:
    match p.phase:
        case Away(retry_at_ns):
            return retry_at_ns if p.path_present else None
        case Opening(deadline_ns):
            return deadline_ns
        case Asking(deadline_ns=deadline_ns, overdue=overdue):
            return None if overdue else deadline_ns
        case Idle():
            return asking.next_question_at(p)
        case Retired():
            return None


# --- what an event means ---


def _apply(
    p: Poller, event: Event, now: Now, chance: int, settings: PollSettings, effects: list[Effect]
) -> Poller:
    match event:
        case Opened(mark, owed):
            return _opened(p, mark, owed, now, settings, effects)
        case LinkFailed(fault, detail):
            return _failed(p, fault, detail, now, chance, settings)
        case Introduced():
            return _introduced(p, event, now, settings, effects)
        case Answered(reading):
            return _read(p, reading, now, chance, settings, effects)
        case Checked(run_state, balloon_path, interval_s):
            p = replace(p, phase=Idle(), check_at_ns=now.mono_ns + settings.recheck_ns)
            return _ran(_device(p, balloon_path, interval_s, now, settings, effects), run_state, now)
        case ActualRead(actual_bytes):
            balloon = p.balloon if actual_bytes is None else Balloon(actual_bytes, now.unix_ms)
            return replace(p, phase=Idle(), actual_at_ns=None, balloon=balloon)
        case Done():
            return _done(p, now)
        case Refused(detail):
            return _refused(p, detail, now, chance, settings, effects)
        case MonitorSaid(heard):
            return _heard(p, heard, now)
        case BalloonChanged(actual_bytes):
            return replace(p, balloon=Balloon(actual_bytes, now.unix_ms))
        case PathSeen(mark):
            if mark == p.seen_mark and p.path_present:
                return p
            again = isinstance(p.phase, Away) and (p.seen_mark is not None or p.failures > 0)
            phase = Away(now.mono_ns) if again else p.phase
            return replace(
                p, path_present=True, seen_mark=mark, phase=phase, failures=0 if again else p.failures
            )
        case PathMissing():
            p = replace(p, path_present=False)
            if isinstance(p.phase, Idle | Asking) and p.access is Access.SHARE:
                return _left_for_good(p, effects)
            return replace(p, fault=LinkFault.MISSING) if isinstance(p.phase, Away) else p
        case Duplicate(other_path):
            p = asking.leave(p, now.mono_ns + settings.set_again_ns, effects)
            return replace(p, other_path=other_path, identity=None, answered=False)
        case Tick():
            return _tick(p, now, chance, settings, effects)
        case _:
            assert_never(event)


def _opened(
    p: Poller, mark: SocketMark, owed: Owed | None, now: Now, settings: PollSettings, effects: list[Effect]
) -> Poller:
    visit_ends_ns = now.mono_ns + settings.visit_ns if p.access is Access.SHARE else None
    run_state = p.run_state if p.fault is None else None
    since_ns = now.mono_ns if p.in_touch_since_ns is None else p.in_touch_since_ns
    p = replace(
        p,
        phase=Idle(),
        fault=None,
        fault_detail="",
        visit_ends_ns=visit_ends_ns,
        kept_out_since_ns=None,
        in_touch_since_ns=since_ns,
    )
    if p.access is Access.SHARE and not p.path_present:
        return _left_for_good(p, effects)
    let_go = p.announced is not None and p.announced.judgement.state is State.GONE  # of its id
    if mark == p.greeted and p.identity is not None and not let_go:
        # The same process: what is known of it stands, but anything may have happened meanwhile.
        if p.access is Access.SHARE:
            checked_ns = p.check_at_ns - settings.recheck_ns
            just_now = p.answered and now.mono_ns - checked_ns < JUST_NOW_VISITS * settings.visit_ns
            return replace(
                p, answered=True, run_state=run_state, check_at_ns=p.check_at_ns if just_now else now.mono_ns
            )
        return replace(
            p, answered=True, run_state=run_state, check_at_ns=now.mono_ns, actual_at_ns=now.mono_ns
        )
    if mark != p.greeted:
        before_mark = p.greeted if p.before is None else p.before.mark
        if before_mark is not None and mark != before_mark:
            effects.append(Forget(before_mark))
        own = Ownership()
        if owed is not None and owed.mark == mark:
            own = ownership.recall(owed, ours_s=settings.interval_s)
        p = _new_device(replace(p, ownership=own), now, guest_reset=True)
        if p.before is not None and p.before.mark == mark:
            # The process of before: what was emitted stands, and what could not be seen meanwhile is missed.
            history = epochs.break_rhythm(p.before.history)
            p = replace(p, history=history, read_mono_ns=p.before.read_mono_ns)
        p = replace(p, before=None)
    return replace(
        p,
        greeted=mark,
        answered=False,
        identity=None,
        run_state=None,
        balloon_path=None,
        balloon=None,
        interval_s=0,
        rebooted=False,
        reset_unread=False,
    )


def _left_for_good(p: Poller, effects: list[Effect]) -> Poller:
    """Return the poller away from a socket whose path has gone: in `share` a link is no reason to stay."""
    effects.append(CloseLink())
    return replace(
        p,
        phase=Away(None),
        answered=False,
        visit_ends_ns=None,
        in_touch_since_ns=None,
        fault=LinkFault.MISSING,
    )


def _failed(
    p: Poller, fault: LinkFault, detail: str, now: Now, chance: int, settings: PollSettings
) -> Poller:
    may_be_inside = p.access is Access.SHARE and fault in (LinkFault.SILENT, LinkFault.BUSY)
    if may_be_inside and p.answered and p.path_present:
        since_ns = now.mono_ns if p.kept_out_since_ns is None else p.kept_out_since_ns
        if now.mono_ns - since_ns < announcing.deadline_ns(p.interval_s, settings):
            # Somebody else is inside: what is known of the VM stands as long as a guest's silence would.
            again_ns = now.mono_ns + SHARED_AGAIN_NS[fault]
            return replace(p, phase=Away(again_ns), kept_out_since_ns=since_ns)
    was_talking = p.answered and not isinstance(p.phase, Opening)
    since_ns = p.in_touch_since_ns
    lasted = since_ns is not None and now.mono_ns - since_ns >= LASTING_NS
    p = replace(
        p,
        answered=False,
        visit_ends_ns=None,
        kept_out_since_ns=None,
        in_touch_since_ns=None,
        other_path=None,
        failures=0 if lasted else p.failures,
    )
    if not p.path_present:
        return replace(p, phase=Away(None), fault=LinkFault.MISSING, fault_detail=detail)
    may_be_dying = p.fault is None and (was_talking or p.failures > 0) and p.failures < DYING_TRIES
    if fault is LinkFault.HUNG_UP and may_be_dying:
        # Whether QEMU has gone or only hung up, the next attempt tells; a dying one may listen a while.
        wait_ns = DYING_WAIT_NS * p.failures
        return replace(p, phase=Away(now.mono_ns + wait_ns), failures=p.failures + 1)
    same_patience = (fault in LEFT_ALONE) == (p.fault in LEFT_ALONE)
    failures = p.failures + 1 if same_patience else 1
    retry_at_ns = _retry_at(p.access, fault, failures, now.mono_ns, chance)
    return replace(p, phase=Away(retry_at_ns), fault=fault, fault_detail=detail, failures=failures)


def _retry_at(access: Access, fault: LinkFault, failures: int, mono_ns: int, chance: int) -> int | None:
    """Return when to try again. An attempt is itself intrusive where the monitor is somebody else's."""
    if fault is LinkFault.NOT_QMP:
        return None
    first_s, longest_s = (60.0, 900.0) if fault in LEFT_ALONE else (0.25, 30.0)
    if access is Access.SHARE and fault is LinkFault.BUSY:  # nothing of ours is left there by an attempt
        first_s, longest_s = 1.0, 30.0
    elif access is Access.SHARE and fault is LinkFault.SILENT and failures == 1:
        first_s = 3.0  # to look whether it still waits there; where that cannot be seen, the next is no first
    wait_s = min(first_s * 2 ** min(failures - 1, 16), longest_s)
    roll = (chance >> 75) / (1 << 53)
    return mono_ns + int(wait_s * (0.8 + 0.2 * roll) * SECOND_NS)


def _introduced(
    p: Poller, event: Introduced, now: Now, settings: PollSettings, effects: list[Effect]
) -> Poller:
    name = p.given_name if event.name is None else event.name
    if event.uuid is None:
        identity = VmIdentity(p.path_id, "path", None, name, p.labels)
    else:
        identity = VmIdentity(VmId(event.uuid), "uuid", event.uuid, name, p.labels)
    if p.history_id not in (None, identity.id):
        p = replace(p, history=History())  # another VM's past says nothing of this one
    balloon = None if event.actual_bytes is None else Balloon(event.actual_bytes, now.unix_ms)
    p = replace(
        p,
        phase=Idle(),
        identity=identity,
        history_id=identity.id,
        balloon=balloon,
        check_at_ns=now.mono_ns + settings.recheck_ns,
    )
    return _ran(
        _device(p, event.balloon_path, event.interval_s, now, settings, effects), event.run_state, now
    )


def _device(
    p: Poller,
    balloon_path: str | None,
    interval_s: int | None,
    now: Now,
    settings: PollSettings,
    effects: list[Effect],
) -> Poller:
    """Take in what balloon there is and what its interval is, and decide about the interval."""
    if p.balloon_path is not None and balloon_path != p.balloon_path:
        p = replace(_new_device(p, now, guest_reset=False), ownership=Ownership(), rebooted=False)
        if p.greeted is not None:
            effects.append(Forget(p.greeted))
    if balloon_path is None or interval_s is None:
        return replace(p, balloon_path=None, interval_s=0, set_to_s=None, pace=None)
    p = _interval_read(p, interval_s, now)
    if interval_s != p.interval_s or p.pace is None:
        p = _paced(replace(p, interval_s=interval_s), now, kicked=False)
    wish = ownership.look(
        p.ownership,
        interval_s=interval_s,
        policy=settings.policy,
        ours_s=settings.interval_s,
        now_ns=now.mono_ns,
        wait_ns=settings.set_again_ns,
    )
    if p.ownership.set_s is not None and wish.ownership.set_s is None and p.greeted is not None:
        effects.append(Forget(p.greeted))
    check_at_ns = p.check_at_ns
    if wish.set_to_s is None and wish.ownership.again_at_ns is not None:
        check_at_ns = min(check_at_ns, wish.ownership.again_at_ns)
    set_at_ns = p.set_at_ns
    if wish.set_to_s is not None and p.set_to_s is None and not wish.ownership.times_set:
        set_at_ns = now.mono_ns + int(settings.spread_ns * _place(p.path))
        if set_at_ns > now.mono_ns:  # somebody else may set it until then: look again first
            check_at_ns = min(check_at_ns, set_at_ns)
    return replace(
        p,
        balloon_path=balloon_path,
        ownership=wish.ownership,
        set_to_s=wish.set_to_s,
        set_at_ns=set_at_ns,
        remembered=False,
        check_at_ns=check_at_ns,
    )


def _place(path: str) -> float:
    """Return a number in [0, 1) that is this VM's own, and differs from VM to VM."""
    return crc32(path.encode(errors="surrogateescape")) / 2**32


def _interval_read(p: Poller, interval_s: int, now: Now) -> Poller:
    """Count what a shorter interval that somebody set since the last look may have overwritten."""
    overwritten = p.overwritten
    if 0 < interval_s < p.interval_s and p.read_at_ns is not None:
        made_at_most = (p.read_at_ns - p.interval_read_at_ns) // (interval_s * SECOND_NS) + 1
        overwritten += max(made_at_most - p.updates_since, 0)
    return replace(
        p, interval_read_at_ns=p.running.read(now.mono_ns), updates_since=0, overwritten=overwritten
    )


def _new_device(p: Poller, now: Now, *, guest_reset: bool) -> Poller:
    return replace(
        p,
        history=epochs.end_epoch(p.history, guest_reset=guest_reset),
        pace=None,
        set_to_s=None,
        read_at_ns=None,
        read_mono_ns=None,
        updated_at_ns=None,
        overwritten=0,
        advancing=False,
        quiet_since_ns=p.watched.read(now.mono_ns),
    )


def _paced(p: Poller, now: Now, *, kicked: bool) -> Poller:
    interval_ns = p.interval_s * SECOND_NS or 30 * SECOND_NS  # off: looked at every 30 s
    pace = pacing.start(interval_ns, p.running.read(now.mono_ns), kicked=kicked)
    # Its silence is counted anew; that is no reason to call it reporting where it was not.
    reported = p.announced is not None and p.announced.judgement.state is State.REPORTING
    return replace(
        p,
        pace=pace,
        quiet_since_ns=p.watched.read(now.mono_ns),
        advancing=p.advancing and reported,
    )


def _ran(p: Poller, run_state: str, now: Now) -> Poller:
    """Take in the run state; what it was until now is told by the clocks."""
    if run_state == p.run_state:
        return p
    if run_state != "running" and p.pace is not None:
        # An update may have come just before the VM stopped: one more reading, then none.
        p = replace(p, pace=pacing.read_at(p.pace, p.running.read(now.mono_ns)))
    return replace(p, run_state=run_state)


def _read(
    p: Poller, reading: Reading, now: Now, chance: int, settings: PollSettings, effects: list[Effect]
) -> Poller:
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


def _done(p: Poller, now: Now) -> Poller:
    assert isinstance(p.phase, Asking)
    match p.phase.question:
        case Question.CLAIM:
            return replace(p, phase=Idle(), answered=True, failures=0, other_path=None)
        case Question.REMEMBER:
            return replace(p, phase=Idle(), remembered=True)
        case Question.SET_INTERVAL:
            assert p.set_to_s is not None
            kicked = p.interval_s == 0
            p = replace(
                p,
                phase=Idle(),
                interval_read_at_ns=p.running.read(now.mono_ns),
                updates_since=0,
                ownership=ownership.written(p.ownership, interval_before_s=p.interval_s, set_to_s=p.set_to_s),
                interval_s=p.set_to_s,
                set_to_s=None,
                remembered=False,
                history=replace(p.history, kicked=kicked),
            )
            return _paced(p, now, kicked=kicked)
        case question:
            raise AssertionError(f"{question} is not answered by Done")


def _refused(
    p: Poller, detail: str, now: Now, chance: int, settings: PollSettings, effects: list[Effect]
) -> Poller:
    assert isinstance(p.phase, Asking)
    match p.phase.question:
        case Question.READ:
            # Most likely the balloon has gone: look for it, and do not read again before.
            assert p.pace is not None
            later_ns = p.running.read(now.mono_ns) + p.pace.interval_ns
            pace = pacing.read_at(p.pace, later_ns)
            return replace(p, phase=Idle(), pace=pace, check_at_ns=now.mono_ns)
        case Question.CHECK:
            return replace(p, phase=Idle(), check_at_ns=now.mono_ns + settings.recheck_ns)
        case Question.ACTUAL:
            return replace(p, phase=Idle(), actual_at_ns=None)
        case Question.REMEMBER | Question.SET_INTERVAL:
            if p.ownership.set_s is None and p.greeted is not None:
                effects.append(Forget(p.greeted))  # remembered, and then not done
            own = replace(p.ownership, blocked=detail)
            return replace(p, phase=Idle(), ownership=own, set_to_s=None, remembered=False)
        case Question.INTRODUCE | Question.CLAIM:
            effects.append(CloseLink())
            return _failed(p, LinkFault.PROTOCOL, detail, now, chance, settings)


def _heard(p: Poller, heard: Heard, now: Now) -> Poller:
    p = replace(p, check_at_ns=now.mono_ns)
    match heard:
        case Heard.STOP | Heard.SUSPEND:
            return replace(p, run_state=None)  # the check tells the word; the clock stops at once
        case Heard.RESUME | Heard.WAKEUP:  # QEMU may read an old buffer again
            return replace(p, run_state=None, history=epochs.break_rhythm(p.history))
        case Heard.RESET:
            # What the boot before left is read at once: no guest boots within a round trip.
            pace = None if p.pace is None else pacing.read_at(p.pace, p.running.read(now.mono_ns))
            history = epochs.end_epoch(p.history, guest_reset=True)
            return replace(p, rebooted=True, reset_unread=True, pace=pace, history=history)
        case Heard.SHUTDOWN | Heard.DEVICE_DELETED | Heard.LOST:
            return p


def _tick(p: Poller, now: Now, chance: int, settings: PollSettings, effects: list[Effect]) -> Poller:
    match p.phase:
        case Opening(deadline_ns) if deadline_ns <= now.mono_ns:
            effects.append(CloseLink())
            return _failed(p, LinkFault.SILENT, "no greeting before the deadline", now, chance, settings)
        case Asking(deadline_ns=deadline_ns, overdue=False) if deadline_ns <= now.mono_ns:
            if p.access is Access.HOLD:
                return replace(p, phase=replace(p.phase, overdue=True))
            effects.append(CloseLink())
            return _failed(p, LinkFault.NO_ANSWER, "no answer before the deadline", now, chance, settings)
        case _:
            stall_at_ns = announcing.stall_at(p, settings)
            if stall_at_ns is None or stall_at_ns > now.mono_ns:
                return p
            return replace(p, check_at_ns=stall_at_ns)  # unless somebody has made the interval a longer one
