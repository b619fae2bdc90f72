"""The memory of cgroups of version 2. One `Cgroups` is one look: no file is read twice in it.

Sources: Linux Documentation/admin-guide/cgroup-v2.rst and accounting/psi.rst; the kubelet's names of pods'
cgroups, pkg/kubelet/cm/pod_container_manager_linux.go, GetPodContainerName, and libcontainer's ExpandSlice.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from agent.core.numbers import EXACT_MAX
from agent.core.psi import Psi, parse_psi
from agent.core.reading import CgroupMemory
from agent.host.files import read_at

ROOT = "/sys/fs/cgroup"
DEPTH_MAX = 32
"""Cgroups between one and the root: the rest is ignored."""

PATH_MAX = 1024
"""Characters of a path that are used: a longer one is ignored."""

ENTRIES_MAX = 20_000
"""Directory entries that a search for pods looks at."""

_PODS_DEPTH = (
    4  # kubelet.slice / kubelet-kubepods.slice / kubelet-kubepods-burstable.slice / ...-podUID.slice
)
_FILE_MAX_BYTES = 4096
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SIZE = re.compile(rb"\d{1,20}")
_POD = re.compile(r"(.*-)?pod(?P<uid>[0-9a-f]{8}([-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})(\.slice)?")
"""podUID, or kubepods-burstable-podUID.slice with underscores in the uid."""

_WITH_PODS = re.compile(r"kube|burstable|besteffort")


@dataclass(frozen=True, slots=True)
class _Figures:
    """The files of one cgroup."""

    current_bytes: int
    swap_bytes: int | None
    pressure: Psi | None


class Cgroups:
    """One look at the cgroups below `root`; made again for each. Call it in a thread."""

    def __init__(self, root: str = ROOT) -> None:
        self._root = root
        self._figures: dict[str, _Figures | None] = {}
        self._limits: dict[str, int | None] = {}
        self._pods: Mapping[str, str] | None = None

    def memory(self, path: str, now_ms: int) -> CgroupMemory | None:
        """Return the memory of the cgroup at `path`, or of the next one above that accounts memory.

        `None`: there is none, or not a hierarchy of version 2. The kernel accounts no memory at its root, but
        the root of a container is a cgroup like others.
        """
        above = _upwards(path)
        for place, each in enumerate(above):
            figures = self._figures_of(each)
            if figures is None:
                if place == 0 and not self._is_there(each):
                    return None  # another hierarchy than the one that the path is from
                continue
            limits = [limit for limit in map(self._limit_of, above[place:]) if limit is not None]
            return CgroupMemory(
                path=f"/{each}",
                current_bytes=figures.current_bytes,
                limit_bytes=min(limits, default=None),
                swap_bytes=figures.swap_bytes,
                pressure=figures.pressure,
                observed_at_ms=now_ms,
            )
        return None

    def limit_bytes(self, path: str) -> int | None:
        """Return the smallest limit of the cgroup at `path` and those above; `None`: there is none.

        The root has a limit where it is that of a container.
        """
        return min(
            (limit for limit in map(self._limit_of, _upwards(path)) if limit is not None), default=None
        )

    def pod(self, uid: str) -> str | None:
        """Return the path of the cgroup of the pod with this uid; `None`: not found."""
        if self._pods is None:
            self._pods = self._find_pods()
        return self._pods.get(uid)

    def _find_pods(self) -> Mapping[str, str]:
        pods: dict[str, str] = {}
        places, entries = [""], 0
        for _ in range(_PODS_DEPTH):
            below: list[str] = []
            for place in places:
                try:
                    with os.scandir(f"{self._root}/{place}") as found:
                        for entry in found:
                            entries += 1
                            if entries > ENTRIES_MAX:
                                return pods
                            path = f"{place}/{entry.name}" if place else entry.name
                            if pod := _POD.fullmatch(entry.name):
                                pods.setdefault(pod["uid"].replace("_", "-"), path)
                            elif _WITH_PODS.search(entry.name) and entry.is_dir(follow_symlinks=False):
                                below.append(path)
                except OSError:
                    continue
            places = below
        return pods

    def _figures_of(self, path: str) -> _Figures | None:
        if path not in self._figures:
            self._figures[path] = self._read_figures(path)
        return self._figures[path]

    def _read_figures(self, path: str) -> _Figures | None:
        current = _size(self._read(path, "memory.current"))
        if current is None:
            return None
        return _Figures(
            current,
            _size(self._read(path, "memory.swap.current")),
            parse_psi(self._read(path, "memory.pressure")),
        )

    def _limit_of(self, path: str) -> int | None:
        if path not in self._limits:
            self._limits[path] = _size(self._read(path, "memory.max"))
        return self._limits[path]

    def _is_there(self, path: str) -> bool:
        return os.path.isdir(f"{self._root}/{path}")

    def _read(self, path: str, name: str) -> bytes:
        try:
            directory = os.open(f"{self._root}/{path}", _DIRECTORY)
        except OSError:
            return b""
        try:
            return read_at(directory, name, _FILE_MAX_BYTES)
        except OSError:
            return b""
        finally:
            os.close(directory)


def _upwards(path: str) -> list[str]:
    """Return the paths of a cgroup and of those above it, up to the root, which is ""; none: not usable."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or len(parts) > DEPTH_MAX or len(path) > PATH_MAX:
        return []
    return ["/".join(parts[:depth]) for depth in range(len(parts), -1, -1)]


def _size(text: bytes) -> int | None:
    """Return a number of bytes; `None`: "max", or no such file."""
    number = _SIZE.fullmatch(text.strip())
    return int(number[0]) if number is not None and int(number[0]) <= EXACT_MAX else None
