"""Barograph and collectd's virt plugin beside each other, on the same domains at the same cadence.

`python -m tests.lab.compare_libvirt [INTERVAL_S [SECONDS]]`. Four real guests: two answer all the
time, one loses its balloon driver half way, one is paused half way. What each tool says is held against a
second monitor of each QEMU. Then each tool runs alone, for the CPU that it costs itself and libvirtd.
"""

import json
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulator.demo.measure import Shown
from tests.lab import setup
from tests.lab.agent import AgentProcess, agent
from tests.lab.libvirt import Daemon, Domain, libvirtd
from tests.lab.observer import Observer
from tests.lab.process import cpu_s, kill, start, wait_until

STEADY, SILENT, PAUSED = "steady", "silent", "paused"
NAMES = ("steady-1", "steady-2", SILENT, PAUSED)

_SEEN_LATE_MS = 50.0  # the observer may see an update so much later than a tool, on a busy machine

# As collectd.conf(5) has it for this purpose; devices off, since only the memory is compared.
COLLECTD = """Interval {interval_s}
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


@dataclass(frozen=True, slots=True)
class Said:
    """One value of a guest's free memory that a tool gave out as of now."""

    at_ms: float  # Unix milliseconds: when the tool says it is, or had read it
    free_kib: int
    last_update_s: int | None = None  # where the tool says of when it is


@dataclass(frozen=True, slots=True)
class Figures:
    """What one tool said of one domain, against what QEMU showed meanwhile."""

    said: int
    fresh: int  # values of an update that it had not given out before
    unseen: int  # updates that it never gave out
    wrong: int  # values that QEMU did not show then
    ages_ms: tuple[float, ...]  # of each value, since QEMU first showed it

    @property
    def repeated(self) -> int:
        """Values given out as of now that are those of an update given out before."""
        return self.said - self.fresh - self.wrong


def judge(shown: Sequence[Shown], said: Sequence[Said], *, from_ms: float, until_ms: float) -> Figures:
    """Hold what a tool said from `from_ms` to `until_ms` against what QEMU showed. Both in order of time."""
    starts = [each.first_seen_ms for each in shown]
    of_second = {each.last_update_s: at for at, each in enumerate(shown)}
    given: set[int] = set()
    ages: list[float] = []
    wrong = fresh = 0
    heard = [each for each in said if from_ms <= each.at_ms < until_ms]
    for each in heard:
        if each.last_update_s is None:
            late_ms = (0.0, _SEEN_LATE_MS, -_SEEN_LATE_MS)
            near = [bisect_right(starts, each.at_ms + by_ms) - 1 for by_ms in late_ms]
        else:
            near = [of_second.get(each.last_update_s, -1)]
        found = [at for at in near if at >= 0 and _free_kib(shown[at]) == each.free_kib]
        if not found:
            wrong += 1
            continue
        fresh += found[0] not in given
        given.add(found[0])
        ages.append(max(each.at_ms - starts[found[0]], 0.0))
    # One that came at the very end could not be given out in time.
    due = {at for at, start_ms in enumerate(starts) if from_ms <= start_ms < until_ms - 2000}
    return Figures(len(heard), fresh, len(due - given), wrong, tuple(ages))


def _free_kib(shown: Shown) -> int:
    return shown.statistics["free_memory"] // 1024


