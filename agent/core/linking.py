"""The way to a VM: what it means that a link is there, or is not, and when to try again."""

from msgspec.structs import replace

from agent.core import announcing, device, epochs, ownership
from agent.core.events import Away, CloseLink, Effect, Forget, Idle, Opening
from agent.core.ownership import IntervalChange, Ownership
from agent.core.poller import SECOND_NS, Poller, PollSettings
from agent.core.reading import Access, Now, SocketMark, State
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


def opened(
    p: Poller,
    mark: SocketMark,
    change: IntervalChange | None,
    now: Now,
    settings: PollSettings,
    effects: list[Effect],
) -> Poller:
    """Take in a link to the process `mark`; `change` is the recorded change of its interval."""
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
        return left_for_good(p, effects)
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
        if change is not None and change.mark == mark:
            own = ownership.recall(change, ours_s=settings.interval_s)
        p = device.new(replace(p, ownership=own), now, guest_reset=True)
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


def left_for_good(p: Poller, effects: list[Effect]) -> Poller:
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


def failed(p: Poller, fault: LinkFault, detail: str, now: Now, chance: int, settings: PollSettings) -> Poller:
    """Take in that there is no link any more, or none yet."""
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
        other_address=None,
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
