"""Run the tools that `tests.lab.bench_peers` compares, and read their output."""

import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab import setup
from tests.lab.agent import AgentProcess, agent
from tests.lab.process import kill, start, wait_until

COLLECTD, TELEGRAF, BARE_LOOP = "collectd", "telegraf", "bare loop"
BY_LIBVIRT, BY_QMP = "Barograph, libvirt", "Barograph, QMP"
TOOLS = (COLLECTD, TELEGRAF, BARE_LOOP, BY_LIBVIRT, BY_QMP)

READY_S = 300.0
_ROOT = Path(__file__).parents[2]

# As collectd.conf(5) describes for this purpose; devices are off, since only the memory is compared.
_COLLECTD_CONF = """Interval {interval_s}
BaseDir "{folder}"
PIDFile "{folder}/collectd.pid"
LoadPlugin logfile
<Plugin logfile>
  LogLevel info
  File "{folder}/collectd.log"
</Plugin>
LoadPlugin csv
<Plugin csv>
  DataDir "stdout"
</Plugin>
LoadPlugin virt
<Plugin virt>
  Connection "{uri}"
  HostnameFormat "hostname"
  PluginInstanceFormat "name"
  ExtraStats "memory"
  ReportBlockDevices false
  ReportNetworkInterfaces false
</Plugin>
"""

# The defaults, except for the interval, the groups of statistics, and times with milliseconds.
_TELEGRAF_CONF = """[agent]
  interval = "{interval_s}s"
  precision = "1ms"
  omit_hostname = true
[[inputs.libvirt]]
  libvirt_uri = "{uri}"
  statistics_groups = ["balloon"]
[[outputs.file]]
  files = ["stdout"]
  data_format = "influx"
"""


@dataclass(frozen=True, slots=True)
class Said:
    """One value of a guest's free memory that a tool reported."""

    at_ms: float  # Unix milliseconds: the time that the tool reports, or at which the tool read it
    free_kib: int
    last_update_s: int | None = None  # if the tool reports it
    updated_ms: int = 0  # only of the stand-in's domains, whose `minor_faults` is the time of the update


@dataclass(frozen=True, slots=True)
class Host:
    """The sources for a tool: a libvirt, and second monitors of the same VMs."""

    libvirt_uri: str = ""
    monitors: str = ""  # a glob
    env: Mapping[str, str] = field(default_factory=dict[str, str])  # in which a tool finds libvirt's bindings


