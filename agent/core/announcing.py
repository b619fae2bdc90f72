"""The VM's state: judge the facts, and report the state when it differs or is due again. Part of `step`."""

from msgspec.structs import replace

from agent.core import epochs
from agent.core.address import place_of
from agent.core.choice import Outcome
from agent.core.events import Asking, Disclaim, EmitState, Forget, Idle, Retire, Retired
from agent.core.poller import SECOND_NS, Poller, PollSettings, Reported
from agent.core.reading import State, StateEvent, VmIdentity
from agent.core.states import STEPPED_ASIDE, Facts, Reason, Verdict, judge
from agent.core.turn import Turn


def deadline_ns(interval_s: int, settings: PollSettings) -> int:
    """Return how long an update may take, on the VM's running time, before the VM is `stalled`."""
    if settings.stall_deadline_ns is not None:
        return settings.stall_deadline_ns
    return max(3 * interval_s, interval_s + 5) * SECOND_NS


def is_answering(p: Poller) -> bool:
    """Return whether the VM answers the agent: only then do missing updates count against the guest."""
    if p.link.occupied_since_ns is not None:
        return False
    return p.link.claimed and p.link.fault is None and not (isinstance(p.phase, Asking) and p.phase.overdue)


def stall_at(p: Poller, settings: PollSettings) -> int | None:
    """Return when the VM becomes `stalled` unless an update comes; `None`: it cannot, or a check comes
    first."""
    process = p.process
    if p.reported is None or not process.interval_s or process.balloon_path is None:
        return None
    if p.reported.verdict.state not in (State.REPORTING, State.CONNECTING) or not p.link.claimed:
        return None
    if p.observed.since_ns is None:
        return None
    at_ns = p.observed.when(p.cadence.silent_since_ns + deadline_ns(process.interval_s, settings) + 1)
    return None if at_ns is None or p.schedule.check_at_ns <= at_ns else at_ns


def announce(p: Poller, turn: Turn) -> Poller:
    """Return the poller after its state was judged; emits a state event for a change or a due heartbeat."""
    if p.decision.is_excluded:
        return _end_excluded(p, turn)
    reported = p.reported
    verdict = judge(_facts(p, turn))
    if reported is None and p.decision.outcome is Outcome.OPEN:
        # Nothing is emitted of a VM that may turn out to be excluded, unless its monitor is in trouble.
        if verdict is None:
            return p
        if verdict.state is State.GONE and not _was_observed(p):
            return _retire(p, turn)
    if verdict is not None and p.others.waited and verdict.state is not State.GONE:
        verdict = Verdict(verdict.state, verdict.reason, verdict.detail + STEPPED_ASIDE)
    if verdict is None:
        verdict = (
            Verdict(State.CONNECTING, Reason.FIRST_ATTEMPT, "no answer yet")
            if reported is None
            else reported.verdict
        )
        if verdict.state is State.DUPLICATE and p.link.claimed:
            detail = "the agent now observes the VM at this path; no update yet"
            verdict = Verdict(State.CONNECTING, Reason.FIRST_ATTEMPT, detail)
    if reported is None or _differ(reported.verdict, verdict):
        p = _report(p, verdict, turn, heartbeat=False)
        if verdict.state in (State.STALLED, State.WAITING, State.PAUSED):
            p = replace(p, history=epochs.break_cadence(p.history))
        if verdict.state is State.GONE:
            turn.do(Disclaim())
            if p.process.mark is not None:
                turn.do(Forget(p.process.mark))
    elif turn.mono_ns >= reported.heartbeat_at_ns:
        # With each heartbeat the balloon's size is read, and an interval that could not be set is tried
        # again.
        p = replace(
            p,
            schedule=replace(p.schedule, actual_at_ns=turn.mono_ns),
            interval=replace(p.interval, ownership=replace(p.interval.ownership, blocked=None)),
        )
        p = _report(p, verdict, turn, heartbeat=True)
    if verdict.state is State.GONE and not p.socket.present:
        return _retire(p, turn)
    return p


def repeat(p: Poller, turn: Turn) -> Poller:
    """Return the poller after a heartbeat out of turn: nothing is asked of the VM, and no other one moves."""
    reported = p.reported
    if reported is None:  # the first state is reported in this step
        return p
    p = _report(p, reported.verdict, turn, heartbeat=True)
    assert p.reported is not None
    return replace(p, reported=p.reported.due(reported.heartbeat_at_ns))


def _retire(p: Poller, turn: Turn) -> Poller:
    turn.do(Retire())
    return replace(p, phase=Retired())


def _was_observed(p: Poller) -> bool:
    """Return whether the last event of this address, also of an earlier run, shows a VM that is observed."""
    state = p.state_before if p.reported is None else p.reported.verdict.state
    return state not in (None, State.GONE)


