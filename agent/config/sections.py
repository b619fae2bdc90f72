"""The sections of the configuration, but for the sinks: every setting with its type, default and description.

Checks across settings are in `contradictions.py`; the settings that each part of the agent receives are in
`settings.py`.
"""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

from agent.config.types import (
    AbsolutePath,
    AllowedHosts,
    Identifier,
    Listen,
    LogFormat,
    LogLevel,
    Names,
    NotBool,
    OnExit,
    Section,
    SpoolMode,
    Takes,
    TextOr,
)
from agent.config.units import (
    DURATION_PATTERN,
    Duration,
    Size,
    WrittenDuration,
    WrittenSize,
    parse_duration,
    within,
)
from agent.core.ownership import INTERVAL_MAX_S
from agent.core.reading import Access, IntervalPolicy
from agent.discovery.globs import MonitorGlob, mistakes


def _whole_seconds(interval: Duration) -> Duration:
    seconds, rest = divmod(interval.ns, 1_000_000_000)
    if rest or not 1 <= seconds <= INTERVAL_MAX_S:
        raise ValueError(
            f"{interval} is not a polling interval; QEMU accepts whole seconds from 1s to {INTERVAL_MAX_S}s, "
            "e.g. 10s"
        )
    return interval


def _interval_or_off(written: object) -> Duration | None:
    if written is False or written == "off":  # YAML reads `off` as false
        return None
    interval = parse_duration(written)
    if interval.ns % 1_000_000_000 or not 10**9 <= interval.ns <= 86_400 * 10**9:
        raise ValueError(f"{interval} is not valid; use whole seconds from 1s to 1d, or off")
    return interval


def _glob(glob: str) -> str:
    return _checked(glob, MonitorGlob(glob))


def _pattern(pattern: str) -> str:
    return _checked(pattern, MonitorGlob("/any", None, pattern))


def _checked(written: str, monitor: MonitorGlob) -> str:
    if wrong := "; ".join(mistakes(monitor)):
        raise ValueError(wrong)
    return written


def _plain_globs(written: object) -> object:
    """Take a plain string as a glob."""
    return {"glob": written} if isinstance(written, str) else written


Glob = Annotated[str, AfterValidator(_glob), Takes("glob")]
PollingInterval = Annotated[WrittenDuration, AfterValidator(_whole_seconds)]


class MonitorConfig(Section):
    """Where the monitors of VMs are."""

    glob: Glob = Field(
        description=(
            "Absolute path of monitor sockets, with `*`, `?` and `[...]` within a name and `**` for any "
            "number of directories."
        )
    )
    access: Access | None = Field(
        default=None,
        description=(
            "`hold` keeps the link open and receives events, until another client waits for the monitor. "
            "`share` disconnects within 100 ms. Default: `share` for the monitors of Proxmox, Ganeti and "
            "NeonVM, and where the agent cannot see other clients (in a pod), else `hold`."
        ),
    )
    pattern: Annotated[str, AfterValidator(_pattern), Takes("regular expression")] | None = Field(
        default=None,
        description=(
            "Regular expression searched for in the path. Its named groups become labels of the VM; the "
            "group `name` is the VM's name where QEMU reports none."
        ),
    )
    interval: PollingInterval | None = Field(
        default=None,
        description="Polling interval to set for these VMs. Default: `polling.interval`.",
    )
    policy: IntervalPolicy | None = Field(
        default=None,
        description="Who controls the polling intervals of these VMs. Default: `polling.policy`.",
    )


Monitors = Annotated[
    tuple[Annotated[MonitorConfig, TextOr(_plain_globs)], ...], Names, Takes("list of globs or sections")
]


IntervalOrOff = Annotated[
    Duration | None,
    BeforeValidator(_interval_or_off),
    PlainSerializer(lambda interval: "off" if interval is None else str(interval)),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": DURATION_PATTERN}, {"enum": ["off", False]}]}),
    Takes("duration, 1s to 1d, or `off`"),
]


