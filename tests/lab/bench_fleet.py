"""Measure the agent with 10 to 1,000 simulated VMs, Kafka, OTLP and the spool, and two lower bounds.

`make bench`, or `python -m tests.lab.bench_fleet [VMS:INTERVAL_S[:LOOP]...]`. LOOP is `uvloop` or
`asyncio`. The simulator is a separate process; Kafka with its reader and the OTLP receiver are another.
"""

import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from tests.lab.agent import AgentProcess, agent
from tests.lab.bench import arrived
from tests.lab.fleet_backends import Totals, backends
from tests.lab.fleet_floors import floor_us
from tests.lab.measure import STEADY_AFTER, compare, quantile
from tests.lab.process import cpu_s, free_port, status_of
from tests.lab.sim import Hypervisor, simulated

Loop = Literal["uvloop", "asyncio"]

MIB = 1 << 20
FAST = ("10:1", "100:1", "1000:1", "1000:1:asyncio")
SLOW = ("100:10", "1000:10")

LEARNT_S = 70.0
"""At 1 s the agent needs some 65 updates to learn the cadence."""


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement to make."""

    vms: int
    interval_s: int
    seconds: float  # measured, after learning
    loop: Loop = "uvloop"
    learning_s: float = LEARNT_S
    floor_s: float = 5.0  # for each floor


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one run. CPU is a share of one core."""

    cpu: float
    sim_cpu: float
    rss_bytes: int  # the peak
    scraped_rss_bytes: int  # the peak after a scrape
    readings_per_sample: float
    samples: int  # in the time measured
    lags_ms: Sequence[float]
    faults: Sequence[str]  # samples lost, invented, repeated, out of order or wrong
    bare_us: float  # CPU of one reading
    library_us: float
    cpu_us: float  # CPU of one sample, from socket to acknowledgment

    def lag_ms(self, share: float) -> float:
        """Return a quantile of the lag."""
        return quantile(self.lags_ms, share)


def peak_rss_bytes(pid: int) -> int:
    """Return the peak resident memory of a process."""
    return int(status_of(pid)["VmHWM"].split()[0]) * 1024


