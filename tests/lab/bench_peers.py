"""Compare Barograph with other readers of the balloon's statistics, on libvirt domains and simulated VMs.

`python -m tests.lab.bench_peers --help` lists the options. It needs root, on Debian. With the defaults it
takes 40 minutes, the first time up to half an hour more, because it builds telegraf.

On real domains, all tools first run at the same time. One guest loses its balloon driver and loads it again,
one VM is paused and resumed, and the others report all the time. A second monitor of each QEMU shows which
updates there were. Then each tool runs alone, to measure its own CPU and that of libvirtd.
`--write` puts the tables into docs/comparison.md and README.md, and the picture of the guest without driver
into docs/images/.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from simulator.demo.measure import Shown
from tests.lab import cache, setup
from tests.lab.bench_libvirt import STANDIN
from tests.lab.cache import CannotHave
from tests.lab.libvirt import Daemon, Domain, libvirtd
from tests.lab.observer import Observer
from tests.lab.peers import (
    BARE_LOOP,
    BY_LIBVIRT,
    BY_QMP,
    TELEGRAF,
    TOOLS,
    Host,
    Said,
    cpu_s,
    running,
    states_said,
)
from tests.lab.peers_figures import Figures, judge, shown_by_the_stand_in, together
from tests.lab.peers_picture import Row, Scene, draw
from tests.lab.sim import simulated

ROOT = Path(__file__).parents[2]
PAGE, README = ROOT / "docs" / "comparison.md", ROOT / "README.md"
PICTURE = ROOT / "docs" / "images" / "peers.svg"
REAL, SIMULATED, SHORT = "real domains", "simulated VMs", "peers"
"""The parts that `--write` replaces: the first two in the page, the last in the README."""

SILENT, PAUSED = "silent", "paused"
LEARNT_INTERVALS = 6.5  # the time for the agent to learn when the guests update
NOT_BUILT = "not built"
NEEDS_LIBVIRT = "needs a real libvirt"
_DRIFT_S = 0.003  # QEMU's timer starts again when the guest has answered


@dataclass(frozen=True, slots=True)
class Cost:
    """The CPU and memory of a tool while it runs alone."""

    cpu_ms: float  # for each update
    libvirtd_cpu_ms: float  # of libvirtd, for each update
    pss_mib: float


@dataclass(frozen=True, slots=True)
class Beside:
    """What the tools reported while they ran at the same time."""

    shown: Mapping[str, Sequence[Shown]]  # by domain
    said: Mapping[str, Mapping[str, Sequence[Said]]]  # by tool and domain
    states: Mapping[str, Mapping[str, Sequence[tuple[float, str]]]]  # by tool that reports states, and domain
    from_ms: float
    unloaded_ms: float
    loaded_ms: float
    paused_ms: float
    resumed_ms: float
    until_ms: float

    def figures(self, tool: str, names: Sequence[str]) -> Figures:
        """Return the figures of a tool for some domains."""
        return together([self._judged(tool, name, self.from_ms, self.until_ms) for name in names])

    def without_driver(self, tool: str) -> Figures:
        """Return the figures of a tool for the guest while it had no driver."""
        return self._judged(tool, SILENT, self.unloaded_ms, self.loaded_ms)

    def while_paused(self, tool: str) -> Figures:
        """Return the figures of a tool for the paused VM while it was paused."""
        return self._judged(tool, PAUSED, self.paused_ms, self.resumed_ms)

    def _judged(self, tool: str, name: str, from_ms: float, until_ms: float) -> Figures:
        said = self.said[tool].get(name, ())
        return judge(self.shown[name], said, from_ms=from_ms, until_ms=until_ms)

    def scene(self) -> Scene:
        """Return the content of the picture."""
        rows = {
            tool: Row(self.said[tool].get(SILENT, ()), self.states.get(tool, {}).get(SILENT, ()))
            if tool in self.said
            else None
            for tool in TOOLS
        }
        return Scene(self.shown[SILENT], self.from_ms, self.until_ms, self.unloaded_ms, self.loaded_ms, rows)


def beside(
    folder: Path,
    host: Host,
    domains: Mapping[str, Domain],
    tools: Sequence[str],
    interval_s: int,
    seconds: float,
) -> Beside:
    """Run all tools for `seconds`. From 1/4 to 5/8 of that, one driver is unloaded and one VM is paused."""
    silent, paused = domains[SILENT], domains[PAUSED]
    with ExitStack() as stack:
        observer = stack.enter_context(Observer([each.truth for each in domains.values()], folder))
        started = [stack.enter_context(running(tool, folder / tool, host, interval_s)) for tool in tools]
        for each in started:
            each.wait_for(tuple(domains))
        time.sleep(LEARNT_INTERVALS * interval_s)
        from_ms = _now_ms()
        time.sleep(seconds / 4)
        silent.order("unload")
        unloaded_ms = _now_ms()
        paused.virsh("suspend")
        paused_ms = _now_ms()
        time.sleep(max((from_ms - _now_ms()) / 1000 + seconds * 5 / 8, 0))
        loaded_ms = _now_ms()
        silent.order("load")
        resumed_ms = _now_ms()
        paused.virsh("resume")
        time.sleep(max((from_ms - _now_ms()) / 1000 + seconds, 0))
        until_ms = _now_ms()
        time.sleep(interval_s + 2)  # the last updates are due within an interval
        shown = observer.stop()
        for each in started:
            each.stop()
    return Beside(
        shown={name: shown[domain.truth] for name, domain in domains.items()},
        said={each.tool: each.said() for each in started},
        states={
            each.tool: {name: states_said(each.lines(), name) for name in (SILENT, PAUSED)}
            for each in started
            if each.tool in (BY_LIBVIRT, BY_QMP)
        },
        from_ms=from_ms,
        unloaded_ms=unloaded_ms,
        loaded_ms=loaded_ms,
        paused_ms=paused_ms,
        resumed_ms=resumed_ms,
        until_ms=until_ms,
    )


def alone(
    folder: Path, host: Host, daemon: Daemon, tool: str, names: Sequence[str], interval_s: int, seconds: float
) -> Cost:
    """Run one tool for `seconds` and return its cost for each update of the domains meanwhile."""
    with running(tool, folder / f"{tool} alone", host, interval_s) as one:
        one.wait_for(names)
        time.sleep(LEARNT_INTERVALS * interval_s)
        own_s, libvirtd_s, begun_s = one.cpu_s(), cpu_s(daemon.pid), time.monotonic()
        time.sleep(seconds)
        spent_s = time.monotonic() - begun_s
        own_s, libvirtd_s = one.cpu_s() - own_s, cpu_s(daemon.pid) - libvirtd_s
        updates = len(names) * spent_s / (interval_s + _DRIFT_S)
        return Cost(1000 * own_s / updates, 1000 * libvirtd_s / updates, one.pss_mib())


@dataclass(frozen=True, slots=True)
class Real:
    """The measurements on real domains."""

    domains: int
    interval_s: int
    seconds: float
    reports: Beside
    costs: Mapping[str, Cost]
    load: tuple[float, float]  # average over a minute, least and most


def measure_real(domains: int, interval_s: int, seconds: float) -> Real:
    """Measure all tools on `domains` guests of a libvirtd.

    Raises:
        CannotHave: libvirt is not available.
    """
    tools = [tool for tool in TOOLS if tool != TELEGRAF or _telegraf_is_built()]
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory(prefix="bp-", dir="/tmp") as name, ExitStack() as stack:
        folder = Path(name)
        daemon = stack.enter_context(libvirtd(folder, "one"))
        host = Host(daemon.uri, f"{daemon.lab}/*.hands", {"PYTHONPATH": str(setup.libvirt())})
        guests: dict[str, Domain] = {}
        names = [*(f"steady-{number}" for number in range(1, domains - 1)), SILENT, PAUSED]
        for number, each in enumerate(names):  # at different times, as VMs are in practice
            guests[each] = daemon.domain(each)
            guests[each].order("churn")  # so that the values of two updates differ
            guests[each].set_period(interval_s)
            time.sleep(interval_s * (number + 0.5) / len(names))
        reports = beside(folder, host, guests, tools, interval_s, seconds)
        costs: dict[str, Cost] = {}
        for tool in tools:
            loads.append(os.getloadavg()[0])
            _say(f"{tool} alone")
            costs[tool] = alone(folder, host, daemon, tool, names, interval_s, seconds)
        loads.append(os.getloadavg()[0])
    return Real(domains, interval_s, seconds, reports, costs, (min(loads), max(loads)))


def _telegraf_is_built() -> bool:
    try:
        setup.telegraf()
    except CannotHave as error:
        _say(f"telegraf is not built: {error}")
        return False
    return True


@dataclass(frozen=True, slots=True)
class Simulation:
    """The reports of one tool on simulated VMs, and its cost."""

    figures: Figures
    cost: Cost


def measure_simulated(tool: str, vms: int, interval_s: int, seconds: float) -> Simulation:
    """Run a tool alone on simulated VMs: a stand-in for libvirt's bindings, or simulated monitors."""
    with tempfile.TemporaryDirectory(prefix="bp-", dir="/tmp") as name, ExitStack() as stack:
        folder = Path(name)
        if tool == BY_QMP:
            hypervisor = stack.enter_context(
                simulated(folder, vms=vms, guests="steady:4,churning:1", preset=interval_s)
            )
            host = Host(monitors=f"{folder}/*.qmp")
        else:
            hypervisor = None
            env = {
                "PYTHONPATH": str(STANDIN),
                "STANDIN_DOMAINS": str(vms),
                "STANDIN_PERIOD_S": str(interval_s),
                "STANDIN_LOG": str(folder / "calls"),
            }
            host = Host(libvirt_uri=f"test:///{vms}", env=env)
        with running(tool, folder / "tool", host, interval_s) as one:
            one.wait_for(count=vms)
            time.sleep(LEARNT_INTERVALS * interval_s)
            from_ms, own_s = _now_ms(), one.cpu_s()
            time.sleep(seconds)
            until_ms, own_s = _now_ms(), one.cpu_s() - own_s
            pss_mib = one.pss_mib()
            time.sleep(interval_s + 2)  # the last updates are due within an interval
            updates_seen = hypervisor.updates() if hypervisor else {}
            shown = {vm.name: updates_seen[vm.truth] for vm in hypervisor.vms} if hypervisor else {}
            one.stop()
            said = one.said()
    figures = together(
        [
            judge(
                shown[vm] if shown else shown_by_the_stand_in(of_vm),
                of_vm,
                from_ms=from_ms,
                until_ms=until_ms,
            )
            for vm, of_vm in said.items()
        ]
    )
    updates = vms * (until_ms - from_ms) / 1000 / (interval_s + _DRIFT_S)
    return Simulation(figures, Cost(1000 * own_s / updates, 0.0, pss_mib))


