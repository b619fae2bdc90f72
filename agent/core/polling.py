"""The polling state machine of one VM.

Three rules hold here and nowhere else in the agent:

1. Every change of a VM's polling state is made by `step`.
2. `step` and what it calls read no clock, draw no random number, log nothing and await nothing.
3. `step` accepts every event in every phase; `IGNORED` lists the pairs that do nothing.

How to use it: `begin` makes a poller (core/poller.py). Call `step` with each event and perform the effects
that it returns, in order. Feed what comes of them back as events: an open link as `Opened`, each answer as
the event that `ANSWERS` names, a refusal as `Refused`, the end of a link as `LinkFailed`. At `wakeup_at`,
call `step` with a `Tick`. One link and one question are in flight at a time, so an answer needs no number.

Theory. Five machines run side by side. Each one has its own groups of fields in `Poller`, and starts
again when these are replaced.

1. The link (`phase`, `socket`, `link`, `attempts`; core/linking.py, core/asking.py):

       Away ──retry due──► Opening ──Opened──► Idle ◄──answer── Asking
        ▲                     │                 │  ──question──►   │
        └─────────────────────┴── LinkFailed, or a visit ends ─────┘
        └── the VM is `gone` and its path is missing ──► Retired

   In `share` a link is a visit: it opens when a question is due and ends before other clients notice.

2. The process (`process`; core/device.py). A link is introduced (INTRODUCE), then its id is claimed (CLAIM);
   only then is the VM known. A check (CHECK) repeats what may change: run state, balloon, interval.

3. The interval (`interval`; core/ownership.py). A change is wanted, recorded in the ledger (REMEMBER), made
   (SET_INTERVAL), and left to others after they have set it back twice.

4. The cadence (`cadence`, `history`, the clocks; core/sampling.py, core/pacing.py, core/epochs.py). A reading
   (READ) is due just after each update; it shows one or it does not, and either moves the next one.

5. The state (`reported`; core/states.py, core/announcing.py). It is never stored as a fact: after every event
   it is judged from the other four, and reported if it differs from what was reported last.

The machines meet in these places only:

- A link to another process restarts 2, 3 and 4; another balloon device restarts 3 and 4.
- 3 waits for the first reading of 4, so that the values that stand are read before QEMU overwrites them.
  Setting the interval restarts the pace of 4.
- The run state of 2 runs and stops the clock of 4, so a pause moves no reading. Silence counts against the
  guest only while the link answers: `observed` stands still otherwise.
- RESET ends the epoch of 4 and marks the process as rebooted until an update of the new boot comes.
- `gone` in 5 releases the id that 2 claimed, and removes what 3 recorded.

`step` does four things, in this order: it applies the event, asks the next question or opens or leaves the
link, runs the clocks, and reports the state.
"""

from collections.abc import Container, Mapping
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from agent.core import announcing, asking, device, epochs, holding, linking, pacing, sampling
from agent.core.events import (
    ActualRead,
    Answered,
    Asking,
    Away,
    BalloonChanged,
    Checked,
    ClaimContested,
    ClaimFreed,
    CloseLink,
    Displaced,
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
    OthersUnseen,
    OthersWait,
    PathMissing,
    PathRefused,
    PathSeen,
    Phase,
    Question,
    Refused,
    Retired,
    StateWanted,
    Tick,
)
from agent.core.lateness import extended
from agent.core.poller import Interval, Poller, PollSettings, Socket
from agent.core.reading import Balloon, Now, Resident, SocketMark
from agent.core.shares import Owner
from agent.core.turn import Turn
from agent.errors import LinkFault


class Step(Struct, frozen=True):
    """The next poller, and the effects to perform in order."""

    poller: Poller
    effects: tuple[Effect, ...] = ()


_OLD_LINK = "from a link that was left"
IGNORED: Mapping[tuple[type[Event], type[Phase]], str] = {
    **{
        (event, phase): _OLD_LINK
        for event in (Introduced, Answered, Checked, ActualRead, Done, Refused, Duplicate)
        for phase in (Away, Opening, Idle)
    },
    **{
        (event, phase): _OLD_LINK
        for event in (MonitorEvent, BalloonChanged, OthersWait, OthersUnseen)
        for phase in (Away, Opening)
    },
    **{(ClaimFreed, phase): "the id is claimed next" for phase in (Opening, Idle, Asking)},
    **{(Opened, phase): "from an attempt that was given up" for phase in (Away, Idle, Asking)},
    (LinkFailed, Away): "the end of this link is known already",
}
"""Late facts are normal. These pairs of event and phase do nothing, and why. `Retired` ignores every
event."""


ANSWERS: Mapping[type[Event], Container[Question]] = {
    Introduced: {Question.INTRODUCE},
    Answered: {Question.READ},
    Checked: {Question.CHECK},
    ActualRead: {Question.ACTUAL},
    Done: {Question.CLAIM, Question.REMEMBER, Question.SET_INTERVAL},
    Duplicate: {Question.CLAIM},
}
"""The question that each answer belongs to. `Refused` may answer any."""


