"""Measure what reading monitors costs without an agent: the lower bounds for the agent's CPU.

`python -m tests.lab.fleet_floors WAY INTERVAL_S SECONDS SOCKET...` reads each monitor once per interval,
spread evenly as the agent's readings are, and prints the microseconds of CPU for each reading. `WAY` is:

- `bare`: one thread with blocking sockets, one `recv` for each `send`, the answer parsed by json;
- `library`: qemu.qmp's client for each socket, in one event loop, and nothing else.
"""

import json
import logging
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import anyio
from qemu.qmp import QMPClient

from tests.lab.observer import QUESTION

Way = Literal["bare", "library"]


def floor_us(way: Way, sockets: Sequence[Path], interval_s: int, seconds: float) -> float:
    """Return the CPU time of one reading in microseconds, measured in a separate process."""
    words = ["-m", "tests.lab.fleet_floors", way, str(interval_s), str(seconds), *map(str, sockets)]
    run = subprocess.run(
        [sys.executable, *words],
        check=True,
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        cwd=Path(__file__).parents[2],
    )
    return float(run.stdout)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _bare(paths: Sequence[str], interval_s: int, seconds: float) -> float:
    monitors = [_connected(path) for path in paths]
    question = json.dumps(QUESTION).encode() + b"\n"
    begun_s, cpu_s, read = time.monotonic(), _cpu_s(), 0
    while (due_s := begun_s + interval_s * read / len(monitors)) < begun_s + seconds:
        time.sleep(max(due_s - time.monotonic(), 0))
        monitor = monitors[read % len(monitors)]
        monitor.sendall(question)
        answer = monitor.recv(65536)
        while not answer.endswith(b"\n") or b'"last-update"' not in answer:  # an event came first
            answer += monitor.recv(65536)
        json.loads(answer.splitlines()[-1])
        read += 1
    return 1e6 * (_cpu_s() - cpu_s) / read


def _connected(path: str) -> socket.socket:
    monitor = socket.socket(socket.AF_UNIX)
    monitor.settimeout(10)
    monitor.connect(path)
    monitor.recv(65536)
    monitor.sendall(b'{"execute": "qmp_capabilities"}\n')
    answer = b""
    while b'"return"' not in answer:
        answer += monitor.recv(65536)
    return monitor


async def _library(paths: Sequence[str], interval_s: int, seconds: float) -> float:
    logging.disable(logging.CRITICAL)
    clients = [QMPClient() for _ in paths]
    read = 0

    async def poll(client: QMPClient, first_s: float, until_s: float) -> None:
        nonlocal read
        due_s = first_s
        while due_s < until_s:
            await anyio.sleep_until(due_s)
            await client.execute("qom-get", cast("dict[str, object]", QUESTION["arguments"]))
            read += 1
            due_s += interval_s

    for client, path in zip(clients, paths, strict=True):
        await client.connect(path)
    begun_s, cpu_s = anyio.current_time(), _cpu_s()
    async with anyio.create_task_group() as group:
        for number, client in enumerate(clients):
            first_s = begun_s + interval_s * number / len(clients)
            group.start_soon(poll, client, first_s, begun_s + seconds)
    used_s = _cpu_s() - cpu_s
    for client in clients:
        await client.disconnect()
    return 1e6 * used_s / read


def _main(way: str, interval_s: str, seconds: str, *paths: str) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if way == "bare":
        print(_bare(paths, int(interval_s), float(seconds)))
    else:
        print(anyio.run(_library, paths, int(interval_s), float(seconds)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