def _now_ms() -> float:
    return time.time() * 1000


def _say(message: str) -> None:
    print(f"bench: {message}", file=sys.stderr, flush=True)


# --- tables ---


def real_table(real: Real) -> list[str]:
    """Return the table of the page, with a column for each tool."""
    names = list(real.reports.shown)
    answering = [name for name in names if name not in (SILENT, PAUSED)]

    def row(title: str, cells: Mapping[str, str]) -> str:
        return f"| {title} | {' | '.join(cells.get(tool, NOT_BUILT) for tool in TOOLS)} |"

    every = {tool: real.reports.figures(tool, names) for tool in real.costs}
    reporting = {tool: real.reports.figures(tool, answering) for tool in real.costs}
    without = {tool: real.reports.without_driver(tool) for tool in real.costs}
    return [
        *_head(("", *TOOLS)),
        row("values reported", {tool: f"{each.said}" for tool, each in every.items()}),
        row("old values with a new time", {tool: _share(each) for tool, each in every.items()}),
        row(
            "of these, values of the guest while it had no driver",
            {tool: f"{each.repeated}" for tool, each in without.items()},
        ),
        row("updates not reported", {tool: f"{each.unseen}" for tool, each in every.items()}),
        row("values that QEMU did not show", {tool: f"{each.wrong}" for tool, each in every.items()}),
        row("mean age of a value", {tool: _mean_age(each) for tool, each in every.items()}),
        row("mean age, guests that answer", {tool: _mean_age(each) for tool, each in reporting.items()}),
        row("oldest value", {tool: _seconds(max(each.ages_ms, default=0)) for tool, each in every.items()}),
        row(
            "reported for a guest without driver", {tool: _of_no_driver(real.reports, tool) for tool in every}
        ),
        row("reported for a paused VM", {tool: _of_paused(real.reports, tool) for tool in every}),
        row(
            "CPU for each update, tool + libvirtd",
            {
                tool: f"{_ms(each.cpu_ms)} + {_ms(each.libvirtd_cpu_ms)} ms"
                for tool, each in real.costs.items()
            },
        ),
        row(
            "memory of the tool (PSS)", {tool: f"{each.pss_mib:.0f} MiB" for tool, each in real.costs.items()}
        ),
    ]


