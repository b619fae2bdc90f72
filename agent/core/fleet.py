"""Seen sockets x running pollers -> whom to start and whom to tell; and who may call a VM its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.core.events import PathMissing, PathSeen
from agent.core.reading import SocketMark, VmId


@dataclass(frozen=True, slots=True)
class Start:
    """A socket nobody watches yet."""

    path: str


@dataclass(frozen=True, slots=True)
class Tell:
    """News of the path for the poller that watches it."""

    path: str
    event: PathSeen | PathMissing


def compare(
    running: Mapping[str, SocketMark | None], seen: Mapping[str, SocketMark]
) -> tuple[Start | Tell, ...]:
    """Return what a scan asks for, in the order of the paths.

    Args:
        running: the paths watched, and the socket each poller was last told of; `None`: told missing.
        seen: the sockets found now.
    """
    changes: list[Start | Tell] = []
    for path in sorted(running.keys() | seen.keys()):
        mark = seen.get(path)
        if path not in running:
            changes.append(Start(path))
        elif mark is None:
            if running[path] is not None:
                changes.append(Tell(path, PathMissing()))
        elif running[path] != mark:
            changes.append(Tell(path, PathSeen(mark)))
    return tuple(changes)


@dataclass(frozen=True, slots=True)
class Claims:
    """Which path each VM id belongs to: the first that claimed it and has not let go."""

    holders: Mapping[VmId, str] = field(default_factory=dict[VmId, str])

    def claim(self, id: VmId, path: str) -> tuple["Claims", str | None]:
        """Return the claims with `path` holding `id`, or unchanged and the other path that holds it."""
        holder = self.holders.get(id)
        if holder is not None and holder != path:
            return self, holder
        return Claims({**self.disclaim(path).holders, id: path}), None

    def disclaim(self, path: str) -> "Claims":
        """Return the claims without those of `path`."""
        if path not in self.holders.values():
            return self
        return Claims({id: holder for id, holder in self.holders.items() if holder != path})