class PollingConfig(Section):
    """How VMs are polled."""

    interval: PollingInterval = Field(
        default=Duration(10 * 10**9),
        description=(
            "Polling interval that the agent sets in QEMU where `policy` allows it, in whole seconds from "
            "1s. Nova and KubeVirt set 10 s, too."
        ),
    )
    policy: IntervalPolicy = Field(
        default=IntervalPolicy.FILL,
        description=(
            "Who controls the polling interval of a VM. `fill`: the agent sets it only where it is 0, and "
            "never overrides another value. `enforce`: the agent sets it everywhere. `observe`: the agent "
            "never sets it."
        ),
    )
    on_exit: OnExit | None = Field(
        default=None,
        description=(
            "What to do at a clean exit with the intervals that the agent changed: `give-back` restores "
            "them, `keep` leaves them for the next start. Default: `keep` where the spool is on disk, so "
            "that the restart of a fleet does not disable and enable polling everywhere; else `give-back`."
        ),
    )
    recheck: Annotated[WrittenDuration, within("1s", "1h")] = Field(
        default=Duration(30 * 10**9),
        description=(
            "How often the interval and the run state of a VM are read again, in case another client changed "
            "them. Also how often a VM in state `off` is checked."
        ),
    )
    set_again: Annotated[WrittenDuration, within("1s", "1h")] = Field(
        default=Duration(60 * 10**9),
        description=(
            "How long to wait before setting an interval again that another client has changed back. If it "
            "is changed back a second time, the agent leaves it alone."
        ),
    )
    stall_deadline: Annotated[WrittenDuration, within("1s", "365d")] | None = Field(
        default=None,
        description=(
            "A guest without an update for this long is `stalled`. Only time in which the VM runs counts. "
            "Must be longer than the interval. Default: three intervals, or the interval plus 5 s if that "
            "is longer."
        ),
    )
    heartbeat: Annotated[WrittenDuration, within("1s", "1d")] = Field(
        default=Duration(300 * 10**9),
        description=(
            "How often an unchanged state is repeated. With 5 minutes, the last ten minutes of the states "
            "topic contain the current state of every VM."
        ),
    )


class MemoryConfig(Section):
    """The memory of the host and of its VMs, as the host sees it."""

    interval: IntervalOrOff = Field(
        default=Duration(60 * 10**9),
        description=(
            "How often the memory of the host and of its VMs, as the host sees it, is read and recorded, in "
            "whole seconds. `off` disables it."
        ),
    )


class HostConfig(Section):
    """Identity of this host. In a pod or a container, `name` and one of `id` and `id_file` are required."""

    id: Identifier | None = Field(
        default=None, description="ID of the host. Default: the content of `host.id_file`."
    )
    id_file: AbsolutePath = Field(
        default="/etc/machine-id",
        description=(
            "File with the ID of the host. The default is the machine-id, which every host with systemd "
            "has. In a pod, the path where the host's file is mounted."
        ),
    )
    name: Identifier | None = Field(default=None, description="Name of the host. Default: its hostname.")


class QmpConfig(Section):
    """Links to monitors."""

    greeting_deadline: Annotated[WrittenDuration, within("50ms", "10s")] = Field(
        default=Duration(10**9),
        description=(
            "How long to wait for the greeting of a monitor. QEMU sends it within 1 ms; a longer wait blocks "
            "the monitor's owner."
        ),
    )
    reading_deadline: Annotated[WrittenDuration, within("50ms", "60s")] = Field(
        default=Duration(10**9),
        description=(
            "How long to wait for an answer before the VM is `unreachable`. The link stays open, and a late "
            "answer ends that state. Must be shorter than the stall deadline."
        ),
    )
    connections_opened_at_once: Annotated[int, Field(ge=1, le=1024), NotBool] = Field(
        default=32,
        description="How many links are opened at the same time, which limits the load of a start.",
    )
    readings_at_once: Annotated[int, Field(ge=1, le=10_000), NotBool] = Field(
        default=128,
        description=(
            "How many readings are in flight at the same time, which limits the load after the host was "
            "suspended. A reading is no longer counted after 50 ms without an answer."
        ),
    )


