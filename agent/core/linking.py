"""The link: what it means that one opened or ended, and when to open the next one. Part of `step`."""

from collections.abc import Mapping

from msgspec.structs import replace

from agent.core import announcing, asking, device, epochs, holding, ownership
from agent.core.address import Address
from agent.core.events import Asking, Away, Forget, Idle, Opened, Opening
from agent.core.ownership import IntervalChange, Ownership
from agent.core.poller import SECOND_NS, Attempts, Link, Poller, Process
from agent.core.reading import Access, SocketMark, State
from agent.core.states import NO_GREETING_FAULTS
from agent.core.turn import Turn
from agent.errors import LinkFault

DYING_TRIES, DYING_WAIT_NS = 5, 40_000_000
"""A killed QEMU closes its connections before its listener: `gone` within 0.4 s, not `unreachable` first."""

OCCUPIED_RETRY_NS: Mapping[LinkFault, int] = {LinkFault.BUSY: SECOND_NS, LinkFault.SILENT: 3 * SECOND_NS}
"""When to return to a shared monitor that other clients have. A connection that got no greeting may still be
in QEMU's queue, so the next attempt after a silence comes later."""

FRESH_CHECK_VISITS = 4
"""A visit this soon after a check does not check again: a slow QEMU would otherwise never get to its
reading."""

LASTING_NS = 30 * SECOND_NS
"""A link that ends sooner does not reset the backoff: a peer that greets and hangs up is not retried in a
loop."""

RETRY_S: Mapping[tuple[Access, LinkFault], tuple[float, float]] = {
    **{(access, fault): (60.0, 900.0) for access in Access for fault in NO_GREETING_FAULTS},
    (Access.SHARE, LinkFault.BUSY): (1.0, 30.0),  # such an attempt leaves nothing in QEMU's queue
}
"""The first and the longest pause before another attempt; `RETRY_DEFAULT_S` for other faults. An attempt
disturbs the clients of a monitor that is in use, so pauses there are long."""

RETRY_DEFAULT_S = (0.25, 30.0)

ASIDE_NS = SECOND_NS
"""How long the agent stays away after it has stepped aside: most clients are done within milliseconds."""

LEFT_ALONE = frozenset({LinkFault.NOT_QMP, LinkFault.NOT_A_VM})
"""Faults that no further attempt can change: the next one is made when the socket is replaced."""

FIRST_SILENCE_SHARED_S = 3.0
"""In `share`, the pause after the first silence: the next attempt looks whether this one is still queued."""


def opened(p: Poller, event: Opened, turn: Turn) -> Poller:
    """Return the poller with a link to the process `event.mark`."""
    mark = event.mark
    run_state = p.process.run_state if p.link.fault is None else None
    open_since_ns = p.attempts.open_since_ns
    p = replace(
        p,
        phase=Idle(),
        link=Link(
            claimed=p.link.claimed,
            active=p.link.active,
        ),
        attempts=replace(p.attempts, open_since_ns=turn.mono_ns if open_since_ns is None else open_since_ns),
    )
    if holding.is_shared(p) and not p.socket.present:
        return asking.leave_removed_socket(p, turn)
    id_released = p.reported is not None and p.reported.verdict.state is State.GONE
    if mark == p.process.mark and p.process.identity is not None and not id_released:
        p = replace(p, process=replace(p.process, peer=event.peer))
        return holding.settle(_same_process(p, run_state, turn), turn)
    if mark != p.process.mark:
        p = _new_process(p, mark, event.change, turn)
        p = replace(p, others=replace(p.others, unseen=False))
    p = replace(p, link=replace(p.link, claimed=False, active=True), process=Process(mark, peer=event.peer))
    return holding.settle(p, turn)


def _same_process(p: Poller, run_state: str | None, turn: Turn) -> Poller:
    """What is known of the process stands, but anything may have changed since: check it."""
    schedule = p.schedule
    if not holding.is_visited(p):
        schedule = replace(schedule, check_at_ns=turn.mono_ns, actual_at_ns=turn.mono_ns)
    else:
        checked_ns = schedule.check_at_ns - turn.settings.recheck_ns
        fresh = turn.mono_ns - checked_ns < FRESH_CHECK_VISITS * turn.settings.visit_ns
        if not (p.link.claimed and fresh):
            schedule = replace(schedule, check_at_ns=turn.mono_ns)
    return replace(
        p,
        link=replace(p.link, claimed=True),
        process=replace(p.process, run_state=run_state),
        schedule=schedule,
    )


def _new_process(p: Poller, mark: SocketMark, change: IntervalChange | None, turn: Turn) -> Poller:
    mark_before = p.process.mark if p.before is None else p.before.mark
    if mark_before is not None and mark != mark_before:
        turn.do(Forget(mark_before))
    own = Ownership()
    if change is not None and change.mark == mark:
        own = ownership.recall(change, ours_s=turn.settings.interval_s)
    p = device.new(p, own, turn, guest_reset=True)
    if p.before is not None and p.before.mark == mark:
        # An earlier run read this process: its samples remain valid; later updates may be lost.
        p = replace(
            p,
            history=epochs.break_cadence(p.before.history),
            cadence=replace(p.cadence, read_mono_ns=p.before.read_mono_ns),
        )
    return replace(p, before=None)


