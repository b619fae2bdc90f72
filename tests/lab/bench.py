"""Compare the agent's samples with a second monitor's: real guests at 1 s for a minute.

`make bench`, or `python -m tests.lab.bench [GUESTS [SECONDS [INTERVAL_S]]]`.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import qemu
from tests.lab.agent import agent
from tests.lab.measure import Arrived, Comparison, compare, quantile
from tests.lab.observer import Observer


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one run."""

    comparisons: Sequence[Comparison]
    readings_per_sample: float
    lag_p50_ms: float
    lag_p99_ms: float
    cpu_ms_per_sample: float


def arrived(lines: Sequence[str]) -> dict[str, list[Arrived]]:
    """Return the samples among an agent's JSON lines, by the VM's name."""
    samples: dict[str, list[Arrived]] = {}
    for line in lines:
        document: dict[str, Any] = json.loads(line)
        if document["schema"].startswith("barograph.vm.sample/"):
            samples.setdefault(document["vm"]["name"], []).append(
                Arrived(
                    document["last_update"],
                    document["observed_at_ms"],
                    document["sequence"],
                    document["statistics"],
                )
            )
    return samples


def readings_per_sample(lines: Sequence[str], from_ms: float) -> float:
    """Return the ratio by the agent's own counters, from its first record after `from_ms` to its last one."""
    records = [json.loads(line) for line in lines if '"barograph.agent.state/' in line]
    first = next(each for each in records if each["observed_at_ms"] >= from_ms)["counters"]
    last = records[-1]["counters"]
    return (last["readings"] - first["readings"]) / max(last["samples"] - first["samples"], 1)


def measure(folder: Path, guests: int, seconds: float, interval_s: int) -> Figures:
    """Run the guests, the observer and the agent, and compare."""
    with ExitStack() as stack:
        vms = [
            stack.enter_context(qemu.guest(folder, f"g{number}", booted=False)) for number in range(guests)
        ]
        for vm in vms:
            vm.wait_until_booted()
        observer = Observer([vm.truth for vm in vms], folder)
        arguments = ["--monitor", f"{folder}/*.qmp", "--interval", f"{interval_s}s"]
        often = {"BAROGRAPH_POLLING__HEARTBEAT": "2s"}  # the counters are in the agent's own record
        process = stack.enter_context(agent(folder, *arguments, env=often))
        learnt_s = 15.5 * interval_s
        time.sleep(learnt_s)
        steady_from_ms, cpu_before_s = time.time() * 1000, process.cpu_s()
        time.sleep(max(seconds - learnt_s, interval_s))
        until_ms = time.time() * 1000 - 200
        cpu_s = process.cpu_s() - cpu_before_s
        process.stop()
        shown = observer.stop()
    lines = process.stdout.read_text().splitlines()
    samples = arrived(lines)
    comparisons = [compare(shown[vm.truth], samples[vm.name], until_ms=until_ms) for vm in vms]
    lags = [lag for each in comparisons for lag in each.lags_ms]
    steady = [
        each
        for of_vm in samples.values()
        for each in of_vm
        if steady_from_ms <= each.observed_at_ms < until_ms
    ]
    return Figures(
        comparisons,
        readings_per_sample=readings_per_sample(lines, steady_from_ms),
        lag_p50_ms=quantile(lags, 0.5),
        lag_p99_ms=quantile(lags, 0.99),
        cpu_ms_per_sample=1000 * cpu_s / max(len(steady), 1),
    )


def main(words: Sequence[str]) -> int:
    """Print the figures; return 1 if a sample is lost, invented, wrong or repeated."""
    guests, seconds, interval_s = _numbers(words)
    print(f"{guests} real guests at {interval_s} s for {seconds} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="bb-", dir="/tmp") as folder:
        figures = measure(Path(folder), guests, seconds, interval_s)
    bad = 0
    for number, each in enumerate(figures.comparisons):
        faults = len(each.lost) + len(each.invented) + len(each.repeated) + len(each.wrong) + each.disordered
        bad += faults
        print(f"  g{number}: updates {each.updates}, samples {each.samples}, wrong in any way {faults}")
    print(f"readings per sample (steady)       {figures.readings_per_sample:.3f}")
    print(f"lag p50 / p99 (after 15 updates)  {figures.lag_p50_ms:.1f} / {figures.lag_p99_ms:.1f} ms")
    print(f"agent's CPU per sample            {figures.cpu_ms_per_sample:.2f} ms")
    return 1 if bad else 0


def _numbers(words: Sequence[str]) -> tuple[int, int, int]:
    given = [int(word) for word in words]
    guests, seconds, interval_s = [*given, *[3, 75, 1][len(given) :]]
    return guests, seconds, interval_s


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
