"""What to say of a VM: its facts, judged, and announced when they differ. Part of `step`."""

from msgspec.structs import replace

from agent.core import epochs
from agent.core.events import (
    Asking,
    Disclaim,
    Effect,
    EmitState,
    Forget,
    Idle,
    Retire,
    Retired,
)
from agent.core.poller import SECOND_NS, Announced, Poller, PollSettings
from agent.core.reading import (
    Now,
    State,
    StateEvent,
)
from agent.core.states import Facts, Judgement, Reason, judge


def deadline_ns(interval_s: int, settings: PollSettings) -> int:
    """Return how long an update may stay away, on the VM's running time, before the VM is `stalled`."""
    if settings.stall_deadline_ns is not None:
        return settings.stall_deadline_ns
    return max(3 * interval_s, interval_s + 5) * SECOND_NS


def conversing(p: Poller) -> bool:
    """Whether the VM answers us: only then does its silence count against the guest."""
    if p.kept_out_since_ns is not None:
        return False
    return p.answered and p.fault is None and not (isinstance(p.phase, Asking) and p.phase.overdue)


def stall_at(p: Poller, settings: PollSettings) -> int | None:
    """Return when silence becomes a stall, while it is not one yet and the interval is not being asked."""
    said = p.announced and p.announced.judgement
    if said is None or not p.interval_s or p.balloon_path is None or p.watched.since_ns is None:
        return None
    if said.state not in (State.REPORTING, State.CONNECTING) or not p.answered:
        return None
    at_ns = p.watched.when(p.quiet_since_ns + deadline_ns(p.interval_s, settings) + 1)
    return None if at_ns is None or p.check_at_ns <= at_ns else at_ns


def announce(p: Poller, now: Now, settings: PollSettings, effects: list[Effect]) -> Poller:
    """Judge the facts, and say what is new of them or due to be repeated."""
    said = p.announced
    judgement = judge(_facts(p, now, settings))
    if judgement is None:
        first = Judgement(State.CONNECTING, Reason.FIRST_ATTEMPT, "no answer yet")
        judgement = first if said is None else said.judgement
    if said is None or (said.judgement.state, said.judgement.reason) != (judgement.state, judgement.reason):
        p = _say(p, judgement, now, settings, effects, heartbeat=False)
        if judgement.state in (State.STALLED, State.WAITING, State.PAUSED):
            p = replace(p, history=epochs.break_rhythm(p.history))
        if judgement.state is State.GONE:
            effects.append(Disclaim())
            if p.greeted is not None:
                effects.append(Forget(p.greeted))
    elif now.mono_ns >= said.heartbeat_at_ns:
        # With it the balloon is read, and what could not be set is tried again.
        p = replace(p, actual_at_ns=now.mono_ns, ownership=replace(p.ownership, blocked=None))
        p = _say(p, judgement, now, settings, effects, heartbeat=True)
    if judgement.state is State.GONE and not p.path_present:
        effects.append(Retire())
        return replace(p, phase=Retired())
    return p


def _say(
    p: Poller,
    judgement: Judgement,
    now: Now,
    settings: PollSettings,
    effects: list[Effect],
    *,
    heartbeat: bool,
) -> Poller:
    said = p.announced
    if said is not None and said.judgement.state is judgement.state:  # a heartbeat, or only another reason
        since_ms, previous = said.since_ms, said.previous
    else:
        left_as = None if p.before is None else p.before.state
        since_ms, previous = now.unix_ms, left_as if said is None else said.judgement.state
    next_ns = now.mono_ns + settings.heartbeat_ns
    p = replace(p, announced=Announced(judgement, since_ms, previous, next_ns), sequence=p.sequence + 1)
    history = p.history
    event = StateEvent(
        vm=p.identity,
        address=p.address,
        sequence=p.sequence,
        state=judgement.state,
        reason=judgement.reason,
        detail=judgement.detail,
        since_ms=since_ms,
        observed_at_ms=now.unix_ms,
        previous_state=previous,
        heartbeat=heartbeat,
        # A tenth more than the period: a record may wait for its batch and its broker.
        next_heartbeat_by_ms=now.unix_ms + settings.heartbeat_ns * 11 // 10 // 1_000_000,
        epoch=history.epoch,
        last_sequence=None if history.epoch is None else history.sequence,
        last_update_s=None if p.read_at_ns is None or history.last is None else history.last.last_update_s,
        interval_s=None if p.balloon_path is None else p.interval_s,
        run_state=p.run_state,
    )
    effects.append(EmitState(event))
    return p


def _greeted_another_run(p: Poller) -> bool:
    return p.before is not None and p.before.mark is not None and p.before.mark == p.seen_mark


def _facts(p: Poller, now: Now, settings: PollSettings) -> Facts:
    in_touch = isinstance(p.phase, Idle | Asking) or p.answered  # in `share` also between two visits
    silent_ns = now.mono_ns - p.phase.asked_ns if isinstance(p.phase, Asking) and p.phase.overdue else None
    last = None if p.read_at_ns is None else p.history.last  # read from this very device
    return Facts(
        via=p.address.via,
        link_open=in_touch and p.fault is None and p.other_address is None,
        answered=p.answered,
        fault=p.fault,
        fault_detail=p.fault_detail,
        greeted_before=p.greeted is not None or _greeted_another_run(p),
        other_address=p.other_address,
        silent_for_s=None if silent_ns is None else silent_ns / SECOND_NS,
        has_balloon=p.balloon_path is not None,
        run_state=p.run_state,
        interval_s=p.interval_s,
        about_to_set=p.set_to_s is not None,
        set_back=p.ownership.again_at_ns is not None,
        contended=p.ownership.contended,
        blocked=p.ownership.blocked,
        rebooted=p.rebooted,
        last_update_s=None if last is None else last.last_update_s,
        all_unset=last is not None and not last.statistics and not last.refused,
        kicked=p.history.kicked,
        advancing=p.advancing,
        quiet_for_s=(p.watched.read(now.mono_ns) - p.quiet_since_ns) / SECOND_NS,
        checking=p.check_at_ns <= now.mono_ns,
        deadline_s=deadline_ns(p.interval_s, settings) / SECOND_NS,
    )
