"""What to do next: open a link, ask the question that is due, or leave the monitor. Part of `step`."""

from msgspec.structs import replace

from agent.core import holding
from agent.core.events import Ask, Asking, Away, CloseLink, Idle, Opening, OpenLink, Question
from agent.core.ownership import IntervalChange
from agent.core.poller import SECOND_NS, Link, Poller, Schedule
from agent.core.turn import Turn
from agent.errors import LinkFault

OPENING_BACKSTOP_NS = 300 * SECOND_NS
"""An attempt may wait for its turn among those opened at once; the edge has the greeting's own deadline."""

CHECK_SPACING_NS = 40_000_000
"""The shortest time between two checks. A check may find a new device, whose interval is then recorded on
disk and set."""

CHECKS_AT_ONCE = 25
"""Checks that follow each other so closely: an event is looked into at once, and so are those of a reboot."""

CHECK_EVERY_NS = SECOND_NS
"""The time between two checks in a stream of events or of refused readings: each may change the state, and a
state event is a record. The samples of a VM are no more either: `last-update` has whole seconds."""


def proceed(p: Poller, turn: Turn) -> Poller:
    """Return the poller with the next thing under way, if one is due and nothing else is."""
    match p.phase:
        case Away(retry_at_ns) if (
            retry_at_ns is not None and retry_at_ns <= turn.mono_ns and p.socket.present
        ):
            unanswered = p.link.occupied_since_ns is not None or p.link.fault in (
                LinkFault.SILENT,
                LinkFault.BUSY,
            )
            # The last attempt, or the client that the agent stepped aside for, may still be in QEMU's queue.
            turn.do(OpenLink(unanswered or p.others.waited, p.socket.mark))
            return replace(p, phase=Opening(turn.mono_ns + OPENING_BACKSTOP_NS))
        case Idle():
            return _ask(p, turn)
        case _:
            return p


def _ask(p: Poller, turn: Turn) -> Poller:
    question = _next_question(p, turn.mono_ns)
    visit_ends_ns = p.link.visit_ends_ns
    visit_over = visit_ends_ns is not None and visit_ends_ns <= turn.mono_ns
    if visit_over and p.link.claimed and question not in (None, Question.READ, Question.CLAIM):
        return leave(p, turn.mono_ns + turn.settings.visit_ns, turn)  # the rest follows at the next visit
    if question is None:
        if visit_ends_ns is None or (at_ns := next_question_at(p)) < visit_ends_ns:
            return p
        return leave(p, at_ns, turn) if p.process.ran else _look_again(p, at_ns, turn)
    if question is Question.CHECK:
        p = replace(p, schedule=_checking(p, turn.mono_ns))
    turn.do(_ask_effect(p, question, turn))
    deadline_ns = turn.mono_ns + turn.settings.reading_deadline_ns
    return replace(p, phase=Asking(question, turn.mono_ns, deadline_ns))


def _checking(p: Poller, mono_ns: int) -> Schedule:
    """Return the schedule with one more check, which delays the next one if there were many.

    Those of a visit do not count: visits are few, and only there the state is seen.
    """
    schedule = replace(p.schedule, no_check_before_ns=mono_ns + CHECK_SPACING_NS)
    if holding.is_visited(p):
        return schedule
    until_ns = max(schedule.checks_until_ns, mono_ns) + CHECK_EVERY_NS
    all_at_once_ns = until_ns - (CHECKS_AT_ONCE - 1) * CHECK_EVERY_NS
    no_check_before_ns = max(schedule.no_check_before_ns, all_at_once_ns)
    return replace(schedule, no_check_before_ns=no_check_before_ns, checks_until_ns=until_ns)


def _ask_effect(p: Poller, question: Question, turn: Turn) -> Ask:
    balloon_path = p.process.balloon_path
    match question:
        case Question.CLAIM:
            return Ask(
                question,
                balloon_path,
                id=None if p.process.identity is None else p.process.identity.id,
                active=holding.is_active(p.process.run_state),
            )
        case Question.SET_INTERVAL:
            return Ask(question, balloon_path, interval_s=p.interval.set_to_s)
        case Question.REMEMBER:
            return Ask(question, balloon_path, change=_interval_change(p, turn))
        case _:
            return Ask(question, balloon_path)


def _next_question(p: Poller, mono_ns: int) -> Question | None:
    if p.process.identity is None:
        return Question.INTRODUCE
    if not p.link.claimed:
        return Question.CLAIM
    if _check_at(p) <= mono_ns:
        return Question.CHECK
    if p.process.balloon_path is not None and p.cadence.pace is not None:
        if _may_set_interval(p) and p.interval.set_at_ns <= mono_ns:
            return Question.SET_INTERVAL if p.interval.recorded else Question.REMEMBER
        if p.cadence.pace.due_ns <= p.running.read(mono_ns):
            return Question.READ
    # After the reading that follows a change of the run state: the other VM may take the id at once.
    if p.process.run_state is not None and holding.is_active(p.process.run_state) != p.link.active:
        return Question.CLAIM
    actual_at_ns = p.schedule.actual_at_ns
    if actual_at_ns is not None and actual_at_ns <= mono_ns:
        return Question.ACTUAL
    return None


def _may_set_interval(p: Poller) -> bool:
    """Return whether the interval may be set: the values that stand now are read before they are
    overwritten."""
    return p.interval.set_to_s is not None and p.cadence.read_at_ns is not None


def _check_at(p: Poller) -> int:
    return max(p.schedule.check_at_ns, p.schedule.no_check_before_ns)


def next_question_at(p: Poller) -> int:
    """Return when the next question is due (monotonic nanoseconds), on an open link or at the next visit."""
    times = [_check_at(p), p.schedule.actual_at_ns]
    if p.process.balloon_path is not None and p.cadence.pace is not None:
        times.append(p.running.when(p.cadence.pace.due_ns))
        if _may_set_interval(p):
            times.append(p.interval.set_at_ns)
    return min([at for at in times if at is not None])


def _interval_change(p: Poller, turn: Turn) -> IntervalChange:
    assert p.process.mark is not None
    assert p.process.balloon_path is not None
    assert p.interval.set_to_s is not None
    before_s = p.interval.ownership.before_s
    return IntervalChange(
        p.endpoint.address,
        p.process.mark,
        p.process.balloon_path,
        p.process.interval_s if before_s is None else before_s,
        p.interval.set_to_s,
        turn.now.unix_ms,
    )


def _look_again(p: Poller, at_ns: int, turn: Turn) -> Poller:
    """Return the poller away from a VM that has yet to be started."""
    at_ns = min(at_ns, turn.mono_ns + holding.look_pause_ns(p))
    return leave(holding.looked(p), at_ns, turn)


def leave_removed_socket(p: Poller, turn: Turn) -> Poller:
    """Return the poller without the link to a socket that is not there any more: it could not come back."""
    turn.do(CloseLink())
    return replace(
        p,
        phase=Away(None),
        link=Link(fault=LinkFault.MISSING),
        attempts=replace(p.attempts, open_since_ns=None),
    )


def leave(p: Poller, return_at_ns: int, turn: Turn) -> Poller:
    """Return the poller away from its monitor until `return_at_ns`."""
    if not p.socket.present:
        return leave_removed_socket(p, turn)
    turn.do(CloseLink())
    return replace(p, phase=Away(return_at_ns), link=replace(p.link, visit_ends_ns=None))
