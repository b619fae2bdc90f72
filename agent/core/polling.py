"""One VM: what happened to it, what to do now, and what to say of it.

Three rules hold here and nowhere else in the agent:

1. Every change of a VM's polling state is made by `step`.
2. Neither it nor what it calls reads a clock, draws a random number, logs or awaits anything.
3. `step` accepts every event in every phase; `IGNORED` lists the pairs that do nothing.

The state a VM is *in* is not stored: it is judged anew from the facts after every event
(core/states.py), and announced when it differs from what was announced last.

Here and in core/linking.py, core/device.py and core/sampling.py is what each event means; core/asking.py says
what to do next, core/announcing.py what to say.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import assert_never

from msgspec.structs import replace

from agent.core import announcing, asking, device, epochs, linking, ownership, pacing, sampling
from agent.core.events import (
    ActualRead,
    Answered,
    Asking,
    Away,
    BalloonChanged,
    Checked,
    CloseLink,
    Done,
    Duplicate,
    Effect,
    Event,
    Forget,
    Idle,
    Introduced,
    LinkFailed,
    MonitorEvent,
    MonitorEventKind,
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
from agent.core.poller import Poller, PollSettings
from agent.core.reading import Access, Balloon, Now
from agent.errors import LinkFault


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
    **{(event, phase): _LEFT for event in (MonitorEvent, BalloonChanged) for phase in (Away, Opening)},
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
        case Opened(mark, change):
            return linking.opened(p, mark, change, now, settings, effects)
        case LinkFailed(fault, detail):
            return linking.failed(p, fault, detail, now, chance, settings)
        case Introduced():
            return device.introduced(p, event, now, settings, effects)
        case Answered(reading):
            return sampling.read(p, reading, now, chance, settings, effects)
        case Checked(run_state, balloon_path, interval_s):
            p = replace(p, phase=Idle(), check_at_ns=now.mono_ns + settings.recheck_ns)
            return device.ran(
                device.found(p, balloon_path, interval_s, now, settings, effects), run_state, now
            )
        case ActualRead(actual_bytes):
            balloon = p.balloon if actual_bytes is None else Balloon(actual_bytes, now.unix_ms)
            return replace(p, phase=Idle(), actual_at_ns=None, balloon=balloon)
        case Done():
            return _done(p, now)
        case Refused(detail):
            return _refused(p, detail, now, chance, settings, effects)
        case MonitorEvent(kind):
            return _monitor_event(p, kind, now)
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
                return linking.left_for_good(p, effects)
            return replace(p, fault=LinkFault.MISSING) if isinstance(p.phase, Away) else p
        case Duplicate(other):
            p = asking.leave(p, now.mono_ns + settings.set_again_ns, effects)
            return replace(p, other_address=other, identity=None, answered=False)
        case Tick():
            return _tick(p, now, chance, settings, effects)
        case _:
            assert_never(event)


def _done(p: Poller, now: Now) -> Poller:
    assert isinstance(p.phase, Asking)
    match p.phase.question:
        case Question.CLAIM:
            return replace(p, phase=Idle(), answered=True, failures=0, other_address=None)
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
            return device.paced(p, now, kicked=kicked)
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
            return linking.failed(p, LinkFault.PROTOCOL, detail, now, chance, settings)


def _monitor_event(p: Poller, kind: MonitorEventKind, now: Now) -> Poller:
    p = replace(p, check_at_ns=now.mono_ns)
    match kind:
        case MonitorEventKind.STOP | MonitorEventKind.SUSPEND:
            return replace(p, run_state=None)  # the check tells the word; the clock stops at once
        case MonitorEventKind.RESUME | MonitorEventKind.WAKEUP:  # QEMU may read an old buffer again
            return replace(p, run_state=None, history=epochs.break_rhythm(p.history))
        case MonitorEventKind.RESET:
            # What the boot before left is read at once: no guest boots within a round trip.
            pace = None if p.pace is None else pacing.read_at(p.pace, p.running.read(now.mono_ns))
            history = epochs.end_epoch(p.history, guest_reset=True)
            return replace(p, rebooted=True, reset_unread=True, pace=pace, history=history)
        case MonitorEventKind.SHUTDOWN | MonitorEventKind.DEVICE_DELETED | MonitorEventKind.LOST:
            return p


def _tick(p: Poller, now: Now, chance: int, settings: PollSettings, effects: list[Effect]) -> Poller:
    match p.phase:
        case Opening(deadline_ns) if deadline_ns <= now.mono_ns:
            effects.append(CloseLink())
            return linking.failed(
                p, LinkFault.SILENT, "no greeting before the deadline", now, chance, settings
            )
        case Asking(deadline_ns=deadline_ns, overdue=False) if deadline_ns <= now.mono_ns:
            if p.access is Access.HOLD:
                return replace(p, phase=replace(p.phase, overdue=True))
            effects.append(CloseLink())
            return linking.failed(
                p, LinkFault.NO_ANSWER, "no answer before the deadline", now, chance, settings
            )
        case _:
            stall_at_ns = announcing.stall_at(p, settings)
            if stall_at_ns is None or stall_at_ns > now.mono_ns:
                return p
            return replace(p, check_at_ns=stall_at_ns)  # unless somebody has made the interval a longer one
