"""Who the VM is, what balloon it has, and what is to become of its interval."""

from zlib import crc32

from msgspec.structs import replace

from agent.core import epochs, ownership, pacing
from agent.core.epochs import History
from agent.core.events import Effect, Forget, Idle, Introduced
from agent.core.ownership import Ownership
from agent.core.poller import SECOND_NS, Poller, PollSettings
from agent.core.reading import Balloon, Now, State, VmId, VmIdentity


def introduced(
    p: Poller, event: Introduced, now: Now, settings: PollSettings, effects: list[Effect]
) -> Poller:
    """Take in who the VM is, and all that came with it."""
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
    return ran(found(p, event.balloon_path, event.interval_s, now, settings, effects), event.run_state, now)


def found(
    p: Poller,
    balloon_path: str | None,
    interval_s: int | None,
    now: Now,
    settings: PollSettings,
    effects: list[Effect],
) -> Poller:
    """Take in what balloon there is and what its interval is, and decide about the interval."""
    if p.balloon_path is not None and balloon_path != p.balloon_path:
        p = replace(new(p, now, guest_reset=False), ownership=Ownership(), rebooted=False)
        if p.greeted is not None:
            effects.append(Forget(p.greeted))
    if balloon_path is None or interval_s is None:
        return replace(p, balloon_path=None, interval_s=0, set_to_s=None, pace=None)
    p = _interval_read(p, interval_s, now)
    if interval_s != p.interval_s or p.pace is None:
        p = paced(replace(p, interval_s=interval_s), now, kicked=False)
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
        set_at_ns = now.mono_ns + int(settings.spread_ns * _place(str(p.address)))
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


def new(p: Poller, now: Now, *, guest_reset: bool) -> Poller:
    """Begin with a balloon of which nothing has been read; `guest_reset`: its counters began anew, too."""
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


def paced(p: Poller, now: Now, *, kicked: bool) -> Poller:
    """Begin anew with an interval; `kicked`: it was 0, and QEMU asks the guest at once."""
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


def ran(p: Poller, run_state: str, now: Now) -> Poller:
    """Take in the run state; what it was until now is told by the clocks."""
    if run_state == p.run_state:
        return p
    if run_state != "running" and p.pace is not None:
        # An update may have come just before the VM stopped: one more reading, then none.
        p = replace(p, pace=pacing.read_at(p.pace, p.running.read(now.mono_ns)))
    return replace(p, run_state=run_state)