def short_table(real: Real) -> list[str]:
    """Return the table of the README, with a row for each tool."""
    titles = (
        "",
        "old values with a new time",
        "mean age",
        "reported for a guest without driver",
        "CPU for each update, tool + libvirtd",
    )
    lines = _head(titles)
    for tool in TOOLS:
        if tool not in real.costs:
            lines.append(f"| {tool} |{f' {NOT_BUILT} |' * 4}")
            continue
        figures, cost = real.reports.figures(tool, list(real.reports.shown)), real.costs[tool]
        lines.append(
            f"| {tool} | {_share(figures)} | {_mean_age(figures)} | {_of_no_driver(real.reports, tool)}"
            f" | {_ms(cost.cpu_ms)} + {_ms(cost.libvirtd_cpu_ms)} ms |"
        )
    return lines


def simulated_table(done: Mapping[int, Mapping[str, Simulation]]) -> list[str]:
    """Return the table of simulated VMs, with a row for each tool and number of VMs."""
    titles = (
        "VMs",
        "tool",
        "old values with a new time",
        "mean age",
        "CPU for each update",
        "memory (PSS)",
    )
    lines = _head(titles)
    for vms, of_tool in done.items():
        for tool in TOOLS:
            one = of_tool.get(tool)
            if one is None:
                lines.append(f"| {vms} | {tool} |{f' {NEEDS_LIBVIRT} |' * 4}")
                continue
            figures, cost = one.figures, one.cost
            lines.append(
                f"| {vms} | {tool} | {_share(figures)} | {_mean_age(figures)}"
                f" | {_ms(cost.cpu_ms)} ms | {cost.pss_mib:.0f} MiB |"
            )
    return lines


