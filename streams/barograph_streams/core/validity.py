"""Which states are valid, and what a VM or a host is by them: "What silent means" in docs/contract.md.

A state is void once `next_heartbeat_by_ms` has passed, which no record announces: timers show it. Times are
those of the job's clock, in Unix milliseconds.
"""

from enum import StrEnum

from msgspec import Struct

from barograph_streams.core.states import GONE, REPORTING

ALLOWANCE_MS = 10_000
"""For the difference between the clocks and for the delivery."""

GRACE_MS = 60_000
"""How long nothing is judged after a state that is void as it arrives, or a timer that fires late.

The agent or the job has a backlog then, and newer states may follow."""

VIEWS_KEPT = 8
"""Of a VM, the newest by arrival: a host and a path each. During a migration there are two."""


class Condition(StrEnum):
    """What is known of a VM or a host."""

    REPORTING = "reporting"  # the VM's guest gives statistics; of a host: its agent runs
    SILENT = "silent"  # the agent works, and says why no statistics arrive
    VOID = "void"  # its newest state is void: look at the host, which may be dark
    DARK = "dark"  # said of a host: the host or the agent is down, or cut off from Kafka
    GONE = "gone"  # the VM has ended


class View(Struct, array_like=True, frozen=True):
    """The newest state of a VM in one agent, or of an agent."""

    run: str
    sequence: int
    state: str
    reason: str
    since_ms: int
    void_at_ms: int  # by the job's clock, with the allowance

    def is_valid(self, now_ms: int) -> bool:
        """Whether it holds. `gone` is the last state of a VM, and is never void (rule 8)."""
        return self.state == GONE or now_ms < self.void_at_ms


class Finding(Struct, array_like=True, frozen=True):
    """What a VM or a host is, and the state that shows it."""

    condition: Condition
    state: str
    reason: str  # empty for a host
    since_ms: int  # of the state


def place(views: dict[str, View], name: str, view: View) -> bool:
    """Put a state in its place. Return False if it has arrived before, or a newer one of its run has."""
    known = views.get(name)
    if known is not None and known.run == view.run and view.sequence <= known.sequence:
        return False
    views.pop(name, None)
    views[name] = view
    while len(views) > VIEWS_KEPT:
        del views[next(iter(views))]
    return True


def of_vm(views: dict[str, View], now_ms: int) -> Finding:
    """Return what a VM is by its states."""
    open_views = [view for view in views.values() if view.state != GONE]
    valid = [view for view in open_views if view.is_valid(now_ms)]
    for view in reversed(valid):
        if view.state == REPORTING:
            return _finding(Condition.REPORTING, view)
    if valid:
        return _finding(Condition.SILENT, valid[-1])
    if open_views:
        return _finding(Condition.VOID, open_views[-1])
    return _finding(Condition.GONE, views[next(reversed(views))])


def of_host(views: dict[str, View], now_ms: int) -> Finding:
    """Return what a host is by the newest state of its agent."""
    view = views[next(reversed(views))]
    return _finding(Condition.REPORTING if view.is_valid(now_ms) else Condition.DARK, view)


def _finding(condition: Condition, view: View) -> Finding:
    return Finding(condition, view.state, view.reason, view.since_ms)


def next_judgment_ms(views: dict[str, View], now_ms: int, judged_from_ms: int) -> int | None:
    """Return when to judge again: a state becomes void, or a grace ends; `None`: never."""
    due = [view.void_at_ms for view in views.values() if view.state != GONE and view.void_at_ms > now_ms]
    if judged_from_ms > now_ms:
        due.append(judged_from_ms)
    return min(due, default=None)
