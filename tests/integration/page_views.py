"""Views of an invented host for the tests of the page, served as the agent serves them."""

import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from zlib import crc32

import anyio
import anyio.from_thread
import anyio.lowlevel
from msgspec.structs import replace as with_fields

from agent.core.address import MonitorPath
from agent.core.health import Component, Health
from agent.core.host_memory import HostMemory, HostMemoryEvent, Ram, share_of, sums_of
from agent.core.outlook import Outlook, QueueOutlook, SpoolOutlook
from agent.core.pressure import PressureLevel, VmPressure, advance
from agent.core.psi import Psi, Stall
from agent.core.reading import Balloon, Configured, Sample, State, VmView
from agent.core.states import Reason
from agent.web.server import open_web
from agent.web.web_settings import Settings
from tests.unit.sinks.views import memory, sample, view, vm
from tests.unit.web.client import Present

GIB = 1 << 30
HOSTILE = (
    "<img src=x onerror=alert(1)><script>alert(1)</script>",
    "\N{RIGHT-TO-LEFT OVERRIDE}moc.lapyap \N{HEBREW LETTER ALEF}\N{HEBREW LETTER BET}\N{ARABIC LETTER MEEM}",
    "x" * 1_024,
    "`code` 'quote' \" &amp; ${1} #vm=other",
)

DETAILS = {
    State.STALLED: "no update within 30 s at an interval of 10 s; check whether the guest hangs, or its"
    " balloon driver is unloaded",
    State.UNREACHABLE: "no answer within 5 s: QEMU is stopped or hangs; check the QEMU process",
    State.NO_BALLOON: "QEMU has no virtio balloon; add the device virtio-balloon-pci",
}


def id_of(name: str) -> str:
    """Return the id of the VM with this name."""
    return f"00000000-0000-4000-8000-{crc32(name.encode()):012}"