def _head(titles: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]


def _of_no_driver(reports: Beside, tool: str) -> str:
    return _says(reports, tool, SILENT, reports.without_driver(tool), reports.unloaded_ms, reports.loaded_ms)


def _of_paused(reports: Beside, tool: str) -> str:
    return _says(reports, tool, PAUSED, reports.while_paused(tool), reports.paused_ms, reports.resumed_ms)


def _says(reports: Beside, tool: str, name: str, figures: Figures, from_ms: float, until_ms: float) -> str:
    """Return what a tool reports for a VM without new updates."""
    for at_ms, state in reports.states.get(tool, {}).get(name, ()):
        if from_ms - 1000 <= at_ms < until_ms and state != "reporting":
            return f"`{state}`, after {max(at_ms - from_ms, 0) / 1000:.1f} s"
    return f"the last value, {figures.repeated} times" if figures.repeated else "nothing"


def _share(figures: Figures) -> str:
    return f"{figures.repeated} ({100 * figures.repeated / max(figures.said, 1):.0f} %)"


def _mean_age(figures: Figures) -> str:
    return _seconds(sum(figures.ages_ms) / max(len(figures.ages_ms), 1))


def _seconds(ms: float) -> str:
    return f"{ms / 1000:.2f} s"


def _ms(ms: float) -> str:
    return f"{ms:.2f}"


# --- pages ---


def real_words(real: Real) -> str:
    """Return the text that describes the measurement on real domains."""
    low, high = real.load
    return (
        f"{real.domains} domains every {real.interval_s} s for {real.seconds:g} s, all tools at the same"
        f" time; CPU and memory of each tool alone for another {real.seconds:g} s."
        f" {_versions()}. Guests without KVM, on {os.cpu_count()} cores with a load average of"
        f" {low:.1f} to {high:.1f}{_busy(high)}."
    )


