"""A simulated hypervisor: `python -m simulator --folder DIR --vms 1000`.

The folder then contains two monitors of each VM, `vm0001.qmp` for the agent and `vm0001.truth` for observers,
and

- `control`: the socket that accepts orders (`simulator.orders`); it exists once all VMs run;
- `updates.jsonl`: every update of every VM as it happens (`simulator.updates_log.UpdatesLog`).

The simulator runs until SIGTERM or SIGINT.
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
from simulator.orders import perform
from simulator.qemu import Refused, Spec
from simulator.versions import VERSIONS

ORDER_BYTES_MAX = 65536


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run until SIGTERM or SIGINT."""
    options = _parser().parse_args(argv)
    # Each VM needs two listeners and a connection on each.
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    anyio.run(_run, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("simulator", description="A simulated hypervisor.")
    add = parser.add_argument
    add("--folder", type=Path, required=True, help="existing folder for the sockets; its path must be short")
    add("--vms", type=int, default=1, help="number of VMs")
    add("--preset", type=int, default=0, help="polling interval in seconds at the start")
    add("--qemu", choices=list(VERSIONS), default="10.0", help="version of QEMU")
    add("--guests", default="steady", help="kinds of guests with weights, such as steady:8,leaking:2")
    add("--memory", type=int, default=1024, help="of each VM, in MiB")
    add("--boot", type=float, default=3.0, help="seconds from a reset until the balloon driver is loaded")
    add(
        "--booting",
        action="store_true",
        help="boot the guests at the start; default: they have booted already",
    )
    add("--seed", type=int, default=1, help="of everything random")
    add("--no-truths", action="store_true", help="no truth monitors")
    add("--no-log", action="store_true", help="no updates.jsonl")
    return parser


def specs_of(options: argparse.Namespace) -> list[Spec]:
    """Return the VMs that the command line requests."""
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
            for spec in specs_of(options):
                host.add(spec)
            await group.start(_serve_orders, host, folder / "control")
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    break
            group.cancel_scope.cancel()
    finally:
        if log is not None:
            log.close()


async def _serve_orders(
    host: Host, path: Path, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    async def serve(client: SocketStream) -> None:
        lines = BufferedByteReceiveStream(client)
        async with client:
            try:
                while True:
                    line = await lines.receive_until(b"\n", ORDER_BYTES_MAX)
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
    new.rename(path)  # appears only when it accepts connections
    task_status.started()
    await listener.serve(serve)


def _answer(host: Host, line: bytes) -> dict[str, object]:
    try:
        message: object = json.loads(line)
        if not isinstance(message, dict):
            raise Refused("an order must be a JSON object")
        return {"return": perform(host, cast(dict[str, object], message))}
    except (Refused, ValueError) as error:
        return {"error": str(error)}


if __name__ == "__main__":
    main()
