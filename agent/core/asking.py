"""What to do next: open a link, put the question that is due, or leave. Part of `step`."""

from msgspec.structs import replace

from agent.core.events import (
    Ask,
    Asking,
    Away,
    CloseLink,
    Effect,
    Idle,
    Opening,
    OpenLink,
    Question,
)
from agent.core.ownership import IntervalChange
from agent.core.poller import SECOND_NS, Poller, PollSettings
from agent.core.reading import Now
from agent.errors import LinkFault

OPENING_BACKSTOP_NS = 300 * SECOND_NS
"""An attempt may wait for its turn among those opened at once; the greeting's own deadline is the edge's."""

CHECK_SPACING_NS = 40_000_000
"""From one check to the next at least: an event is looked into at once, and a stream of them, or of refused
readings, 25 times a second. A check may find a new device, whose interval is then written to disk and set."""


def proceed(p: Poller, now: Now, settings: PollSettings, effects: list[Effect]) -> Poller:
    """Return the poller with the next thing under way, where one is due and nothing else is."""
    match p.phase:
        case Away(retry_at_ns) if retry_at_ns is not None and retry_at_ns <= now.mono_ns and p.path_present:
            silent = p.kept_out_since_ns is not None or p.fault in (LinkFault.SILENT, LinkFault.BUSY)
            effects.append(OpenLink(look_first=silent))  # what we gave up there may still be waiting
            return replace(p, phase=Opening(now.mono_ns + OPENING_BACKSTOP_NS))
        case Idle():
            return _ask(p, now, settings, effects)
        case _:
            return p


def _ask(p: Poller, now: Now, settings: PollSettings, effects: list[Effect]) -> Poller:
    question = _next_question(p, now.mono_ns)
    over = p.visit_ends_ns is not None and p.visit_ends_ns <= now.mono_ns
    if over and p.answered and question not in (None, Question.READ):
        return leave(p, now.mono_ns + settings.visit_ns, effects)  # the rest at the next visit
    if question is None:
        if p.visit_ends_ns is None or (at_ns := next_question_at(p)) < p.visit_ends_ns:
            return p
        return leave(p, at_ns, effects)
    if question is Question.CHECK:
        p = replace(p, no_check_before_ns=now.mono_ns + CHECK_SPACING_NS)
    ask = Ask(question, p.balloon_path)
    if question is Question.CLAIM:
        ask = replace(ask, id=None if p.identity is None else p.identity.id)
    elif question is Question.SET_INTERVAL:
        ask = replace(ask, interval_s=p.set_to_s)
    elif question is Question.REMEMBER:
        ask = replace(ask, change=_interval_change(p, now))
    effects.append(ask)
    return replace(p, phase=Asking(question, now.mono_ns, now.mono_ns + settings.reading_deadline_ns))


def _next_question(p: Poller, mono_ns: int) -> Question | None:
    if p.identity is None:
        return Question.INTRODUCE
    if not p.answered:
        return Question.CLAIM
    if _check_at(p) <= mono_ns:
        return Question.CHECK
    if p.balloon_path is not None and p.pace is not None:
        if _may_be_set(p) and p.set_at_ns <= mono_ns:  # the reading current until now comes first
            return Question.SET_INTERVAL if p.remembered else Question.REMEMBER
        if p.pace.due_ns <= p.running.read(mono_ns):
            return Question.READ
    if p.actual_at_ns is not None and p.actual_at_ns <= mono_ns:
        return Question.ACTUAL
    return None


def _may_be_set(p: Poller) -> bool:
    return p.set_to_s is not None and p.read_at_ns is not None


def _check_at(p: Poller) -> int:
    return max(p.check_at_ns, p.no_check_before_ns)


def next_question_at(p: Poller) -> int:
    """Return when the next question is due (monotonic nanoseconds), on an open link or for the next visit."""
    times = [_check_at(p), p.actual_at_ns]
    if p.balloon_path is not None and p.pace is not None:
        times.append(p.running.when(p.pace.due_ns))
        if _may_be_set(p):
            times.append(p.set_at_ns)
    return min(at for at in times if at is not None)


def _interval_change(p: Poller, now: Now) -> IntervalChange:
    assert p.greeted is not None
    assert p.balloon_path is not None
    assert p.set_to_s is not None
    before_s = p.interval_s if p.ownership.before_s is None else p.ownership.before_s
    return IntervalChange(p.address, p.greeted, p.balloon_path, before_s, p.set_to_s, now.unix_ms)


def leave(p: Poller, back_at_ns: int, effects: list[Effect]) -> Poller:
    """Return the poller away from its monitor until `back_at_ns`."""
    effects.append(CloseLink())
    return replace(p, phase=Away(back_at_ns), visit_ends_ns=None)