def short_words(real: Real) -> str:
    """Return a short form of `real_words` for the README."""
    return f"{real.domains} libvirt domains, read every {real.interval_s} s{_busy(real.load[1])}."


def simulated_words(interval_s: int, seconds: float, loads: Sequence[float]) -> str:
    """Return the text that describes the measurement on simulated VMs."""
    return (
        f"Each tool alone, every {interval_s} s for {seconds:g} s, on {os.cpu_count()} cores with a load"
        f" average of {min(loads):.1f} to {max(loads):.1f}{_busy(max(loads))}."
    )


def _busy(load: float) -> str:
    return " (a busy machine)" if load > (os.cpu_count() or 1) else ""


def _versions() -> str:
    qemu = cache.run([str(setup.qemu()), "--version"]).split()[3].split("(")[0]
    libvirt = cache.run(["libvirtd", "--version"]).split()[-1]
    told = cache.run([setup.collectd(), "-h"]).split("collectd ")[-1]
    return f"QEMU {qemu}, libvirt {libvirt}, collectd {told.split(',')[0]}, telegraf {setup.TELEGRAF_VERSION}"


def replaced(text: str, name: str, part: str) -> str:
    """Return a page with `part` between the markers of `name`.

    Raises:
        ValueError: the page does not have these markers.
    """
    begin, end = f"<!-- begin of {name} -->\n", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, also_found, after = rest.partition(end)
    if not (found and also_found):
        raise ValueError(f"no markers of {name!r} in the page")
    return f"{before}{begin}\n{part}\n\n{end}{after}"


def _write(page: Path, name: str, part: str) -> None:
    page.write_text(replaced(page.read_text(), name, part))


def main(words: Sequence[str]) -> int:
    """Measure, print the tables, and write them into the docs if asked to."""
    parser = argparse.ArgumentParser("tests.lab.bench_peers", description="Barograph next to other readers.")
    parser.add_argument("--domains", type=int, default=4, help="real ones, at least 3")
    parser.add_argument(
        "--interval", type=int, default=10, help="of the statistics and of each tool, in seconds"
    )
    parser.add_argument("--seconds", type=float, default=120, help="measured, after the agent has learned")
    parser.add_argument("--vms", default="50,500", help="numbers of simulated VMs")
    parser.add_argument("--part", choices=("real", "simulated", "all"), default="all")
    parser.add_argument(
        "--write", action="store_true", help="into docs/comparison.md, README.md and docs/images/"
    )
    given = parser.parse_args(words)
    if given.part != "simulated":
        _real(max(given.domains, 3), given.interval, given.seconds, write=given.write)
    if given.part != "real":
        _simulated(
            [int(word) for word in given.vms.split(",")], given.interval, given.seconds, write=given.write
        )
    return 0


def _real(domains: int, interval_s: int, seconds: float, *, write: bool) -> None:
    real = measure_real(domains, interval_s, seconds)
    table, short = "\n".join(real_table(real)), "\n".join(short_table(real))
    print(real_words(real), table, sep="\n\n", flush=True)
    if write:
        _write(PAGE, REAL, f"{real_words(real)}\n\n{table}")
        _write(README, SHORT, f"{short_words(real)}\n\n{short}")
        PICTURE.write_text(draw(real.reports.scene()))


def _simulated(vms: Sequence[int], interval_s: int, seconds: float, *, write: bool) -> None:
    loads = [os.getloadavg()[0]]
    done: dict[int, dict[str, Simulation]] = {}
    for number in vms:
        done[number] = {}
        for tool in (BARE_LOOP, BY_LIBVIRT, BY_QMP):
            _say(f"{tool} on {number} simulated VMs")
            done[number][tool] = measure_simulated(tool, number, interval_s, seconds)
            loads.append(os.getloadavg()[0])
    told, table = simulated_words(interval_s, seconds, loads), "\n".join(simulated_table(done))
    print(told, table, sep="\n\n", flush=True)
    if write:
        _write(PAGE, SIMULATED, f"{told}\n\n{table}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
