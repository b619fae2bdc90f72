"""Commits of the spool: how long records gather before one, and when a failed one is retried.

Records gather so that many VMs cause some ten commits a second instead of one for each record. Below a
certain rate they gather longer, since a short pause would only cost the disk more commits; once enough
records are pending they do not wait at all. A kill loses what is not committed yet, so the pauses are part of
the 500 ms within which an update must be safe: finding the update takes up to 250 ms while the cadence is not
known (core/pacing.py), and the commit some 10 ms.
"""

from dataclasses import dataclass, replace

from agent.core.poller import SECOND_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class GatherSettings:
    """The pauses before a commit and between retries."""

    pause_ns: int = SECOND_NS // 10
    slow_pause_ns: int = SECOND_NS // 5  # with fewer than `few_records_per_s`
    few_records_per_s: float = 200.0
    enough_records: int = 500  # do not wait for the pause
    first_retry_ns: int = SECOND_NS
    longest_retry_ns: int = 30 * SECOND_NS


@dataclass(frozen=True, slots=True)
class Gathering:
    """What decides when the next commit is due. Monotonic time."""

    pause_ns: int  # before the next commit
    committed_at_ns: int  # the last commit, or the start
    pending_since_ns: int | None = None  # None: nothing to commit
    failures: int = 0  # in a row
    retry_at_ns: int = 0  # no commit before


@dataclass(frozen=True, slots=True)
class Commit:
    """Commit everything that is pending now."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until an instant, or until enough records are pending; `None`: until something is pending."""

    until_ns: int | None


def start(*, now_ns: int, settings: GatherSettings) -> Gathering:
    """Return the state of a spool that has just started."""
    return Gathering(settings.pause_ns, now_ns)


def arrived(gathering: Gathering, *, now_ns: int) -> Gathering:
    """There is something to commit. Only the first call since the last commit has an effect."""
    return (
        gathering if gathering.pending_since_ns is not None else replace(gathering, pending_since_ns=now_ns)
    )


def next_action(
    gathering: Gathering, *, records: int, now_ns: int, settings: GatherSettings
) -> Commit | Wait:
    """Return what to do now, with `records` of them pending."""
    if gathering.pending_since_ns is None:
        return Wait(None)
    due_ns = max(gathering.pending_since_ns, gathering.retry_at_ns)
    if records < settings.enough_records:
        due_ns += gathering.pause_ns
    return Commit() if now_ns >= due_ns else Wait(due_ns)


def begun(gathering: Gathering) -> Gathering:
    """A commit of everything pending has begun; what arrives from now on belongs to the next one."""
    return replace(gathering, pending_since_ns=None)


def committed(gathering: Gathering, *, records: int, now_ns: int, settings: GatherSettings) -> Gathering:
    """The commit succeeded. The rate of records since the previous commit decides the next pause."""
    per_s = records * SECOND_NS / max(now_ns - gathering.committed_at_ns, SECOND_NS // 1000)
    few = per_s < settings.few_records_per_s
    pause_ns = settings.slow_pause_ns if few else settings.pause_ns
    return replace(gathering, pause_ns=pause_ns, committed_at_ns=now_ns, failures=0, retry_at_ns=0)


def failed(gathering: Gathering, *, now_ns: int, settings: GatherSettings) -> Gathering:
    """The commit failed. Retry after a pause that doubles up to a limit."""
    pause_ns = min(settings.first_retry_ns << min(gathering.failures, 16), settings.longest_retry_ns)
    return replace(gathering, failures=gathering.failures + 1, retry_at_ns=now_ns + pause_ns)
