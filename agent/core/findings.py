"""What a check finds. Used by the checks of topics and of `barograph doctor`."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from agent.core.topic_commands import Command


class Level(StrEnum):
    """How bad a finding is. An error loses records, or keeps the agent from doing its work."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    code: StrEnum  # what was checked; part of the output, so it stays
    level: Level
    subject: str  # what it is about, such as a topic; "": the whole cluster, or the host
    detail: str
    hint: str = ""
    command: Command | None = None  # what an administrator can run


def worst(findings: Iterable[Finding]) -> Level:
    """Return the worst level; `ok` if there is no finding."""
    order = list(Level)
    return max((each.level for each in findings), key=order.index, default=Level.OK)
