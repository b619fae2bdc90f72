"""Measure the lag while monitors of another user flood the agent: `python -m tests.lab.bench_floods`.

For each number of flooding monitors, an agent runs with these and the same simulated VMs. A flooding monitor
answers as a VM does until it is asked for statistics, and then sends events without end, on each new
connection too. It needs root, to give the monitors to another user.

`python -m tests.lab.bench_floods [SECONDS [PEERS...]]`: by default 60 s each, with 0, 300 and 700 peers.
"""

import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.lab.agent import agent
from tests.lab.bench import arrived
from tests.lab.hostile import EVENT, GREETING, plausible
from tests.lab.measure import compare, quantile
from tests.lab.process import kill, start, wait_until
from tests.lab.sim import simulated

VMS = 20
USER = 12_345
LEARNING_S = 70.0  # at 1 s the agent needs some 65 updates to learn the cadence


def main(seconds: float, peers: list[int]) -> None:
    """Measure, and print a line for each number of peers."""
    for count in peers:
        with tempfile.TemporaryDirectory(prefix="bf-", dir="/tmp") as folder:
            p50_ms, p99_ms, cpu, lost = measure(Path(folder), count, seconds)
        print(
            f"{count} flooding monitors beside {VMS} VMs: lag p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms,"
            f" CPU {cpu:.2f}, updates lost {lost}",
            flush=True,
        )


def measure(folder: Path, count: int, seconds: float) -> tuple[float, float, float, int]:
    """Return the median and 99th percentile of the lag in ms, the share of one core, and the lost updates."""
    env = {"BAROGRAPH_LINES__ENABLED": "true"}
    with simulated(folder, vms=VMS, guests="steady:1") as hypervisor, flooding(folder, count):
        with agent(folder, "--monitor", f"{folder}/**/*.qmp", "--interval", "1s", env=env) as process:
            time.sleep(LEARNING_S)
            from_ms, begun_cpu_s = time.time() * 1000, process.cpu_s()
            time.sleep(seconds)
            until_ms, cpu = time.time() * 1000, (process.cpu_s() - begun_cpu_s) / seconds
            time.sleep(2)  # the last update is read meanwhile
            process.must_be_running()
            process.stop()
            samples = arrived(process.stdout.read_text().splitlines())
        shown = hypervisor.updates()
        names = {vm.truth: vm.name for vm in hypervisor.vms}
    lags_ms: list[float] = []
    lost = 0
    for truth, name in names.items():
        inside = [each for each in samples[name] if from_ms <= each.observed_at_ms < until_ms]
        lags_ms += compare(shown[truth], inside, until_ms=until_ms, steady_after=0).lags_ms
        lost += sum(
            at_s * 1000 >= from_ms for at_s in compare(shown[truth], samples[name], until_ms=until_ms).lost
        )
    return quantile(lags_ms, 0.5), quantile(lags_ms, 0.99), cpu, lost


@contextmanager
def flooding(folder: Path, count: int) -> Generator[None]:
    """Run `count` flooding monitors of another user, in one process, until the block ends."""
    place = folder / "flooding"
    place.mkdir()
    os.chown(place, USER, USER)
    folder.chmod(0o755)
    log = folder / "flooding.log"
    argv = [sys.executable, "-m", "tests.lab.bench_floods", "serve", place, str(count)]
    process = start(argv, log, cwd=Path(__file__).parents[2])
    try:
        wait_until(lambda: "listening" in log.read_text(), "flooding monitors", process, log, 120)
        yield
    finally:
        kill(process)


async def _serve(folder: Path, count: int) -> None:
    os.setgroups([])
    os.setgid(USER)
    os.setuid(USER)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    servers = [await asyncio.start_unix_server(_talk, folder / f"{number}.qmp") for number in range(count)]
    print("listening", flush=True)
    await asyncio.Event().wait()
    for server in servers:
        server.close()


async def _talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, ValueError):
        writer.write(GREETING.encode())
        while request := await reader.readline():
            asked = json.loads(request)
            if asked["execute"] == "qmp_capabilities":
                writer.write(json.dumps({"return": {}, "id": asked.get("id")}).encode() + b"\r\n")
            elif (answer := plausible(asked)) is not None:
                writer.write(answer.encode())
            else:
                while True:
                    writer.write(EVENT.encode() * 20)
                    await writer.drain()
    writer.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(_serve(Path(sys.argv[2]), int(sys.argv[3])))
    else:
        main(float((sys.argv[1:] or ["60"])[0]), [int(each) for each in sys.argv[2:]] or [0, 300, 700])
