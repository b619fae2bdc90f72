"""The health of each part of the agent: since when, why, and whether the agent is ready. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from agent.core.reading import State
from agent.core.wording import counted, printable


class Health(StrEnum):
    """The health of one component. A degraded one recovers without a restart, once its cause is gone."""

    STARTING = "starting"  # it has not shown yet whether it works
    OK = "ok"
    DEGRADED = "degraded"  # it does not do everything it is there for
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Status:
    """What a component reports of itself now."""

    health: Health
    why: str  # for people
    progress: str = ""  # what changes while `why` stays, such as the length of a queue


@dataclass(frozen=True, slots=True)
class Component:
    """The newest status of a component, and since when it has this health."""

    health: Health
    why: str
    since_ms: int
    progress: str = ""

    @property
    def text(self) -> str:
        """All of it in one text."""
        return "; ".join(filter(None, (self.why, self.progress)))


AGENT = "agent"
"""The component that stands for the whole agent while it stops."""

WHY_CHARACTERS_MAX = 400
"""The rest of a longer text is cut off, and what is not printable is replaced: a peer may have written it."""

_BEST_FIRST = (Health.OK, Health.STARTING, Health.DEGRADED, Health.STOPPING)


@dataclass(frozen=True, slots=True)
class Found:
    """What discovery has found: monitors and domains together, and the libvirts that they come from."""

    watched: int
    refused: int
    excluded: int
    libvirts: int
    libvirt_problems: Mapping[str, str]  # by URI


_LOOKING = Status(Health.STARTING, "looking for monitors")


def of_discovery(found: Found | None) -> Status:
    """Return the status of discovery; `None`: the first scan is not complete."""
    if found is None:
        return _LOOKING
    for uri, problem in found.libvirt_problems.items():
        return Status(Health.DEGRADED, f"{uri}: {problem}")
    parts = [f"{counted(found.watched, 'monitor')} watched", f"{found.refused} refused"]
    if found.excluded:
        parts.append(f"{found.excluded} excluded")
    if found.libvirts:
        parts.append(f"{counted(found.libvirts, 'libvirt daemon')} connected")
    return Status(Health.OK, ", ".join(parts))


def of_collection(states: Sequence[State] | None) -> Status:
    """Return the status of collection; `None`: the first scan is not complete.

    A VM that does not report is no fault of the agent, so this is never degraded.
    """
    if states is None:
        return _LOOKING
    return Status(Health.OK, f"{states.count(State.REPORTING)} of {counted(len(states), 'VM')} reporting")


def of_spool(*, is_used: bool, problem: str | None) -> Status:
    """Return the status of the spool; `problem`: why it does not keep all records on disk."""
    if not is_used:
        return Status(Health.OK, "no spool, records are queued in memory")
    return Status(Health.OK, "on disk") if problem is None else Status(Health.DEGRADED, problem)


def update(
    before: Mapping[str, Component], statuses: Mapping[str, Status], now_ms: int, *, stopping: bool
) -> Mapping[str, Component]:
    """Return the components with their newest status, and `AGENT` where the agent is stopping.

    `since_ms` moves with the health alone: another reason for the same health does not change it.
    """
    if stopping:
        statuses = {**statuses, AGENT: Status(Health.STOPPING, "shutting down")}
    return {
        name: Component(
            status.health,
            printable(status.why, WHY_CHARACTERS_MAX),
            before[name].since_ms if name in before and before[name].health is status.health else now_ms,
            printable(status.progress, WHY_CHARACTERS_MAX),
        )
        for name, status in statuses.items()
    }


def overall(components: Mapping[str, Component]) -> Health:
    """Return the health of the agent: that of its worst component."""
    return max((each.health for each in components.values()), key=_BEST_FIRST.index, default=Health.STARTING)


def problem(components: Mapping[str, Component]) -> str | None:
    """Return what is degraded and why, as the agent's own state gives it; `None`: nothing is.

    Without `progress`: a longer queue is no other problem.
    """
    degraded = [f"{name}: {each.why}" for name, each in components.items() if each.health is Health.DEGRADED]
    return "; ".join(degraded) or None


def not_ready(missing: Iterable[str | None], *, stopping: bool) -> Sequence[str]:
    """Return the reasons why the agent is not ready; empty: it is.

    Args:
        missing: what each requirement lacks; `None`: nothing.
        stopping: whether the agent is shutting down, which is then the only reason.
    """
    return ["stopping"] if stopping else [each for each in missing if each is not None]
