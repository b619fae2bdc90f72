"""How each part of the agent is, since when, and why. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Health(StrEnum):
    """How a part is. What is degraded mends itself once its cause is gone: a restart would not help."""

    STARTING = "starting"  # it has not shown yet whether it works
    OK = "ok"
    DEGRADED = "degraded"  # it does not do all it is there for
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Standing:
    """How a part is now."""

    health: Health
    why: str  # for people


@dataclass(frozen=True, slots=True)
class Component:
    """The same, and since when."""

    health: Health
    why: str
    since_ms: int


_WORST_LAST = (Health.OK, Health.STARTING, Health.DEGRADED, Health.STOPPING)


def follow(
    before: Mapping[str, Component], standings: Mapping[str, Standing], now_ms: int
) -> Mapping[str, Component]:
    """Return the components after a look; a new reason for the same health does not begin it anew."""
    return {
        name: Component(
            now.health,
            now.why,
            before[name].since_ms if name in before and before[name].health is now.health else now_ms,
        )
        for name, now in standings.items()
    }


def overall(components: Mapping[str, Component]) -> Health:
    """Return the health of the whole: that of its worst part."""
    return max((each.health for each in components.values()), key=_WORST_LAST.index, default=Health.STARTING)