def said_by_collectd(lines: Sequence[str]) -> dict[str, list[Said]]:
    """Return the free memory in what the csv plugin writes to stdout, by domain: bytes there."""
    said: dict[str, list[Said]] = {}
    for line in lines:
        words = line.split()
        if len(words) != 4 or words[0] != "PUTVAL" or "/memory-unused" not in words[1]:
            continue
        name = words[1].split("/virt-", 1)[1].rsplit("/", 1)[0]
        at_s, value = words[3].split(":")
        said.setdefault(name, []).append(Said(float(at_s) * 1000, round(float(value)) // 1024))
    return said


def said_by_the_agent(lines: Sequence[str]) -> dict[str, list[Said]]:
    """Return the free memory in its samples, by domain."""
    said: dict[str, list[Said]] = {}
    for line in lines:
        document: dict[str, Any] = json.loads(line)
        free = document.get("statistics", {}).get("free_memory")
        if free is not None:
            said.setdefault(document["vm"]["name"], []).append(
                Said(document["observed_at_ms"], free // 1024, document["last_update"])
            )
    return said


def told_silent_after_s(lines: Sequence[str], name: str, since_ms: float) -> float | None:
    """Return how long after `since_ms` the agent said that a domain reports no more; `None`: it did not."""
    for line in lines:
        document: dict[str, Any] = json.loads(line)
        if (
            document["schema"].startswith("barograph.vm.state/")
            and document["vm"].get("name") == name
            and document["observed_at_ms"] > since_ms
            and document["state"] != "reporting"
        ):
            return (document["observed_at_ms"] - since_ms) / 1000
    return None


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU in milliseconds for each fresh value, of a tool that runs alone."""

    tool_ms: float
    libvirtd_ms: float


class Collectd:
    """A running collectd."""

    def __init__(self, folder: Path, daemon: Daemon, interval_s: int) -> None:
        folder.mkdir()
        self._out, config = folder / "out", folder / "collectd.conf"
        config.write_text(COLLECTD.format(interval_s=interval_s, folder=folder, uri=daemon.uri))
        self.process = start([setup.collectd(), "-f", "-C", config], self._out)
        # The first values come within an interval.
        wait_until(lambda: "memory-unused" in self._out.read_text(), "collectd", self.process, self._out, 60)

    def said(self) -> dict[str, list[Said]]:
        """End it, and return all it has said: it keeps back some until then."""
        self.process.terminate()
        self.process.wait(30)
        return said_by_collectd(self._out.read_text().splitlines())

    def pid(self) -> int:
        """Its process's id."""
        return self.process.pid


class Barograph:
    """A running agent."""

    def __init__(self, process: AgentProcess) -> None:
        self._process = process
        wait_until(lambda: bool(self.said()), "the agent", process.process, process.stderr, 60)

    def lines(self) -> list[str]:
        """Its whole lines so far."""
        text = self._process.stdout.read_text()
        return text[: text.rfind("\n") + 1].splitlines()

    def said(self) -> dict[str, list[Said]]:
        """What it has said so far."""
        return said_by_the_agent(self.lines())

    def pid(self) -> int:
        """Its process's id."""
        return self._process.process.pid


@contextmanager
def collectd(folder: Path, daemon: Daemon, interval_s: int) -> Generator[Collectd]:
    """A collectd with its virt plugin."""
    made = Collectd(folder, daemon, interval_s)
    try:
        yield made
    finally:
        kill(made.process)


@contextmanager
def barograph(folder: Path, daemon: Daemon, interval_s: int) -> Generator[Barograph]:
    """An agent on the same libvirt."""
    words = ["--libvirt", daemon.uri, "--interval", f"{interval_s}s"]
    with agent(folder, *words, env={"PYTHONPATH": str(setup.libvirt())}) as process:
        yield Barograph(process)


def beside_each_other(
    folder: Path, daemon: Daemon, domains: Mapping[str, Domain], interval_s: int, seconds: float
) -> tuple[dict[str, dict[str, Figures]], dict[str, float | None]]:
    """Run both for `seconds`; return figures by tool and domain, and when the agent told of each silence."""
    with (
        Observer([each.truth for each in domains.values()], folder) as observer,
        collectd(folder / "collectd", daemon, interval_s) as theirs,
        barograph(folder / "barograph", daemon, interval_s) as ours,
    ):
        time.sleep(5.0 * interval_s)  # the agent learns the rhythm, and both are past their start
        from_ms = time.time() * 1000
        time.sleep(seconds / 2)
        ended_ms = {SILENT: time.time() * 1000}
        domains[SILENT].order("unload")
        ended_ms[PAUSED] = time.time() * 1000
        domains[PAUSED].virsh("suspend")
        time.sleep(seconds / 2)
        until_ms = time.time() * 1000
        domains[SILENT].order("load")
        domains[PAUSED].virsh("resume")
        shown = observer.stop()
        said = {"collectd": theirs.said(), "Barograph": ours.said()}
        lines = ours.lines()
    figures = {
        tool: {
            name: judge(shown[domains[name].truth], of_tool.get(name, []), from_ms=from_ms, until_ms=until_ms)
            for name in domains
        }
        for tool, of_tool in said.items()
    }
    return figures, {name: told_silent_after_s(lines, name, since_ms) for name, since_ms in ended_ms.items()}


def alone(tool: Collectd | Barograph, daemon: Daemon, interval_s: int, seconds: float, updates: int) -> Cost:
    """Return what a tool costs alone for each of the `updates` that all domains make in an interval."""
    time.sleep(5.0 * interval_s)
    before = cpu_s(tool.pid()), daemon.cpu_s()
    time.sleep(seconds)
    fresh = updates * seconds / interval_s
    return Cost(1000 * (cpu_s(tool.pid()) - before[0]) / fresh, 1000 * (daemon.cpu_s() - before[1]) / fresh)


def main(words: Sequence[str]) -> int:
    """Print the table."""
    interval_s, seconds = [*[int(word) for word in words], *[10, 240][len(words) :]]
    with tempfile.TemporaryDirectory(prefix="bc-", dir="/tmp") as name, ExitStack() as stack:
        folder = Path(name)
        daemon = stack.enter_context(libvirtd(folder, "one"))
        domains: dict[str, Domain] = {}
        for number, each in enumerate(NAMES):  # out of step, as VMs are
            domains[each] = daemon.domain(each)
            domains[each].order("churn")  # so that one update's values are not the last one's
            domains[each].set_period(interval_s)
            time.sleep(interval_s * (number + 0.5) / len(NAMES))
        figures, told = beside_each_other(folder, daemon, domains, interval_s, seconds)
        costs: dict[str, Cost] = {}
        with collectd(folder / "collectd-alone", daemon, interval_s) as theirs:
            costs["collectd"] = alone(theirs, daemon, interval_s, seconds, len(NAMES))
        with barograph(folder / "barograph-alone", daemon, interval_s) as ours:
            costs["Barograph"] = alone(ours, daemon, interval_s, seconds, len(NAMES))
    print(f"{len(NAMES)} guests at {interval_s} s for {seconds} s")
    for tool, of_tool in figures.items():
        for row, names in (
            ("answering", NAMES[:2]),
            ("driver gone half way", [SILENT]),
            ("paused", [PAUSED]),
        ):
            _print_row(tool, row, [of_tool[each] for each in names])
        _print_row(tool, "all", list(of_tool.values()))
        cost = costs[tool]
        print(
            f"{tool}: CPU of tool + libvirtd for each fresh value "
            f"{cost.tool_ms:.2f} + {cost.libvirtd_ms:.2f} = {cost.tool_ms + cost.libvirtd_ms:.2f} ms"
        )
    for each, after_s in told.items():
        told_so = "not at all" if after_s is None else f"{after_s:.1f} s after it was so"
        print(f"Barograph said that {each} reports no more: {told_so}; collectd has no word for it")
    return 0


def _print_row(tool: str, row: str, figures: Sequence[Figures]) -> None:
    said, ages = sum(each.said for each in figures), [age for each in figures for age in each.ages_ms]
    repeated, unseen = sum(each.repeated for each in figures), sum(each.unseen for each in figures)
    print(
        f"{tool}, {row}: values {said}, repeated as new {repeated} ({repeated / max(said, 1):.0%}), "
        f"updates not given out {unseen}, mean age {sum(ages) / max(len(ages), 1) / 1000:.2f} s, "
        f"oldest {max(ages, default=0) / 1000:.1f} s, wrong {sum(each.wrong for each in figures)}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
