"""The health of each part of the agent: since when, why, and whether the agent is ready. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


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
"""The rest of a longer reason is cut off: a peer may have written it."""

_BEST_FIRST = (Health.OK, Health.STARTING, Health.DEGRADED, Health.STOPPING)


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
            status.why[:WHY_CHARACTERS_MAX],
            before[name].since_ms if name in before and before[name].health is status.health else now_ms,
            status.progress,
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
