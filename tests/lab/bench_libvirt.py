"""Measure the agent with hundreds of domains, on a stand-in for libvirt's Python bindings.

`python -m tests.lab.bench_libvirt [DOMAINS [SECONDS [INTERVAL_S [ANSWER_MS]]]]`. `ANSWER_MS` is how long
libvirt takes for each domain of a bulk call. What calls cost in libvirt is not measured
here, but by `tests.lab.bench_peers`.
"""

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.agent import agent
from tests.lab.measure import quantile
from tests.lab.process import wait_until

STANDIN = Path(__file__).parent / "standin"


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one run, for its steady part."""

    samples: int
    updates: float  # of all domains meanwhile
    asked: int  # domains, over all bulk calls
    calls: Counter[str]
    lag_p50_ms: float
    lag_p99_ms: float
    cpu_share: float
    resident_mib: float
    all_after_s: float  # from the start of the agent to a sample of each domain
    troubles: int  # how often a VM was unreachable, stalled or gone, since the start


def measure(folder: Path, domains: int, seconds: float, interval_s: int, answer_ms: float) -> Figures:
    """Run the agent, let it learn, and return the figures."""
    calls = folder / "calls"
    env = {
        "PYTHONPATH": str(STANDIN),
        "STANDIN_DOMAINS": str(domains),
        "STANDIN_PERIOD_S": str(interval_s),
        "STANDIN_ANSWER_MS": str(answer_ms),
        "STANDIN_LOG": str(calls),
    }
    with agent(folder, "--libvirt", "test:///default", "--interval", f"{interval_s}s", env=env) as process:
        begun_s = time.monotonic()
        wait_until(lambda: _vms(process.stdout) == domains, "each VM", process.process, process.stderr, 120)
        all_after_s = time.monotonic() - begun_s
        time.sleep(6.5 * interval_s)
        from_ms, cpu_s, before = time.time() * 1000, process.cpu_s(), _calls(calls)
        time.sleep(seconds)
        until_ms, cpu_s, after = time.time() * 1000, process.cpu_s() - cpu_s, _calls(calls)
        resident = process.resident_bytes()
        process.must_be_running()
        process.stop()
    documents: list[dict[str, Any]] = [json.loads(line) for line in process.stdout.read_text().splitlines()]
    samples = [
        document
        for document in documents
        if document["schema"].startswith("barograph.vm.sample/")
        and from_ms <= document["observed_at_ms"] < until_ms
    ]
    lags = [each["observed_at_ms"] - each["statistics"]["minor_faults"] for each in samples]
    counted, asked = Counter[str](), 0
    for name, number in after[len(before) :]:
        counted[name] += 1
        asked += number if name == "domainListGetStats" else 0
    spent_s = (until_ms - from_ms) / 1000
    return Figures(
        samples=len(samples),
        updates=domains * spent_s / (interval_s + 0.003),
        asked=asked,
        calls=counted,
        lag_p50_ms=quantile(lags, 0.5),
        lag_p99_ms=quantile(lags, 0.99),
        cpu_share=cpu_s / spent_s,
        resident_mib=resident / 2**20,
        all_after_s=all_after_s,
        troubles=sum(document.get("state") in ("unreachable", "stalled", "gone") for document in documents),
    )


def _vms(lines: Path) -> int:
    """Return how many VMs have had a sample."""
    text = lines.read_text()
    documents = map(json.loads, text[: text.rfind("\n") + 1].splitlines())
    return len({each["vm"]["id"] for each in documents if each["schema"].startswith("barograph.vm.sample/")})


def _calls(log: Path) -> list[tuple[str, int]]:
    return [(line.split()[0], int(line.split()[1])) for line in log.read_text().splitlines()]


def main(words: Sequence[str]) -> int:
    """Print the figures."""
    given: list[Any] = [int(word) for word in words]
    domains, seconds, interval_s, answer_ms = [*given, *[500, 60, 10, 1][len(given) :]]
    with tempfile.TemporaryDirectory(prefix="bl-", dir="/tmp") as folder:
        got = measure(Path(folder), domains, seconds, interval_s, answer_ms)
    bulk = got.calls["domainListGetStats"]
    others = {name: number for name, number in sorted(got.calls.items()) if name != "domainListGetStats"}
    print(f"{domains} domains at {interval_s} s for {seconds} s, {answer_ms} ms for each in a bulk call")
    print(f"a sample of each after            {got.all_after_s:.1f} s")
    print(f"VMs unreachable, stalled, gone    {got.troubles}")
    print(f"samples                           {got.samples} of {got.updates:.0f} updates")
    print(f"domains asked per sample          {got.asked / max(got.samples, 1):.3f}")
    print(f"bulk calls per sample             {bulk / max(got.samples, 1):.3f} ({bulk / seconds:.1f}/s)")
    print(f"other calls                       {others}")
    print(f"lag p50 / p99                     {got.lag_p50_ms:.1f} / {got.lag_p99_ms:.1f} ms")
    print(f"CPU                               {100 * got.cpu_share:.1f} % of a core")
    print(f"memory                            {got.resident_mib:.0f} MiB resident")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
