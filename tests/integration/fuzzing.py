"""Run an agent on hostile and healthy monitors, and measure it after a given number of messages."""

import json
import sys
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.core.address import MonitorPath
from agent.runtime.fleet import path_id
from tests.integration.watching import conserved
from tests.lab.agent import agent
from tests.lab.bench import arrived
from tests.lab.fuzz_peer import HEALTHY_PERIOD_S, healthy_statistics
from tests.lab.measure import Comparison, Shown, compare, quantile
from tests.lab.process import kill, start, wait_until

HEALTHY = 3
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one run."""

    messages: int  # received by the agent
    seconds: float
    sent: Mapping[str, int]
    rss_warm_bytes: int
    rss_end_bytes: int
    healthy: Sequence[Comparison]
    hostile_samples: int
    wrong: Sequence[str]  # samples of hostile VMs that the monitor never sent, or repeated ones
    totals: Mapping[str, int]  # the agent's own counters
    cpu_share: float

    @property
    def lag_p99_ms(self) -> float:
        """The p99 of the lag of the healthy VMs."""
        return quantile([lag for each in self.healthy for lag in each.lags_ms], 0.99)

    def show(self) -> str:
        """Return the figures as text."""
        refused = {
            name: total
            for name, total in self.totals.items()
            if name.startswith(("readings_refused", "statistics_refused", "link_failures"))
        }
        per_s = self.messages / self.seconds
        return (
            f"{self.messages} messages received within {self.seconds:.0f} s: {per_s:.0f}/s,"
            f" the agent at {self.cpu_share:.0%} of a core; sent: {dict(self.sent)}\n"
            f"memory {self.rss_warm_bytes / 1e6:.1f} MB warm, {self.rss_end_bytes / 1e6:.1f} MB at the end\n"
            f"hostile samples {self.hostile_samples}, wrong {len(self.wrong)};"
            f" healthy {sum(each.samples for each in self.healthy)}, their lag p99 {self.lag_p99_ms:.1f} ms\n"
            f"refused: {refused}"
        )


def fuzz(folder: Path, messages: int, peers: int, seed: int, *, seconds_max: float) -> Figures:
    """Run an agent on hostile and healthy monitors until it has received `messages` of the hostile ones."""
    report, truth = folder / "hostile.json", folder / "healthy.json"
    env = {
        "BAROGRAPH_LINES__ENABLED": "true",
        "BAROGRAPH_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",  # no broker: the spool keeps all records
        "BAROGRAPH_OTLP__ENDPOINT": "http://127.0.0.1:1",
        "BAROGRAPH_OTLP__INTERVAL": "2s",
    }
    with (
        _peers("healthy", folder, HEALTHY, 0, truth),
        agent(folder / "run", "--monitor", f"{folder}/*.qmp", "--interval", "1s", env=env) as process,
    ):
        process.wait_for_log("healthy-2")
        with _peers("hostile", folder, peers, seed, report.with_suffix(".progress")) as hostile:
            begun_s, cpu_s = time.monotonic(), process.cpu_s()
            rss_warm = rss = 0
            taken = 0
            while taken < messages:
                time.sleep(0.5)
                if process.process.poll() is not None:
                    raise AssertionError(f"the agent has ended:\n{process.stderr.read_text()[-8000:]}")
                if time.monotonic() - begun_s > seconds_max:
                    raise AssertionError(f"only {taken} messages received within {seconds_max} s")
                taken = json.loads(report.with_suffix(".progress").read_text()).get("consumed", 0)
                rss = process.resident_bytes()
                if not rss_warm and taken > messages * 0.3:
                    rss_warm = rss
            seconds, cpu_s = time.monotonic() - begun_s, process.cpu_s() - cpu_s
            until_ms = time.time() * 1000 - 1000
            hostile.terminate()
            hostile.wait(120)
        said = json.loads(report.read_text())
        assert process.stop() == 0, process.stderr.read_text()[-4000:]
        log = process.stderr.read_text()
        totals = conserved(process)
        assert "Traceback" not in log, log[-4000:]
        assert "could not encode" not in log, log[-4000:]  # the OTLP exporter's
        lines = process.stdout.read_text().splitlines()
    return Figures(
        messages=taken,
        seconds=seconds,
        sent=said["counts"],
        rss_warm_bytes=rss_warm or rss,
        rss_end_bytes=rss,
        healthy=_compare_healthy(lines, json.loads(truth.read_text()), until_ms),
        **_judge_hostile(lines, folder, said["said"]),
        totals=totals,
        cpu_share=cpu_s / seconds,
    )


def _compare_healthy(lines: Sequence[str], bases_s: Sequence[float], until_ms: float) -> list[Comparison]:
    samples = arrived([line for line in lines if '"name":"healthy-' in line])
    found: list[Comparison] = []
    for number, base_s in enumerate(bases_s):
        updates = range(1, int((until_ms / 1000 - base_s) / HEALTHY_PERIOD_S) + 10)
        shown = [
            Shown(
                int(base_s + update * HEALTHY_PERIOD_S),
                (base_s + update * HEALTHY_PERIOD_S) * 1000,
                healthy_statistics(update),
            )
            for update in updates
        ]
        found.append(compare(shown, samples[f"healthy-{number}"], until_ms=until_ms, steady_after=4))
    return found


def _judge_hostile(
    lines: Sequence[str], folder: Path, said: Sequence[tuple[int, int, Any]]
) -> dict[str, Any]:
    may = {_reading(number, last_update_s, statistics) for number, last_update_s, statistics in said}
    told: Counter[str] = Counter()
    wrong: list[str] = []
    for line in lines:
        document = json.loads(line)
        healthy = document.get("vm", {}).get("id", "").startswith("ffffffff-0000-4000-8000-")
        if not document["schema"].startswith("barograph.vm.sample/") or healthy:
            continue
        number = document["statistics"].get("htlb_pgalloc", -1)
        reading = _reading(number, document["last_update"], document["statistics"])
        told[reading] += 1
        own = path_id(document["host"]["id"], MonitorPath(str(folder / f"hostile-{number}.qmp")))
        right_vm = document["vm"]["id"] == own or document["vm"]["id"].startswith(f"{number:08x}-")
        if reading not in may or not right_vm:
            wrong.append(line)
    wrong += [reading for reading, times in told.items() if times > 1]
    return {"hostile_samples": told.total(), "wrong": wrong}


def _reading(number: int, last_update_s: int, statistics: Mapping[str, int]) -> str:
    return json.dumps([number, last_update_s, sorted(statistics.items())])


@contextmanager
def _peers(kind: str, folder: Path, count: int, seed: int, there: Path) -> Generator[Any]:
    report = there.with_suffix(".json")
    log = folder / f"{kind}.log"
    argv = [sys.executable, "-m", "tests.lab.fuzz_peer", kind, folder, str(count), str(seed), report]
    process = start(argv, log, cwd=_ROOT)
    try:
        wait_until(there.exists, kind, process, log, 120)
        yield process
    finally:
        kill(process)