def step(poller: Poller, event: Event, *, now: Now, chance: int, settings: PollSettings) -> Step:
    """Apply one event.

    Args:
        poller: the poller `event` happened to.
        event: what happened. An answer belongs to the question in flight.
        now: the instant of the event; never earlier on the monotonic clock than in the call before.
        chance: a uniform draw from [0, 2**128): names a new epoch, spreads a retry.
        settings: the operator's settings.

    Returns:
        The next poller, and the effects to perform in order. No effect depends on the outcome of another one
        in the same step.
    """
    if isinstance(poller.phase, Retired) or (type(event), type(poller.phase)) in IGNORED:
        return Step(poller)
    if isinstance(poller.phase, Asking) and poller.phase.question not in ANSWERS.get(type(event), Question):
        return Step(poller)  # the answer to a question of a link that was left
    turn = Turn(now, chance, settings, now.mono_ns)
    poller = _apply(poller, event, turn)
    poller = asking.proceed(poller, turn)
    poller = _with_clocks(poller, now.mono_ns)
    poller = announcing.announce(poller, turn)
    return Step(poller, tuple(turn.effects))


def _with_clocks(p: Poller, mono_ns: int) -> Poller:
    """Return the poller with its clocks as they run, or stand still, from now on; mostly they did before."""
    runs = p.process.run_state == "running"
    running = p.running.run(runs, mono_ns)
    observed = p.observed.run(runs and announcing.is_answering(p), mono_ns)
    if running is p.running and observed is p.observed:
        return p
    return replace(p, running=running, observed=observed)


def wakeup_at(poller: Poller, settings: PollSettings) -> int | None:
    """Return when to call `step` with a `Tick` (monotonic nanoseconds); `None`: no need to."""
    if isinstance(poller.phase, Retired):
        return None
    heartbeat_at_ns = None if poller.reported is None else poller.reported.heartbeat_at_ns
    times = (_phase_wakeup_at(poller), announcing.stall_at(poller, settings), heartbeat_at_ns)
    return min([at for at in times if at is not None], default=None)


def is_reading(poller: Poller) -> bool:
    """Return whether a reading is in flight and its deadline has not passed."""
    phase = poller.phase
    return isinstance(phase, Asking) and phase.question is Question.READ and not phase.overdue


def _phase_wakeup_at(p: Poller) -> int | None:
    match p.phase:
        case Away(retry_at_ns):
            return retry_at_ns if p.socket.present else None
        case Opening(deadline_ns):
            return deadline_ns
        case Asking(deadline_ns=deadline_ns, overdue=overdue):
            return None if overdue else deadline_ns
        case Idle():
            return asking.next_question_at(p)
        case Retired():
            return None


# --- what an event means ---


def _apply(p: Poller, event: Event, turn: Turn) -> Poller:
    match event:
        case Tick():  # the two of each sample come first: the cases are compared in order
            return _tick(p, turn)
        case Answered(reading, resident_bytes):
            if resident_bytes is not None:
                resident = Resident(resident_bytes, turn.now.unix_ms)
                p = replace(p, process=replace(p.process, resident=resident))
            return sampling.read(p, reading, turn)
        case Opened():
            return linking.opened(p, event, turn)
        case LinkFailed(fault, detail):
            return linking.failed(p, fault, detail, turn)
        case Introduced():
            return device.introduced(p, event, turn)
        case Checked():
            return device.checked(p, event, turn)
        case ActualRead(actual_bytes):
            p = _without_actual_due(p)
            return p if actual_bytes is None else _with_actual(p, actual_bytes, turn)
        case Done(owner):
            return _done(p, owner, turn)
        case Refused(detail):
            return _refused(p, detail, turn)
        case MonitorEvent(kind):
            return _monitor_event(p, kind, turn)
        case BalloonChanged(actual_bytes):
            return _with_actual(p, actual_bytes, turn)
        case PathSeen(mark):
            return _path_seen(p, mark, turn)
        case PathMissing():
            return _path_missing(p, turn)
        case PathRefused():
            return _path_refused(p, turn)
        case OthersWait():
            return linking.others_wait(p, turn)
        case OthersUnseen():
            return holding.others_unseen(p, turn)
        case Duplicate(other) | Displaced(other):
            return linking.duplicate(p, other, turn)
        case ClaimContested():
            return linking.contested(p, turn)
        case ClaimFreed():
            return linking.claim_freed(p, turn)
        case StateWanted():
            return announcing.repeat(p, turn)
        case _:
            assert_never(event)


def _with_actual(p: Poller, actual_bytes: int, turn: Turn) -> Poller:
    return replace(p, process=replace(p.process, balloon=Balloon(actual_bytes, turn.now.unix_ms)))


def _without_actual_due(p: Poller) -> Poller:
    return replace(p, phase=Idle(), schedule=replace(p.schedule, actual_at_ns=None))


