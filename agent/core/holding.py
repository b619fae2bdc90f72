"""How a monitor is used at this moment: held, or visited and left at once. Part of `step`.

A monitor serves one client, so a link that is held keeps all others out. The agent holds one only if it may
(`access: hold`), if the kernel shows which clients wait for it, and if none has waited so far. It does not
hold the monitor of a VM that has yet to be started: the client that starts it may need this monitor.
"""

from msgspec.structs import replace

from agent.core.address import Via
from agent.core.poller import SECOND_NS, Poller
from agent.core.reading import Access
from agent.core.turn import Turn

NOT_STARTED = frozenset({"prelaunch", "inmigrate"})
"""QEMU's run states before the guest's first instruction here: a client must send `cont` or `migrate`."""

HANDED_OVER = frozenset({"finish-migrate", "postmigrate"})
"""QEMU's run states of the source of a migration, once the guest may run at the destination."""

LOOK_NS = SECOND_NS // 2
"""The pause between two visits to a VM that may start at any moment; later it grows by a fifth each time."""

LOOK_MAX_NS = 10 * SECOND_NS

MIGRATION_LOOKS = 600
"""So many visits to a VM that is being migrated here, before the pause grows: five minutes."""


def is_shared(p: Poller) -> bool:
    """Return whether the monitor is shared with other clients: the agent never holds it."""
    unseen = p.others.unseen and not p.endpoint.holds_unseen
    return p.endpoint.access is Access.SHARE or p.others.waited or unseen


def is_visited(p: Poller) -> bool:
    """Return whether a link to this monitor ends as soon as nothing is due."""
    if p.endpoint.address.via is Via.LIBVIRT:  # libvirt serves many clients
        return False
    return is_shared(p) or (p.process.mark is not None and not p.process.ran)


def is_active(run_state: str | None) -> bool:
    """Return whether a VM in this run state is the one to observe, of two with the same uuid."""
    return run_state not in NOT_STARTED and run_state not in HANDED_OVER


def look_pause_ns(p: Poller) -> int:
    """Return the pause before the next visit to a VM that has yet to be started."""
    often = MIGRATION_LOOKS if p.process.run_state == "inmigrate" else 0
    grown = min(max(p.attempts.looks - often, 0), 20)
    return min(LOOK_NS * 6**grown // 5**grown, LOOK_MAX_NS)


def looked(p: Poller) -> Poller:
    """Return the poller after one more visit to a VM that has yet to be started."""
    return replace(p, attempts=replace(p.attempts, looks=p.attempts.looks + 1))


def settle(p: Poller, turn: Turn) -> Poller:
    """Return the poller whose open link is held or is a visit, by what is known now."""
    visited = is_visited(p)
    if visited == (p.link.visit_ends_ns is not None):
        return p
    ends_ns = turn.mono_ns + turn.settings.visit_ns if visited else None
    return replace(p, link=replace(p.link, visit_ends_ns=ends_ns))


def others_unseen(p: Poller, turn: Turn) -> Poller:
    """Return the poller after the kernel did not show which clients wait at this monitor."""
    return settle(replace(p, others=replace(p.others, unseen=True)), turn)