def one(
    present: Present,
    name: str,
    *,
    share: float = 0.5,
    state: State = State.REPORTING,
    reason: str = Reason.ADVANCING,
    level: PressureLevel | None = None,
    every_s: int = 60,
    falls: bool = False,
    actual_bytes: int = 8 * GIB,
) -> VmView:
    """Return a VM, and add half an hour of its history to `present`."""
    now_s = int(time.time())
    of = vm(id_of(name), name, {"vmid": "107"})
    address = MonitorPath(f"/run/vm/{name.replace('/', '_')}.qmp")
    kept: VmPressure | None = None
    newest: Sample | None = None
    until_s = now_s if state is State.REPORTING else now_s - 700
    for at_s in range(now_s - 1_790, until_s, every_s):
        past = (now_s - at_s) / 1_800
        value = (
            min(1.0, share + past * (1 - share)) if falls else share + 0.1 * share * ((at_s // 60) % 3 - 1)
        )
        busy = level not in (None, PressureLevel.NONE)
        statistics = {
            "total_memory": 8 * GIB,
            "available_memory": int(8 * GIB * value),
            "free_memory": int(4 * GIB * value),
            "disk_caches": GIB // 2,
            "major_faults": (at_s - now_s + 2_000) * (12 if busy else 0),
            "swap_in": (at_s - now_s + 2_000) * (1_500_000 if busy else 0),
            "swap_out": (at_s - now_s + 2_000) * (900_000 if busy else 0),
        }
        newest = sample(at_s, of=of, address=address, statistics=statistics)
        newest = replace(newest, balloon=Balloon(actual_bytes, at_s * 1_000))
        after = advance(kept, epoch="epoch-1", last_update_s=at_s, polled=True, statistics=statistics)
        present.histories.sample(newest, kept, after)
        kept = after
        if at_s % 60 < every_s:
            seen = replace(memory(at_s * 1_000), vm=of, address=address, balloon=newest.balloon)
            present.histories.memory(seen)
    if kept is not None and level is not None:
        kept = with_fields(kept, level=level, score=1.0)
    changed_ms = (now_s - 2_400) * 1_000 if state is State.REPORTING else (now_s - 700) * 1_000
    event = view(of=of, address=address, state=state, since_ms=changed_ms, interval_s=10).state
    event = replace(event, reason=reason, detail=DETAILS.get(state, ""))
    present.histories.state(
        replace(event, state=State.CONNECTING, reason=Reason.FIRST_ATTEMPT, since_ms=(now_s - 2_401) * 1_000)
    )
    present.histories.state(event)
    made = VmView(event, newest, None if newest is None else newest.balloon, None, kept)
    seen = replace(memory(now_s * 1_000), vm=of, address=address, balloon=made.balloon)
    return replace(made, memory=replace(seen, configured=Configured(8 * GIB, 0, now_s * 1_000)))


def troubled(present: Present) -> list[VmView]:
    """Return nine VMs: three under pressure, three silent, three without problems."""
    silent = {
        State.STALLED: Reason.NO_ADVANCE,
        State.UNREACHABLE: Reason.NO_ANSWER,
        State.NO_BALLOON: Reason.NO_DEVICE,
    }
    killed = one(
        present,
        "batch-7",
        share=0.012,
        level=PressureLevel.OOM,
        falls=True,
        every_s=10,
        actual_bytes=6 * GIB,
    )
    return [
        one(present, "web-1", share=0.6),
        one(present, "web-2", share=0.4),
        killed,
        one(present, "db-3", share=0.03, level=PressureLevel.PRESSURE, falls=True),
        one(present, "cache-1", share=0.025, level=PressureLevel.LOW),
        *(
            one(present, f"dark-{state.value}", state=state, reason=reason)
            for state, reason in silent.items()
        ),
        one(present, "idle-9", state=State.PAUSED, reason="paused"),
    ]


def fill(present: Present, views: Sequence[VmView]) -> Present:
    """Add these VMs, a host, and an unreachable broker with a backlog to `present`; return it."""
    now_ms = time.time_ns() // 1_000_000
    present.views = views
    reporting = sum(each.state.state is State.REPORTING for each in views)
    present.components = {
        "discovery": Component(Health.OK, f"{len(views)} monitors watched, 0 refused", now_ms - 7_200_000),
        "collection": Component(Health.OK, f"{reporting} of {len(views)} VMs reporting", now_ms - 7_200_000),
        "spool": Component(Health.OK, "on disk", now_ms - 7_200_000),
        "kafka.samples": Component(Health.DEGRADED, "no broker reachable: 10.0.0.7:9092", now_ms - 95_000),
    }
    ram = Ram(256 * GIB, 3 * GIB, 21 * GIB, 8 * GIB, 7 * GIB)
    stalls = Psi(Stall(1.52, 0.8, 0.2, 5_000), Stall(0.4, 0.1, 0.0, 900))
    sums = sums_of(map(share_of, views))
    present.host_memory = HostMemoryEvent(1, now_ms, 60, HostMemory(ram, (), stalls, None), sums)
    present.outlook = Outlook(
        {"kafka.samples": QueueOutlook(12_345, now_ms - 95_000, 100.0, 20.0, None)},
        SpoolOutlook(3 * GIB // 2, 2 * GIB, 50_000.0, 10_737.0),
    )
    return present


@contextmanager
def serving(present: Present) -> Generator[str]:
    """Serve the page of `present` from a thread; yield its URL."""
    ready = threading.Event()
    urls: list[str] = []
    stop: list[anyio.CancelScope] = []

    async def serve() -> None:
        async with open_web(Settings(host="127.0.0.1", port=0), present.application()) as url:
            with anyio.CancelScope() as scope:
                urls.append(url)
                stop.append(scope)
                tokens.append(anyio.lowlevel.current_token())
                ready.set()
                await anyio.sleep_forever()

    tokens: list[anyio.lowlevel.EventLoopToken] = []
    thread = threading.Thread(target=anyio.run, args=(serve,))
    thread.start()
    try:
        assert ready.wait(120)
        yield urls[0]
    finally:
        anyio.from_thread.run_sync(stop[0].cancel, token=tokens[0])
        thread.join(120)
