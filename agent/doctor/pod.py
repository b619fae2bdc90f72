"""Looks at the pod that this command runs in, for `barograph doctor`. Blocks: call it in a thread."""

import socket
from collections.abc import Sequence
from pathlib import Path

from agent.core.doctor.kubernetes import Directory, PodFacts
from agent.discovery.globs import has_wildcard
from agent.host.mounts import mount_of

_TOKEN = "var/run/secrets/kubernetes.io/serviceaccount/token"
_STATUS_MAX_BYTES = 16 * 1024
# The kubelet's for an emptyDir, containerd's for a VOLUME of the image. CRI-O makes the latter in a layer.
_OF_PODS = ("/volumes/kubernetes.io~empty-dir/", "/io.containerd.grpc.v1.cri/containers/")


def look_at_pod(
    host_name: str, id_file: str | None, globs: Sequence[str], state_directory: str, root: Path = Path("/")
) -> PodFacts:
    """Return what the pod shows.

    Args:
        host_name: `host.name`.
        id_file: the file with the ID of the host; `None`: `host.id` is set.
        globs: of the monitors.
        state_directory: its path.
        root: the root of the file system.
    """
    return PodFacts(
        pod_name=socket.gethostname(),
        host_name=host_name,
        id_file=None if id_file is None else _directory(id_file, root),
        monitors=[_directory(each, root) for each in dict.fromkeys(map(fixed_part, globs))],
        state=_directory(state_directory, root),
        has_token=(root / _TOKEN).exists(),
        capabilities=_capabilities(root),
    )


def fixed_part(glob: str) -> str:
    """Return the directory at which a glob begins to match."""
    parts: list[str] = []
    for part in glob.split("/")[:-1]:
        if has_wildcard(part):
            break
        parts.append(part)
    return "/".join(parts) or "/"


def _directory(path: str, root: Path) -> Directory:
    mount = mount_of(path, str(root / "proc/self/mountinfo"))
    if mount is None:
        return Directory(path, "")
    return Directory(path, mount.type, ends_with_pod=any(each in mount.root for each in _OF_PODS))


def _capabilities(root: Path) -> int | None:
    try:
        with (root / "proc/self/status").open("rb") as file:
            lines = file.read(_STATUS_MAX_BYTES).splitlines()
        return next(int(line.split()[1], 16) for line in lines if line.startswith(b"CapEff:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