class DiscoveryConfig(Section):
    """How monitors are found."""

    rescan: Annotated[WrittenDuration, within("100ms", "1h")] = Field(
        default=Duration(10 * 10**9),
        description=(
            "How often the globs are evaluated again. Changes are found at once where the kernel reports "
            "them; this is for file systems where it does not (network file systems, some mounts)."
        ),
    )


class BufferConfig(Section):
    """Queues in memory."""

    size: Annotated[WrittenSize, within("64KiB", "64GiB")] = Field(
        default=Size(64 * 2**20),
        description=(
            "Size of a queue in memory. Without a spool, each sink has such a queue; with a spool, there is "
            "one while the disk cannot be written. When it is full, the oldest records are dropped and "
            "counted: memory records first, then samples, states last. 64 MiB hold about 50 minutes of 100 "
            "VMs at 5 s."
        ),
    )


class SpoolConfig(Section):
    """The queues on disk for Kafka and OTLP's logs, and what the agent remembers about each VM."""

    mode: SpoolMode = Field(
        default=SpoolMode.AUTO,
        description=(
            "`disk`: in the state directory; a kill, a restart or a long outage of Kafka loses nothing. "
            "`none`: in memory (`buffer`); each start begins without history. `auto`: `disk` where Kafka or "
            "OTLP is configured, else `none`."
        ),
    )
    size: Annotated[WrittenSize, within("32MiB", "1TiB")] = Field(
        default=Size(2**30),
        description=(
            "How much of the file may be in use. At this limit, records are dropped and counted: the oldest "
            "memory records first, then samples, states last. Includes what the agent remembers about VMs, "
            "about 1 KiB each. 1 GiB holds some 7,000,000 samples: 100 VMs at 10 s for 8 days, 1,000 for 20 "
            "hours."
        ),
    )
    age: Annotated[WrittenDuration, within("1m", "365d")] = Field(
        default=Duration(7 * 86_400 * 10**9),
        description=(
            "Records queued for longer are dropped and counted. Keep it below the retention of the topics: "
            "Kafka deletes older records as soon as they arrive."
        ),
    )


class WebConfig(Section):
    """Probes, metrics and a status page over HTTP. Read-only."""

    enabled: bool = Field(default=True, description="Whether to serve HTTP.")
    listen: Listen = Field(
        default="127.0.0.1:19464",
        description=(
            "Address to listen on. Every client that can connect can read the names and statistics of the "
            "VMs, so the default is loopback only; in a pod use `0.0.0.0:19464`. Port 0 means any free "
            "port, which is logged. A second agent on a host needs a port of its own."
        ),
    )
    allowed_hosts: AllowedHosts = Field(
        default=(),
        description=(
            "Other host names that clients may use for the server, such as that of a proxy: "
            "`*.example.net` means all names below it, `*` all names. Addresses, names without a dot, the "
            "names of this host and of `web.listen` are always allowed. Other names in `Host` are refused "
            "(421), since a website could make them resolve to the agent (DNS rebinding)."
        ),
    )


class LogConfig(Section):
    """The agent's log, on stderr."""

    level: LogLevel = Field(
        default=LogLevel.INFO, description="Least severe level to log. Changes are logged, samples are not."
    )
    format: LogFormat = Field(
        default=LogFormat.CONSOLE,
        description="`console` for people, `json` (one object per line) for log collectors.",
    )


class ShutdownConfig(Section):
    """How the agent exits."""

    deadline: Annotated[WrittenDuration, within("100ms", "10m")] = Field(
        default=Duration(10 * 10**9),
        description=(
            "How long an exit may take to restore intervals and deliver queued records. Keep it shorter "
            "than the limits of systemd (90 s) and Kubernetes (30 s)."
        ),
    )
