"""The process and its balloon: identity, run state, device, polling interval. Part of `step`."""

from msgspec.structs import replace

from agent.core import epochs, holding, ownership, pacing
from agent.core.address import place_of
from agent.core.asking import CHECK_SPACING_NS
from agent.core.choice import Traits, decide
from agent.core.epochs import History
from agent.core.events import Asking, Away, Checked, CloseLink, Forget, Given, Idle, Introduced
from agent.core.ownership import Ownership
from agent.core.poller import SECOND_NS, Cadence, Interval, Poller, Process
from agent.core.reading import Balloon, Configured, Resident, State, VmId, VmIdentity
from agent.core.turn import Turn


def introduced(p: Poller, event: Introduced, turn: Turn) -> Poller:
    """Return the poller with the VM's identity, balloon, interval and run state."""
    name = p.endpoint.name if event.name is None else event.name
    if event.uuid is None:
        identity = VmIdentity(p.endpoint.path_id, "path", None, name, p.endpoint.labels)
    else:
        identity = VmIdentity(VmId(event.uuid), "uuid", event.uuid, name, p.endpoint.labels)
    if p.history_id not in (None, identity.id):
        p = replace(p, history=History(), owner=None)  # the history of another VM
    balloon = None if event.actual_bytes is None else Balloon(event.actual_bytes, turn.now.unix_ms)
    p = replace(
        p,
        history_id=identity.id,
        process=replace(p.process, identity=identity, balloon=balloon),
    )
    traits = Traits(str(p.endpoint.address), identity.labels, name, identity.id, is_introduced=True)
    p = replace(p, decision=decide(turn.settings.choice, traits))
    if p.decision.is_excluded:
        turn.do(CloseLink())
        return replace(p, phase=Away(None))
    return checked(p, event, turn)


def checked(p: Poller, event: Introduced | Checked, turn: Turn) -> Poller:
    """Return the poller with what a check read."""
    same_device = event.balloon_path == p.process.balloon_path
    p = check_answered(p, turn)
    p = replace(p, process=_with_given(p.process, event.given, turn, same_device))
    p = _with_balloon(p, event.balloon_path, event.interval_s, turn)
    return _with_run_state(p, event.run_state, turn)


def check_answered(p: Poller, turn: Turn) -> Poller:
    """Return the poller after the answer to a check; the next one is due after `recheck_ns`.

    It is due soon if an event asked for it after this check had begun. A check is several commands, so its
    answers may be older than the event: a VM that resumed meanwhile would count as paused. A reading that is
    due comes first, so that a stream of events does not keep the VM from being read.
    """
    assert isinstance(p.phase, Asking)
    check_at_ns = turn.mono_ns + turn.settings.recheck_ns
    if p.schedule.check_at_ns > p.phase.asked_ns:
        check_at_ns = min(check_at_ns, turn.mono_ns + CHECK_SPACING_NS)
    return replace(p, phase=Idle(), schedule=replace(p.schedule, check_at_ns=check_at_ns))


def _with_given(process: Process, given: Given, turn: Turn, same_device: bool) -> Process:
    now_ms = turn.now.unix_ms
    configured = resident = None
    if given.base_bytes is not None and given.plugged_bytes is not None:
        configured = Configured(given.base_bytes, given.plugged_bytes, now_ms)
    if given.resident_bytes is not None:
        resident = Resident(given.resident_bytes, now_ms)
    deflate_on_oom = given.deflate_on_oom
    if deflate_on_oom is None and same_device:
        deflate_on_oom = process.deflate_on_oom
    return replace(
        process,
        configured=configured,
        deflate_on_oom=deflate_on_oom,
        resident=process.resident if resident is None else resident,
    )


def interval_set(p: Poller, turn: Turn) -> Poller:
    """Return the poller after QEMU accepted the interval."""
    set_to_s = p.interval.set_to_s
    assert set_to_s is not None
    interval_before_s = p.process.interval_s
    was_off = interval_before_s == 0
    own = ownership.written(p.interval.ownership, interval_before_s=interval_before_s, set_to_s=set_to_s)
    p = replace(
        p,
        phase=Idle(),
        process=replace(p.process, interval_s=set_to_s),
        interval=Interval(own, set_at_ns=p.interval.set_at_ns),
        cadence=replace(p.cadence, interval_read_at_ns=p.running.read(turn.mono_ns), updates_since=0),
        history=replace(p.history, kicked=was_off),
    )
    return _paced(p, turn, kicked=was_off)


def new(p: Poller, own: Ownership, turn: Turn, *, guest_reset: bool) -> Poller:
    """Return the poller with a device of which nothing was read; `guest_reset`: its counters restart,
    too."""
    return replace(
        p,
        history=epochs.end_epoch(p.history, guest_reset=guest_reset),
        interval=Interval(own),
        cadence=Cadence(silent_since_ns=p.observed.read(turn.mono_ns)),
    )