def _end_excluded(p: Poller, turn: Turn) -> Poller:
    """Return the poller of an excluded VM, which ends; emits one last event if the VM was observed.

    A changed interval stays recorded: it is restored after this.
    """
    if _was_observed(p):
        if p.process.identity is None and p.history_id is not None:  # as an earlier run knew it
            is_path = p.history_id == p.endpoint.path_id
            identity = VmIdentity(
                p.history_id,
                "path" if is_path else "uuid",
                None if is_path else p.history_id,
                p.endpoint.name,
                p.endpoint.labels,
            )
            p = replace(p, process=replace(p.process, identity=identity))
        if p.before is not None:
            p = replace(p, before=replace(p.before, state=State.GONE))
        detail = f"{p.decision.why}; the agent no longer observes the VM"
        p = _report(p, Verdict(State.GONE, Reason.EXCLUDED, detail), turn, heartbeat=False)
    turn.do(Disclaim())
    return _retire(p, turn)


def _differ(one: Verdict, other: Verdict) -> bool:
    return (one.state, one.reason) != (other.state, other.reason)


def _until_heartbeat_ns(p: Poller, settings: PollSettings) -> int:
    """Return the time to the next heartbeat: up to a tenth less than the period, different for each VM.

    VMs that were found together would have all their heartbeats at the same time, which delays readings.
    """
    return settings.heartbeat_ns - int(settings.heartbeat_ns // 10 * place_of(p.endpoint.address))


def _report(p: Poller, verdict: Verdict, turn: Turn, *, heartbeat: bool) -> Poller:
    reported, now = p.reported, turn.now
    if reported is not None and reported.verdict.state is verdict.state:  # a heartbeat, or another reason
        since_ms, previous = reported.since_ms if heartbeat else now.unix_ms, reported.previous
    elif reported is not None:
        since_ms, previous = now.unix_ms, reported.verdict.state
    else:
        since_ms, previous = now.unix_ms, p.state_before
    heartbeat_at_ns = turn.mono_ns + _until_heartbeat_ns(p, turn.settings)
    p = replace(
        p,
        reported=Reported(verdict, since_ms, previous, heartbeat_at_ns),
        sequence=p.sequence + 1,
    )
    history, process = p.history, p.process
    last = None if p.cadence.read_at_ns is None else history.last
    event = StateEvent(
        vm=process.identity,
        address=p.endpoint.address,
        sequence=p.sequence,
        state=verdict.state,
        reason=verdict.reason,
        detail=verdict.detail,
        since_ms=since_ms,
        observed_at_ms=now.unix_ms,
        previous_state=previous,
        heartbeat=heartbeat,
        # A tenth more than the period: a record may be queued before it is delivered.
        next_heartbeat_by_ms=now.unix_ms + turn.settings.heartbeat_ns * 11 // 10 // 1_000_000,
        epoch=history.epoch,
        last_sequence=None if history.epoch is None else history.sequence,
        last_update_s=None if last is None else last.last_update_s,
        interval_s=None if process.balloon_path is None else process.interval_s,
        run_state=process.run_state,
    )
    turn.do(EmitState(event))
    return p


def _greeted_an_earlier_run(p: Poller) -> bool:
    return p.before is not None and p.before.mark is not None and p.before.mark == p.socket.mark


def _facts(p: Poller, turn: Turn) -> Facts:
    link, process, own = p.link, p.process, p.interval.ownership
    connected = isinstance(p.phase, Idle | Asking) or link.claimed  # in `share` also between two visits
    last = None if p.cadence.read_at_ns is None else p.history.last  # read from this very device
    return Facts(
        via=p.endpoint.address.via,
        link_open=connected and link.fault is None and p.attempts.other_address is None,
        claimed=link.claimed,
        fault=link.fault,
        fault_detail=link.fault_detail,
        path_refused=p.socket.refused,
        greeted_before=process.mark is not None or _greeted_an_earlier_run(p),
        other_address=p.attempts.other_address,
        overdue=isinstance(p.phase, Asking) and p.phase.overdue,
        answer_within_s=turn.settings.reading_deadline_ns / SECOND_NS,
        has_balloon=process.balloon_path is not None,
        has_shut_down=process.has_shut_down,
        run_state=process.run_state,
        interval_s=process.interval_s,
        about_to_set=p.interval.set_to_s is not None,
        set_back=own.again_at_ns is not None,
        contended=own.contended,
        blocked=own.blocked,
        rebooted=process.rebooted,
        last_update_s=None if last is None else last.last_update_s,
        all_unset=last is not None and not last.statistics and not last.refused,
        kicked=p.history.kicked,
        advancing=p.cadence.advancing,
        silent_s=(p.observed.read(turn.mono_ns) - p.cadence.silent_since_ns) / SECOND_NS,
        checking=p.schedule.check_at_ns <= turn.mono_ns,
        deadline_s=deadline_ns(process.interval_s, turn.settings) / SECOND_NS,
    )