def _done(p: Poller, owner: Owner, turn: Turn) -> Poller:
    assert isinstance(p.phase, Asking)
    match p.phase.question:
        case Question.CLAIM:
            return replace(
                p,
                phase=Idle(),
                owner=owner,
                link=replace(p.link, claimed=True, active=holding.is_active(p.process.run_state)),
                attempts=replace(p.attempts, failures=0, other_address=None),
            )
        case Question.REMEMBER:
            return replace(p, phase=Idle(), interval=replace(p.interval, recorded=True))
        case Question.SET_INTERVAL:
            return device.interval_set(p, turn)
        case question:
            raise AssertionError(f"{question} is not answered by Done")


def _refused(p: Poller, detail: str, turn: Turn) -> Poller:
    assert isinstance(p.phase, Asking)
    match p.phase.question:
        case Question.READ:
            # The balloon was probably unplugged: check for it, and do not read again before.
            pace = p.cadence.pace
            assert pace is not None
            pace = pacing.read_at(pace, p.running.read(turn.mono_ns) + pace.interval_ns)
            return _check_at(replace(p, phase=Idle(), cadence=replace(p.cadence, pace=pace)), turn.mono_ns)
        case Question.CHECK:
            return device.check_answered(p, turn)
        case Question.ACTUAL:
            return _without_actual_due(p)
        case Question.REMEMBER | Question.SET_INTERVAL:
            own = p.interval.ownership
            if own.set_s is None and p.process.mark is not None:
                turn.do(Forget(p.process.mark))  # recorded, and then not made
            interval = Interval(replace(own, blocked=detail), set_at_ns=p.interval.set_at_ns)
            return replace(p, phase=Idle(), interval=interval)
        case Question.INTRODUCE | Question.CLAIM:
            turn.do(CloseLink())
            return linking.failed(p, LinkFault.PROTOCOL, detail, turn)


def _check_at(p: Poller, mono_ns: int) -> Poller:
    return replace(p, schedule=replace(p.schedule, check_at_ns=mono_ns))


def _monitor_event(p: Poller, kind: MonitorEventKind, turn: Turn) -> Poller:
    p = _check_at(p, turn.mono_ns)
    match kind:
        case (
            MonitorEventKind.STOP | MonitorEventKind.SUSPEND
        ):  # the clock stops now; the check reads the run state
            return replace(p, process=replace(p.process, run_state=None))
        case MonitorEventKind.RESUME | MonitorEventKind.WAKEUP:  # QEMU may read an old buffer again
            p = replace(p, process=replace(p.process, run_state=None, has_shut_down=False))
            return replace(p, history=epochs.break_cadence(p.history))
        case MonitorEventKind.RESET:
            # The values of the boot before are read now: no guest boots within a round trip.
            p = replace(
                p,
                process=replace(p.process, rebooted=True, reset_unread=True, has_shut_down=False),
                history=epochs.end_epoch(p.history, guest_reset=True),
            )
            return device.read_now(p, turn)
        case MonitorEventKind.SHUTDOWN:
            return replace(p, process=replace(p.process, has_shut_down=True))
        case MonitorEventKind.DEVICE_DELETED | MonitorEventKind.LOST:
            return p


def _path_seen(p: Poller, mark: SocketMark, turn: Turn) -> Poller:
    if p.socket == Socket(present=True, mark=mark):
        return p
    replaced = p.socket.mark is not None or p.attempts.failures > 0
    p = replace(p, socket=Socket(present=True, mark=mark))
    if not (isinstance(p.phase, Away) and replaced):
        return p
    return replace(p, phase=Away(turn.mono_ns), attempts=replace(p.attempts, failures=0))


def _path_missing(p: Poller, turn: Turn) -> Poller:
    p = replace(p, socket=replace(p.socket, present=False))
    if isinstance(p.phase, Idle | Asking) and holding.is_shared(p):
        return asking.leave_removed_socket(p, turn)
    if isinstance(p.phase, Away):
        return replace(p, link=replace(p.link, fault=LinkFault.MISSING))
    return p  # a link lives on without its path


def _path_refused(p: Poller, turn: Turn) -> Poller:
    """Return the poller without a link: what the path leads to must not be used, not even if it is open."""
    p = replace(p, socket=replace(p.socket, present=False, refused=True))
    return asking.leave_removed_socket(p, turn)


def _tick(p: Poller, turn: Turn) -> Poller:
    match p.phase:
        case Opening(deadline_ns) if deadline_ns <= turn.mono_ns:
            turn.do(CloseLink())
            return linking.failed(p, LinkFault.SILENT, "no greeting before the deadline", turn)
        case Asking(deadline_ns=deadline_ns, overdue=False) if deadline_ns <= turn.mono_ns:
            if (later_ns := extended(deadline_ns, turn.mono_ns)) is not None:
                return replace(p, phase=replace(p.phase, deadline_ns=later_ns))
            if not holding.is_shared(p):
                return replace(p, phase=replace(p.phase, overdue=True))
            turn.do(CloseLink())
            return linking.failed(p, LinkFault.NO_ANSWER, "no answer before the deadline", turn)
        case _:
            stall_at_ns = announcing.stall_at(p, turn.settings)
            if stall_at_ns is None or stall_at_ns > turn.mono_ns:
                return p
            return _check_at(p, stall_at_ns)  # another client may have set a longer interval
