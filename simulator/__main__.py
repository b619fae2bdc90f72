"""A simulated hypervisor: `python -m simulator --folder DIR --vms 1000`.

The folder then holds, for each VM `vm0001` and on, its monitors `vm0001.qmp` (the agent's) and `vm0001.truth`
(anybody else's), and of the whole

- `control`: takes orders, see `simulator.orders`; it is there once every VM is;
- `updates.jsonl`: every update of every VM as it happens, see `simulator.host.UpdatesLog`.

It runs until SIGTERM or SIGINT.
"""

import argparse
import json
import os
import random
import resource
import signal
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import anyio
from anyio.abc import SocketStream, TaskStatus
from anyio.streams.buffered import BufferedByteReceiveStream

from simulator.guest import MIB, Kind
from simulator.host import Host, UpdatesLog
from simulator.orders import follow
from simulator.qemu import Refused, Spec
from simulator.versions import VERSIONS

LONGEST_ORDER = 65536


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, and run until told to end."""
    options = _parser().parse_args(argv)
    # Two monitors, and a client on each.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    anyio.run(_run, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("simulator", description="A simulated hypervisor.")
    add = parser.add_argument
    add("--folder", type=Path, required=True, help="for its sockets: short, and there")
    add("--vms", type=int, default=1)
    add("--preset", type=int, default=0, help="the interval that somebody has set before, in seconds; 0: off")
    add("--qemu", choices=list(VERSIONS), default="10.0")
    add("--guests", default="steady", help="kinds with shares, such as steady:8,leaking:2")
    add("--memory", type=int, default=1024, help="of each, in MiB")
    add("--boot", type=float, default=3.0, help="seconds from a reset to the balloon driver")
    add("--booting", action="store_true", help="boot them now: else they run already")
    add("--seed", type=int, default=1)
    add("--no-truths", action="store_true", help="no second monitors")
    add("--no-log", action="store_true", help="no updates.jsonl")
    return parser


def specs(options: argparse.Namespace) -> list[Spec]:
    """Return the VMs of a command line."""
    chance = random.Random(options.seed)
    kinds: list[Kind] = []
    for part in str(options.guests).split(","):
        kind, _, share = part.partition(":")
        kinds += [Kind(kind)] * int(share or 1)
    return [
        Spec(
            name=f"vm{number:04}",
            version=options.qemu,
            uuid=str(uuid.UUID(int=chance.getrandbits(128), version=4)),
            memory_bytes=options.memory * MIB,
            guest=kinds[number % len(kinds)],
            boot_s=options.boot,
            booted=not options.booting,
            interval_s=options.preset,
            seed=chance.getrandbits(32),
        )
        for number in range(1, options.vms + 1)
    ]


async def _run(options: argparse.Namespace) -> None:
    folder: Path = options.folder
    log = None if options.no_log else UpdatesLog(folder / "updates.jsonl")
    host = Host(folder, truths=not options.no_truths, log=log)
    try:
        async with anyio.create_task_group() as group:
            await group.start(host.run)
            for spec in specs(options):
                host.add(spec)
            await group.start(_take_orders, host, folder / "control")
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    break
            group.cancel_scope.cancel()
    finally:
        if log is not None:
            log.close()


async def _take_orders(
    host: Host, path: Path, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    async def serve(client: SocketStream) -> None:
        lines = BufferedByteReceiveStream(client)
        async with client:
            try:
                while True:
                    line = await lines.receive_until(b"\n", LONGEST_ORDER)
                    await client.send(json.dumps(_answer(host, line)).encode() + b"\n")
            except (
                anyio.EndOfStream,
                anyio.IncompleteRead,
                anyio.BrokenResourceError,
                anyio.DelimiterNotFound,
            ):
                return

    new = path.with_suffix(".new")
    listener = await anyio.create_unix_listener(os.fspath(new))
    new.rename(path)  # now it listens
    task_status.started()
    await listener.serve(serve)


def _answer(host: Host, line: bytes) -> dict[str, object]:
    try:
        message: object = json.loads(line)
        if not isinstance(message, dict):
            raise Refused("an order is an object")
        return {"return": follow(host, cast(dict[str, object], message))}
    except (Refused, ValueError) as error:
        return {"error": str(error)}


if __name__ == "__main__":
    main()