def scrape(port: int) -> None:
    """Scrape the agent as Prometheus does."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"accept-encoding": "gzip"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()


def environment(folder: Path, loop: Loop) -> dict[str, str]:
    """Return the environment for `loop`. The agent uses uvloop where it is installed, so asyncio hides it."""
    if loop == "uvloop":
        return {}
    place = folder / "without-uvloop"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text('import sys\nsys.modules["uvloop"] = None\n')
    return {"PYTHONPATH": str(place)}


def measure(folder: Path, run: Run) -> Figures:
    """Run everything once and return the figures."""
    port = free_port()
    env = {
        **environment(folder, run.loop),
        "BAROGRAPH_OTLP__INTERVAL": "10s",
        "BAROGRAPH_WEB__ENABLED": "true",
        "BAROGRAPH_WEB__LISTEN": f"127.0.0.1:{port}",
    }
    with simulated(folder, vms=run.vms, guests="steady:4,churning:1") as hypervisor:
        with backends(folder) as sinks:
            arguments = ("--monitor", f"{folder}/*.qmp", "--interval", f"{run.interval_s}s")
            arguments += ("--kafka", sinks.kafka, "--otlp", sinks.otlp)
            with agent(folder, *arguments, env=env) as process:
                window = _between(process, hypervisor, port, run)
                assert process.stop() == 0, process.stderr.read_text()[-2000:]
            totals = sinks.totals()
        lines = sinks.records.read_text().splitlines()
        shown = hypervisor.updates()
        sockets = [hypervisor.folder / f"{vm.name}.qmp" for vm in hypervisor.vms]
        bare_us = floor_us("bare", sockets, run.interval_s, run.floor_s)
        library_us = floor_us("library", sockets, run.interval_s, run.floor_s)
        names = {vm.truth: vm.name for vm in hypervisor.vms}
    samples = arrived(lines)
    lags: list[float] = []
    faults: list[str] = []
    for truth, name in names.items():
        ours = samples.get(name, [])
        found = compare(shown.get(truth, []), ours, until_ms=window.until_ms)
        wrong = [*found.lost, *found.invented, *found.repeated, *found.wrong]
        if wrong or found.disordered or not ours:
            faults.append(f"{name}: {len(ours)} samples, {found}"[:400])
        steady = [each for each in ours if window.from_ms <= each.observed_at_ms < window.until_ms]
        lags += compare(shown.get(truth, []), steady, until_ms=window.until_ms, steady_after=0).lags_ms
    readings, advances = _counted(totals, window)
    return Figures(
        cpu=window.cpu,
        sim_cpu=window.sim_cpu,
        rss_bytes=window.rss_bytes,
        scraped_rss_bytes=window.scraped_rss_bytes,
        readings_per_sample=readings / max(advances, 1),
        samples=advances,
        lags_ms=lags,
        faults=faults,
        bare_us=bare_us,
        library_us=library_us,
        cpu_us=1e6 * window.cpu * run.interval_s / run.vms,
    )


@dataclass(frozen=True, slots=True)
class _Window:
    """Measurements while the agent ran."""

    cpu: float
    sim_cpu: float
    rss_bytes: int
    scraped_rss_bytes: int
    from_ms: float
    until_ms: float


def _between(process: AgentProcess, hypervisor: Hypervisor, port: int, run: Run) -> _Window:
    """Let the agent learn, then measure."""
    time.sleep(run.learning_s)
    from_ms = time.time() * 1000
    begun_s, agent_s, sim_s = time.monotonic(), process.cpu_s(), cpu_s(hypervisor.pid)
    time.sleep(run.seconds)
    seconds = time.monotonic() - begun_s
    agent_s, sim_s = process.cpu_s() - agent_s, cpu_s(hypervisor.pid) - sim_s
    until_ms, rss_bytes = time.time() * 1000 - 500, peak_rss_bytes(process.process.pid)
    scrape(port)
    scraped_bytes = peak_rss_bytes(process.process.pid)
    return _Window(agent_s / seconds, sim_s / seconds, rss_bytes, scraped_bytes, from_ms, until_ms)


def _counted(totals: Sequence[Totals], window: _Window) -> tuple[int, int]:
    """Return readings and samples between the first export in the window and the last one."""
    inside = [each for each in totals if window.from_ms <= each.at_ms <= window.until_ms]
    if len(inside) < 2:
        raise RuntimeError(f"the agent exported its totals {len(inside)} times while it was measured")
    return inside[-1].readings - inside[0].readings, inside[-1].samples - inside[0].samples


def show(run: Run, figures: Figures) -> None:
    """Print the figures of one run."""
    vms, interval_s = run.vms, run.interval_s
    print(f"{vms} simulated VMs at {interval_s} s, {run.loop}, {run.seconds:.0f} s after learning")
    print(f"  agent's CPU                 {figures.cpu:.1%} of a core, {figures.cpu_us:.0f} us a sample")
    print(
        f"  floors, CPU a reading       bare sockets {figures.bare_us:.0f} us, qemu.qmp alone"
        f" {figures.library_us:.0f} us: {figures.bare_us * vms / interval_s / 1e6:.1%} and"
        f" {figures.library_us * vms / interval_s / 1e6:.1%} of a core"
    )
    print(
        f"  agent's memory, peak RSS    {figures.rss_bytes / MIB:.0f} MiB;"
        f" {figures.scraped_rss_bytes / MIB:.0f} once scraped"
    )
    print(f"  readings per sample         {figures.readings_per_sample:.3f} over {figures.samples} samples")
    print(
        f"  lag p50 / p99 / max         {figures.lag_ms(0.5):.1f} / {figures.lag_ms(0.99):.1f}"
        f" / {max(figures.lags_ms, default=float('nan')):.1f} ms"
    )
    print(f"  simulator's CPU             {figures.sim_cpu:.1%} of a core")
    print(f"  VMs with anything wrong     {len(figures.faults)}")
    for fault in figures.faults[:3]:
        print(f"    {fault}")
    sys.stdout.flush()


def read_run(words: str) -> Run:
    """Return the run that `VMS:INTERVAL_S[:LOOP]` describes."""
    vms, interval_s, *loop = words.split(":")
    return Run(
        int(vms),
        int(interval_s),
        seconds=30.0 if interval_s == "1" else 40.0,
        loop=cast(Loop, loop[0] if loop else "uvloop"),
        learning_s=max(LEARNT_S, (STEADY_AFTER + 0.5) * int(interval_s)),
    )


def main(words: Sequence[str]) -> int:
    """Print the figures; return 1 if a sample is lost, invented, repeated or wrong."""
    good = True
    done: dict[tuple[int, int], Figures] = {}
    for each in words or (*FAST, *SLOW):
        run = read_run(each)
        with tempfile.TemporaryDirectory(prefix="bf-", dir="/tmp") as folder:
            figures = measure(Path(folder), run)
        show(run, figures)
        if run.loop == "uvloop":
            done[run.vms, run.interval_s] = figures
        good = good and not figures.faults
    if (100, 10) in done and (1000, 10) in done:
        growth = done[1000, 10].cpu / 10 / done[100, 10].cpu
        print(f"CPU per VM at 10 s, of 1,000 beside 100: {growth:.2f}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