def failed(p: Poller, fault: LinkFault, detail: str, turn: Turn) -> Poller:
    """Return the poller after its link, or the attempt to open one, ended with `fault`."""
    if holding.is_visited(p) and fault in OCCUPIED_RETRY_NS and p.link.claimed and p.socket.present:
        since_ns = p.link.occupied_since_ns
        since_ns = turn.mono_ns if since_ns is None else since_ns
        if turn.mono_ns - since_ns < announcing.deadline_ns(p.process.interval_s, turn.settings):
            # Another client has the monitor. What is known of the VM remains valid for as long as for a guest
            # without updates.
            retry_at_ns = turn.mono_ns + OCCUPIED_RETRY_NS[fault]
            return replace(p, phase=Away(retry_at_ns), link=replace(p.link, occupied_since_ns=since_ns))
    was_open = p.link.claimed and not isinstance(p.phase, Opening)
    fault_before = p.link.fault
    since_ns = p.attempts.open_since_ns
    lasted = since_ns is not None and turn.mono_ns - since_ns >= LASTING_NS
    failures = 0 if lasted else p.attempts.failures
    if not p.socket.present:
        return _without_link(p, Away(None), LinkFault.MISSING, detail, failures)
    may_be_dying = fault_before is None and (was_open or failures > 0) and failures < DYING_TRIES
    if fault is LinkFault.HUNG_UP and may_be_dying:
        # Only the next attempt shows whether QEMU has exited: it may accept connections until its end.
        retry = Away(turn.mono_ns + DYING_WAIT_NS * failures)
        return _without_link(p, retry, None, p.link.fault_detail, failures + 1)
    same_backoff = (fault in NO_GREETING_FAULTS) == (fault_before in NO_GREETING_FAULTS)
    failures = failures + 1 if same_backoff else 1
    return _without_link(p, Away(_retry_at(p, fault, failures, turn)), fault, detail, failures)


def _without_link(p: Poller, away: Away, fault: LinkFault | None, detail: str, failures: int) -> Poller:
    return replace(
        p, phase=away, link=Link(fault=fault, fault_detail=detail), attempts=Attempts(failures=failures)
    )


def _retry_at(p: Poller, fault: LinkFault, failures: int, turn: Turn) -> int | None:
    """Return when to try again, between four fifths of the pause and all of it; `None`: not with this
    socket."""
    if fault in LEFT_ALONE:
        return None
    access = Access.SHARE if holding.is_visited(p) else Access.HOLD
    first_s, longest_s = RETRY_S.get((access, fault), RETRY_DEFAULT_S)
    if access is Access.SHARE and fault is LinkFault.SILENT and failures == 1:
        first_s = FIRST_SILENCE_SHARED_S
    pause_s = min(first_s * 2 ** min(failures - 1, 16), longest_s)
    roll = (turn.chance >> 75) / (1 << 53)
    return turn.mono_ns + int(pause_s * (0.8 + 0.2 * roll) * SECOND_NS)


def others_wait(p: Poller, turn: Turn) -> Poller:
    """Return the poller after another client was seen to wait for the link that the agent has."""
    if holding.is_shared(p) or not isinstance(p.phase, Idle | Asking):
        return p  # the visit ends by itself
    p = replace(p, others=replace(p.others, waited=True))
    if p.reported is not None:  # its detail is reported now, as a heartbeat
        p = replace(p, reported=p.reported.due(turn.mono_ns))
    return asking.leave(p, max(asking.next_question_at(p), turn.mono_ns + ASIDE_NS), turn)


def duplicate(p: Poller, other: Address, turn: Turn) -> Poller:
    """Return the poller of a VM whose id `other` holds: it looks again later, or once the id is free."""
    # The destination of a migration within this host has its source's uuid until the source hands over.
    pause_ns = turn.settings.set_again_ns
    if p.process.run_state == "inmigrate":
        pause_ns = holding.look_pause_ns(p)
        p = holding.looked(p)
    p = asking.leave(p, turn.mono_ns + pause_ns, turn)
    return replace(
        p,
        link=replace(p.link, claimed=False, active=True),
        attempts=replace(p.attempts, other_address=other),
        process=replace(p.process, identity=None),
    )


def contested(p: Poller, turn: Turn) -> Poller:
    """Return the poller that checks its VM now: it may have handed over to another QEMU of this host."""
    p = replace(p, schedule=replace(p.schedule, check_at_ns=turn.mono_ns))
    if isinstance(p.phase, Away) and p.link.claimed and p.link.occupied_since_ns is None:
        return replace(p, phase=Away(turn.mono_ns))  # between two visits
    return p


def claim_freed(p: Poller, turn: Turn) -> Poller:
    """Return the poller that looks at its VM now, and soon again: another address held the VM's id."""
    return replace(p, phase=Away(turn.mono_ns), attempts=replace(p.attempts, looks=0))
