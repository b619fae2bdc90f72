"""Measure an agent that finds no VM: its start, then CPU and wake-ups, without sinks and with all sinks.

`python -m tests.lab.bench_idle [SECONDS]`, by default 60 s. Both agents run at the same time, with the page.
A wake-up is the end of a sleep of one of the agent's threads.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.agent import AgentProcess, agent
from tests.lab.fleet_backends import backends
from tests.lab.local_http import NO_ANSWER, OPENER
from tests.lab.process import free_port

STARTS = 7
SETTLED_S = 45.0
"""By then the agent has run its garbage collection twice."""


@dataclass(frozen=True, slots=True)
class Used:
    """The resources that a process has used so far."""

    cpu_s: float
    wakeups: int


def used(pid: int) -> Used:
    """Return the CPU and the wake-ups of all threads of a process."""
    cpu_ns = wakeups = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        cpu_ns += int((thread / "schedstat").read_text().split()[0])
        status = (thread / "status").read_text()
        wakeups += int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])
    return Used(cpu_ns / 1e9, wakeups)


def web(port: int) -> Mapping[str, str]:
    """Return the environment that enables the agent's page."""
    return {"BAROGRAPH_WEB__ENABLED": "true", "BAROGRAPH_WEB__LISTEN": f"127.0.0.1:{port}"}


def start(folder: Path) -> tuple[float, float]:
    """Return the seconds from the start of an agent until it is ready, and the CPU time of the start."""
    port, begun_s = free_port(), time.monotonic()
    with agent(folder, "--monitor", f"{folder}/*.qmp", env=web(port)) as process:
        while not _is_ready(port):
            time.sleep(0.005)
        took_s, cpu_s = time.monotonic() - begun_s, process.cpu_s()
        process.stop()
    return took_s, cpu_s


def _is_ready(port: int) -> bool:
    try:
        with OPENER.open(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return True
    except NO_ANSWER:
        return False


def show(what: str, before: Used, after: Used, seconds: float) -> None:
    """Print the use between two readings."""
    cpu, wakeups_per_s = (after.cpu_s - before.cpu_s) / seconds, (after.wakeups - before.wakeups) / seconds
    print(f"{what}: {cpu:.3%} of a core, {wakeups_per_s:.2f} wake-ups a second", flush=True)


def idle(folder: Path, seconds: float) -> None:
    """Print the CPU and the wake-ups of two agents."""
    (folder / "sinks").mkdir()
    (folder / "none").mkdir()
    with backends(folder) as sinks:
        words = ("--monitor", f"{folder}/*.qmp")
        with_sinks = (*words, "--kafka", sinks.kafka, "--otlp", sinks.otlp)
        with (
            agent(folder / "none", *words, env=web(free_port())) as one,
            agent(folder / "sinks", *with_sinks, env=web(free_port())) as other,
        ):
            agents: Mapping[str, AgentProcess] = {"without sinks": one, "with Kafka and OTLP": other}
            time.sleep(SETTLED_S)
            before = {what: used(each.process.pid) for what, each in agents.items()}
            time.sleep(seconds)
            for what, each in agents.items():
                show(what, before[what], used(each.process.pid), seconds)
            for each in agents.values():
                each.stop()


def main(words: Sequence[str]) -> int:
    """Print the figures."""
    seconds = float(words[0]) if words else 60.0
    with tempfile.TemporaryDirectory(prefix="bi-", dir="/tmp") as name:
        folder = Path(name)
        starts = [start(folder) for _ in range(STARTS)]
        took_s, cpu_s = (statistics.median(each) for each in zip(*starts, strict=True))
        print(f"start to ready, median of {STARTS}: {took_s:.2f} s, {cpu_s:.2f} s of CPU", flush=True)
        idle(folder, seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
