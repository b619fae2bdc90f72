"""Which host this is: read once at start. Blocking: two small reads before anything runs."""

import os
import re
import socket
from dataclasses import dataclass

from agent.errors import ConfigError, Problem

_MACHINE_ID_FILE = "/etc/machine-id"

# machine-id(5): 32 lower-case hexadecimal digits; DMI's product_uuid and others write the same with dashes.
_ID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_WAY_OUT = "mount the host's /etc/machine-id and name it in host.machine_id_file, or set host.id"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """Who the host is, where its own files do not say."""

    id: str | None = None  # None: read from `machine_id_file`
    name: str | None = None  # None: the host name of this process, which in a pod is refused
    machine_id_file: str | None = None  # None: /etc/machine-id, which in a pod is refused


@dataclass(frozen=True, slots=True)
class Host:
    """The host as it stands in everything we emit."""

    id: str  # OpenTelemetry's host.id
    name: str  # OpenTelemetry's host.name


def read_host(settings: HostSettings) -> Host:
    """Return id and name of the host.

    In a Kubernetes pod the files and names at hand are the pod's, so there both must be configured.

    Raises:
        ConfigError: with every problem: unreadable, not an id, or the pod's.
    """
    problems: list[Problem] = []
    in_pod = "KUBERNETES_SERVICE_HOST" in os.environ
    host_id = settings.id
    if host_id is None:
        path = settings.machine_id_file
        if path is None and in_pod:
            problems.append(Problem("host.id", f"in a pod {_MACHINE_ID_FILE} is not the host's: {_WAY_OUT}"))
        else:
            host_id = _read_machine_id(path or _MACHINE_ID_FILE, problems)
    elif _ID.fullmatch(host_id.lower()) is None:
        problems.append(
            Problem("host.id", f"{host_id!r:.100} is not an id: 32 hexadecimal digits, or a uuid")
        )
    name = settings.name
    if name is None and in_pod:
        said = "in a pod the host name is the pod's: set it, from spec.nodeName through the downward API"
        problems.append(Problem("host.name", said))
    elif name is None:
        name = socket.gethostname()
    if name is not None and (not name.strip() or not name.isprintable()):
        problems.append(Problem("host.name", f"{name!r:.100} is not a name"))
    if problems or host_id is None or name is None:
        raise ConfigError(problems)
    return Host(id=host_id.lower(), name=name.strip())


def _read_machine_id(path: str, problems: list[Problem]) -> str | None:
    try:
        with open(path, encoding="ascii") as file:
            text = file.read(100).strip().lower()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem(path, f"cannot read the host's id: {error}; {_WAY_OUT}"))
        return None
    if _ID.fullmatch(text) is None:
        said = f"holds {text!r}" if text else "is empty"
        problems.append(Problem(path, f"{said}, which is not an id of 32 hexadecimal digits; {_WAY_OUT}"))
        return None
    return text
