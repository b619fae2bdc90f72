"""The sections of the configuration, but for the sinks: every setting with its type, default and description.

Checks across settings are in `contradictions.py`; the settings that each part of the agent receives are in
`settings.py`.
"""

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from agent.config.types import (
    AbsolutePath,
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
from agent.config.units import Duration, Size, WrittenDuration, WrittenSize, within
from agent.core.ownership import INTERVAL_MAX_S
from agent.core.reading import Access, IntervalPolicy
from agent.discovery.settings import MonitorGlob, mistakes
from agent.libvirt.settings import mistakes as uri_mistakes


def _whole_seconds(interval: Duration) -> Duration:
    seconds, rest = divmod(interval.ns, 1_000_000_000)
    if rest or not 1 <= seconds <= INTERVAL_MAX_S:
        raise ValueError(
            f"{interval}: QEMU takes whole seconds from 1s to {INTERVAL_MAX_S}s: write e.g. 1s or 10s"
        )
    return interval


def _glob(glob: str) -> str:
    return _good(glob, MonitorGlob(glob))


def _pattern(pattern: str) -> str:
    return _good(pattern, MonitorGlob("/good", None, pattern))


def _good(written: str, monitor: MonitorGlob) -> str:
    if wrong := "; ".join(mistakes(monitor)):
        raise ValueError(wrong)
    return written


def _plain_globs(written: object) -> object:
    """A plain string is a glob."""
    return {"glob": written} if isinstance(written, str) else written


class MonitorConfig(Section):
    """Where monitors are."""

    glob: Annotated[str, AfterValidator(_glob), Takes("glob")] = Field(
        description=(
            "Absolute path of a monitor socket, with `*`, `?`, `[...]` within a name and `**` for"
            " any number of directories."
        )
    )
    access: Access | None = Field(
        default=None,
        description=(
            "`hold` keeps the link and hears events; `share` leaves within 100 ms, for sockets "
            "that other tools use too. Default: `hold`, but `share` under a directory "
            "`qemu-server` (Proxmox)."
        ),
    )
    pattern: Annotated[str, AfterValidator(_pattern), Takes("regular expression")] | None = Field(
        default=None,
        description=(
            "Regular expression searched for in the path. Its named groups are labels of the VM; "
            "the one called `name` names it where QEMU does not."
        ),
    )


def _uri(uri: str) -> str:
    if wrong := "; ".join(uri_mistakes(uri)):
        raise ValueError(wrong)
    return uri


def _plain_places(written: object) -> object:
    """A plain string is a URI, or a glob of sockets."""
    if not isinstance(written, str):
        return written
    return {"sockets": written} if written.startswith("/") else {"uri": written}


class LibvirtConfig(Section):
    """Where libvirt is. One of `uri` and `sockets` is needed."""

    uri: Annotated[str, AfterValidator(_uri), Takes("URI")] | None = Field(
        default=None,
        description=(
            "A libvirt of this host: `qemu:///system`, `qemu:///session`, or"
            " `qemu+unix:///system?socket=/path` where its socket is elsewhere."
        ),
    )
    sockets: Annotated[str, AfterValidator(_glob), Takes("glob")] | None = Field(
        default=None,
        description=(
            "Absolute path of libvirt's sockets, with `*` and `?` as for monitors: one connection each, as "
            "they come and go. KubeVirt has one in each pod. A socket of root's is `system`, another user's "
            "`session`."
        ),
    )
    policy: IntervalPolicy | None = Field(
        default=None,
        description=(
            "Whose its domains' intervals are; default: `polling.policy`. With `observe` the connection is a "
            "read-only one."
        ),
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> "LibvirtConfig":
        if (self.uri is None) == (self.sockets is None):
            raise ValueError("give either uri or sockets")
        return self


Monitors = Annotated[
    tuple[Annotated[MonitorConfig, TextOr(_plain_globs)], ...], Names, Takes("list of globs or sections")
]
Libvirts = Annotated[
    tuple[Annotated[LibvirtConfig, TextOr(_plain_places)], ...],
    Names,
    Takes("list of URIs, globs or sections"),
]


class PollingConfig(Section):
    """How VMs are asked."""

    interval: Annotated[WrittenDuration, AfterValidator(_whole_seconds)] = Field(
        default=Duration(10 * 10**9),
        description=(
            "How often a guest is asked, where the policy lets us decide: whole seconds from 1s, "
            "as QEMU takes them. 10 s is what Nova and KubeVirt set."
        ),
    )
    policy: IntervalPolicy = Field(
        default=IntervalPolicy.FILL,
        description=(
            "Whose a VM's interval is. `fill`: set ours only where it is 0, so nobody's choice is"
            " overruled. `enforce`: ours everywhere. `observe`: never set."
        ),
    )
    on_exit: OnExit | None = Field(
        default=None,
        description=(
            "What happens at a clean exit to the intervals we set: `give-back`, or `keep` them for "
            "the next start. Default: `keep` where the spool is on disk, since a restart goes on "
            "where it stood and must not switch a fleet off and on; else `give-back`."
        ),
    )
    recheck: Annotated[WrittenDuration, within("1s", "1h")] = Field(
        default=Duration(30 * 10**9),
        description=(
            "How often a VM's interval and run state are read again, in case somebody else changed "
            "them. A VM that is `off` is looked at as often."
        ),
    )
    set_again: Annotated[WrittenDuration, within("1s", "1h")] = Field(
        default=Duration(60 * 10**9),
        description=(
            "The pause before an interval that somebody has set back is set once more. After a second "
            "time it is left alone."
        ),
    )
    stall_deadline: Annotated[WrittenDuration, within("1s", "365d")] | None = Field(
        default=None,
        description=(
            "A guest that has not answered for this long is `stalled`; counted while the VM runs."
            " Longer than the interval. Default: three intervals, or the interval and 5 s if that"
            " is longer."
        ),
    )
    heartbeat: Annotated[WrittenDuration, within("1s", "1d")] = Field(
        default=Duration(300 * 10**9),
        description=(
            "How often an unchanged state is repeated. With 5 min the last ten minutes of the "
            "states topic are the present."
        ),
    )


class HostConfig(Section):
    """Who the host is. In a pod both must be given: what is found there are the pod's."""

    id: Identifier | None = Field(
        default=None, description="The host's id. Default: what `host.id_file` holds."
    )
    id_file: AbsolutePath = Field(
        default="/etc/machine-id",
        description=(
            "A file with the host's id: its machine-id, which is there on every host with "
            "systemd. In a pod, where the host's is mounted."
        ),
    )
    name: Identifier | None = Field(
        default=None, description="The host's name. Default: what the kernel says it is."
    )


class QmpConfig(Section):
    """How monitors are talked to."""

    greeting_deadline: Annotated[WrittenDuration, within("50ms", "10s")] = Field(
        default=Duration(10**9),
        description=(
            "How long to wait for a monitor's greeting. QEMU greets within 1 ms; whoever waits "
            "longer stands in the way of the monitor's owner."
        ),
    )
    reading_deadline: Annotated[WrittenDuration, within("50ms", "60s")] = Field(
        default=Duration(10**9),
        description=(
            "An answer that takes longer makes the VM `unreachable`; the link is kept and the "
            "late answer ends it. Shorter than the stall deadline."
        ),
    )
    connections_opened_at_once: Annotated[int, Field(ge=1, le=1024), NotBool] = Field(
        default=32,
        description="Links being opened at the same time, so that a start on a full host is no stampede.",
    )
    readings_at_once: Annotated[int, Field(ge=1, le=10_000), NotBool] = Field(
        default=128,
        description=(
            "Readings under way at the same time, so that a host that has slept is not asked for everything "
            "at once. More VMs than this that hang at the same moment hold up the others for a "
            "`reading_deadline` each time."
        ),
    )


class DiscoveryConfig(Section):
    """How monitors are found."""

    rescan: Annotated[WrittenDuration, within("100ms", "1h")] = Field(
        default=Duration(10 * 10**9),
        description=(
            "How often the globs are looked through again. Changes are seen at once where the "
            "kernel tells them; this is for where it does not (network file systems, some "
            "mounts)."
        ),
    )


class BufferConfig(Section):
    """What waits for a sink, in memory."""

    size: Annotated[WrittenSize, within("64KiB", "64GiB")] = Field(
        default=Size(64 * 2**20),
        description=(
            "How much may wait in memory, for each sink without a spool, or while the spool's disk takes "
            "nothing; then the oldest samples go, counted. 64 MiB are about 50 minutes of 100 VMs at 5 s."
        ),
    )


class SpoolConfig(Section):
    """What waits for Kafka on disk, and what is remembered of each VM over a restart."""

    mode: SpoolMode = Field(
        default=SpoolMode.AUTO,
        description=(
            "`disk`: in the state directory, so that a kill, a restart or a long outage of Kafka loses "
            "nothing. `none`: in memory (`buffer`), and each start begins anew. `auto`: `disk` where "
            "Kafka or OTLP is configured."
        ),
    )
    size: Annotated[WrittenSize, within("32MiB", "1TiB")] = Field(
        default=Size(2**30),
        description=(
            "How large the file may grow; then the oldest samples go first, states last, counted. What "
            "VMs are remembered by, some 1 KiB each, is in it too. "
            "1 GiB holds some 600,000 samples: 100 VMs at 10 s for 16 hours."
        ),
    )
    age: Annotated[WrittenDuration, within("1m", "365d")] = Field(
        default=Duration(7 * 86_400 * 10**9),
        description=(
            "Records that have waited longer are dropped, counted. Below the retention of the topic, "
            "or Kafka drops them on arrival."
        ),
    )


class WebConfig(Section):
    """Probes, metrics to scrape, and a page for people, over HTTP. Read-only."""

    enabled: bool = Field(default=True, description="Whether to listen at all.")
    listen: Listen = Field(
        default="127.0.0.1:19464",
        description=(
            "Where. Who can connect can read the VMs' names and figures, so by default nobody from "
            "outside; in a pod `0.0.0.0:19464`. Port 0: any free one, the log says which. A second "
            "agent on a host needs a port of its own."
        ),
    )


class LogConfig(Section):
    """What the agent says of itself, on stderr."""

    level: LogLevel = Field(default=LogLevel.INFO, description="A line per change, none per sample.")
    format: LogFormat = Field(
        default=LogFormat.CONSOLE,
        description="`console` for people, `json` (one object a line) for log collectors.",
    )


class ShutdownConfig(Section):
    """How to end."""

    deadline: Annotated[WrittenDuration, within("100ms", "10m")] = Field(
        default=Duration(10 * 10**9),
        description=(
            "How long giving intervals back and sending what is held may take; shorter than what "
            "systemd (90 s) and Kubernetes (30 s) allow."
        ),
    )