def said_by_collectd(lines: Sequence[str]) -> dict[str, list[Said]]:
    """Return the free memory by domain from the output of the csv plugin, which is in bytes."""
    said: dict[str, list[Said]] = {}
    for line in lines:
        words = line.split()
        if len(words) != 4 or words[0] != "PUTVAL" or "/memory-unused" not in words[1]:
            continue
        name = words[1].split("/virt-", 1)[1].rsplit("/", 1)[0]
        at_s, value = words[3].split(":")
        said.setdefault(name, []).append(Said(float(at_s) * 1000, round(float(value)) // 1024))
    return said


def said_by_telegraf(lines: Sequence[str]) -> dict[str, list[Said]]:
    """Return the free memory by domain from line protocol, which is in KiB, with times in nanoseconds."""
    said: dict[str, list[Said]] = {}
    for line in lines:
        if not line.startswith("libvirt_balloon,"):
            continue
        series, fields, at_ns = line.rsplit(" ", 2)
        tags = dict(tag.split("=", 1) for tag in series.split(",")[1:])
        values = {
            name: int(value.rstrip("iu")) for name, value in (f.split("=", 1) for f in fields.split(","))
        }
        if "unused" in values:
            said.setdefault(tags["domain_name"], []).append(
                Said(int(at_ns) // 1_000_000, values["unused"], values.get("last_update"))
            )
    return said


def said_by_the_bare_loop(lines: Sequence[str]) -> dict[str, list[Said]]:
    """Return the free memory by domain from the lines of `tests.lab.bare_libvirt`, which are in KiB."""
    said: dict[str, list[Said]] = {}
    for line in lines:
        balloon: dict[str, Any] = json.loads(line)
        if "balloon.unused" in balloon:
            said.setdefault(balloon["name"], []).append(
                Said(
                    balloon["at_ms"],
                    balloon["balloon.unused"],
                    balloon.get("balloon.last-update"),
                    balloon.get("balloon.minor_fault", 0),
                )
            )
    return said


def said_by_the_agent(lines: Sequence[str]) -> dict[str, list[Said]]:
    """Return the free memory by VM from the agent's samples."""
    said: dict[str, list[Said]] = {}
    for line in lines:
        document: dict[str, Any] = json.loads(line)
        statistics: dict[str, int] = document.get("statistics", {})
        if "free_memory" in statistics:
            said.setdefault(document["vm"]["name"], []).append(
                Said(
                    document["observed_at_ms"],
                    statistics["free_memory"] // 1024,
                    document["last_update"],
                    statistics.get("minor_faults", 0),
                )
            )
    return said


def states_said(lines: Sequence[str], name: str) -> list[tuple[float, str]]:
    """Return the states of a VM that the agent reported: Unix milliseconds and state, in order."""
    documents: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return [
        (document["observed_at_ms"], document["state"])
        for document in documents
        if document["schema"].startswith("barograph.vm.state/") and document["vm"].get("name") == name
    ]


_READERS: Mapping[str, Callable[[Sequence[str]], dict[str, list[Said]]]] = {
    COLLECTD: said_by_collectd,
    TELEGRAF: said_by_telegraf,
    BARE_LOOP: said_by_the_bare_loop,
    BY_LIBVIRT: said_by_the_agent,
    BY_QMP: said_by_the_agent,
}


class Running:
    """A running tool."""

    def __init__(self, tool: str, process: subprocess.Popen[bytes], out: Path, log: Path) -> None:
        self.tool = tool
        self._process = process
        self._out = out
        self._log = log

    def wait_for(self, names: Sequence[str] = (), count: int = 1) -> None:
        """Wait until it has reported values of these domains, and of at least `count` domains.

        Raises:
            RuntimeError: it ended, or did not report them in time; the message has the end of its log.
        """

        def reported() -> bool:
            said = self.said()
            return len(said) >= count and said.keys() >= set(names)

        wait_until(reported, self.tool, self._process, self._log, READY_S)

    def lines(self) -> list[str]:
        """Return the complete lines that it has written so far."""
        text = self._out.read_text()
        return text[: text.rfind("\n") + 1].splitlines()

    def said(self) -> dict[str, list[Said]]:
        """Return the values that it has written so far, by domain, in order."""
        return _READERS[self.tool](self.lines())

    def stop(self) -> None:
        """Stop it. collectd and telegraf write some of their values only then."""
        self._process.terminate()
        self._process.wait(60)

    def cpu_s(self) -> float:
        """Return the user and system CPU time that it has used so far."""
        return cpu_s(self._process.pid)

    def pss_mib(self) -> float:
        """Return its memory as PSS, which counts shared pages in part (proc(5), smaps_rollup)."""
        text = Path(f"/proc/{self._process.pid}/smaps_rollup").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024


def cpu_s(pid: int) -> float:
    """Return the user and system CPU time of a process, with a finer resolution than proc(5), stat.

    Raises:
        OSError: there is no such process.
    """
    clock = ctypes.c_int()
    if error := _libc.clock_getcpuclockid(pid, ctypes.byref(clock)):
        raise OSError(error, f"no CPU clock of process {pid}")
    return time.clock_gettime(clock.value)


_libc = ctypes.CDLL(None)


@contextmanager
def running(tool: str, folder: Path, host: Host, interval_s: int) -> Generator[Running]:
    """Run a tool that reads all VMs of a host once per interval, until the block ends.

    Raises:
        CannotHave: the tool is not available.
    """
    if tool in (BY_LIBVIRT, BY_QMP):
        where = ("--libvirt", host.libvirt_uri) if tool == BY_LIBVIRT else ("--monitor", host.monitors)
        with agent(folder, *where, "--interval", f"{interval_s}s", env=host.env) as process:
            yield _of_agent(tool, process)
        return
    folder.mkdir(parents=True)
    out, log = folder / "out", folder / "log"
    argv = _command(tool, folder, host, interval_s)
    process = start(argv, out, errors=log, cwd=_ROOT, env={"PATH": "/usr/bin:/bin", **host.env})
    try:
        yield Running(tool, process, out, log)
    finally:
        kill(process)


def _of_agent(tool: str, process: AgentProcess) -> Running:
    return Running(tool, process.process, process.stdout, process.stderr)


def _command(tool: str, folder: Path, host: Host, interval_s: int) -> list[str | Path]:
    if tool == BARE_LOOP:
        return [
            sys.executable,
            "-m",
            "tests.lab.bare_libvirt",
            host.libvirt_uri,
            str(interval_s),
        ]
    config = folder / f"{tool}.conf"
    template = _COLLECTD_CONF if tool == COLLECTD else _TELEGRAF_CONF
    config.write_text(template.format(interval_s=interval_s, folder=folder, uri=host.libvirt_uri))
    if tool == COLLECTD:
        return [setup.collectd(), "-f", "-C", config]
    return [setup.telegraf(), "--config", config]