def _with_balloon(p: Poller, balloon_path: str | None, interval_s: int | None, turn: Turn) -> Poller:
    path_before = p.process.balloon_path
    if path_before is not None and balloon_path != path_before:
        p = new(p, Ownership(), turn, guest_reset=False)
        p = replace(p, process=replace(p.process, rebooted=False))
        if p.process.mark is not None:
            turn.do(Forget(p.process.mark))
    if balloon_path is None or interval_s is None:
        return replace(
            p,
            process=replace(p.process, balloon_path=None, interval_s=0),
            interval=replace(p.interval, set_to_s=None),
            cadence=replace(p.cadence, pace=None),
        )
    p = _interval_read(p, interval_s, turn)
    if interval_s != p.process.interval_s or p.cadence.pace is None:
        p = replace(p, process=replace(p.process, interval_s=interval_s))
        p = _paced(p, turn, kicked=False)
    p = replace(p, process=replace(p.process, balloon_path=balloon_path))
    return _decide_interval(p, interval_s, turn)


def _decide_interval(p: Poller, interval_s: int, turn: Turn) -> Poller:
    before = p.interval
    wish = ownership.look(
        before.ownership,
        interval_s=interval_s,
        policy=turn.settings.policy,
        ours_s=turn.settings.interval_s,
        now_ns=turn.mono_ns,
        wait_ns=turn.settings.set_again_ns,
    )
    if before.ownership.set_s is not None and wish.ownership.set_s is None and p.process.mark is not None:
        turn.do(Forget(p.process.mark))
    check_at_ns = p.schedule.check_at_ns
    if wish.set_to_s is None and wish.ownership.again_at_ns is not None:
        check_at_ns = min(check_at_ns, wish.ownership.again_at_ns)
    set_at_ns = before.set_at_ns
    if wish.set_to_s is not None and before.set_to_s is None and not wish.ownership.times_set:
        # A VM that was migrated within this host comes alone, and its guest has been asked until now.
        spread_ns = turn.settings.spread_ns if p.attempts.other_address is None else 0
        set_at_ns = turn.mono_ns + int(spread_ns * place_of(p.endpoint.address))
        if set_at_ns > turn.mono_ns:  # another client may set it until then: check again first
            check_at_ns = min(check_at_ns, set_at_ns)
    return replace(
        p,
        interval=Interval(wish.ownership, wish.set_to_s, set_at_ns),
        schedule=replace(p.schedule, check_at_ns=check_at_ns),
    )


def _interval_read(p: Poller, interval_s: int, turn: Turn) -> Poller:
    """Count the updates that a shorter interval, set by another client since the last check, may have
    lost."""
    cadence = p.cadence
    overwritten = cadence.overwritten_at_most
    if 0 < interval_s < p.process.interval_s and cadence.read_at_ns is not None:
        made_at_most = (cadence.read_at_ns - cadence.interval_read_at_ns) // (interval_s * SECOND_NS) + 1
        overwritten += max(made_at_most - cadence.updates_since, 0)
    cadence = replace(
        cadence,
        interval_read_at_ns=p.running.read(turn.mono_ns),
        updates_since=0,
        overwritten_at_most=overwritten,
    )
    return replace(p, cadence=cadence)


def _paced(p: Poller, turn: Turn, *, kicked: bool) -> Poller:
    """Start the pace of an interval; `kicked`: it was 0, and QEMU asks the guest at once."""
    interval_ns = p.process.interval_s * SECOND_NS or 30 * SECOND_NS  # off: read every 30 s
    # The guest's silence is measured from now on. A VM that was not `reporting` does not become so by that.
    reporting = p.reported is not None and p.reported.verdict.state is State.REPORTING
    cadence = replace(
        p.cadence,
        pace=pacing.start(interval_ns, p.running.read(turn.mono_ns), kicked=kicked),
        silent_since_ns=p.observed.read(turn.mono_ns),
        advancing=p.cadence.advancing and reporting,
    )
    return replace(p, cadence=cadence)


def _with_run_state(p: Poller, run_state: str, turn: Turn) -> Poller:
    """Return the poller with a run state; the clocks keep what it was until now."""
    if run_state == p.process.run_state:
        return p
    ran = run_state == "running" or (p.process.ran and run_state not in holding.NOT_STARTED)
    if ran:
        p = replace(p, attempts=replace(p.attempts, looks=0))
    p = holding.settle(replace(p, process=replace(p.process, run_state=run_state, ran=ran)), turn)
    if run_state == "running":
        return p
    # An update may have come just before the VM stopped: one more reading, then none.
    return read_now(p, turn)


def read_now(p: Poller, turn: Turn) -> Poller:
    """Return the poller with a reading due at once, if it has a balloon to read."""
    if p.cadence.pace is None:
        return p
    pace = pacing.read_at(p.cadence.pace, p.running.read(turn.mono_ns))
    return replace(p, cadence=replace(p.cadence, pace=pace))
