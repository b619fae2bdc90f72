"""Troubles of single guests, for `tests.lab.record_series silent` and `stalls`.

The agent's metrics are read directly, without a Prometheus: promtool evaluates the rules afterwards.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.lab import qemu
from tests.lab.guest_troubles import swap
from tests.lab.local_http import NO_ANSWER, OPENER
from tests.lab.played_troubles import PORT, STEP_S, Host, Step, guests, next_start_s
from tests.lab.recorded_series import as_document, from_pages

LABELS = {"instance": "node-9:19464", "job": "barograph"}


class Silent:
    """A guest that has no balloon driver for an hour, and one that has no balloon."""

    MINUTES = 66

    @staticmethod
    def record(folder: Path, into: Path, minutes: float) -> None:
        """Record the two guests."""
        with ExitStack() as stack:
            host = _host(folder)
            vms = guests(stack, host.folder, ["driverless"], driver=False)
            vms |= guests(stack, host.folder, ["bare"], *PORT, first=2, balloon=False)
            steps = [
                Step(61, "driverless", "the guest loads its driver", lambda: vms["driverless"].order("load")),
                Step(61, "bare", "a balloon is plugged in", lambda: _plug_in(vms["bare"])),
            ]
            _read(stack, host, into / "silent_scraped.yaml", minutes, steps)


class Stalls:
    """A guest whose programs allocate and free memory, while another one swaps."""

    MINUTES = 26

    @staticmethod
    def record(folder: Path, into: Path, minutes: float) -> None:
        """Record the guest."""
        with ExitStack() as stack:
            host = _host(folder)
            vm = guests(stack, host.folder, ["stalls"])["stalls"]
            steps = [
                Step(1, "stalls", "programs allocate and free memory, and swap", lambda: squeeze(vm)),
                Step(16, "stalls", "the program that swaps ends", lambda: vm.order("calm")),
            ]
            _read(stack, host, into / "stalls_scraped.yaml", minutes, steps)


def squeeze(vm: qemu.Vm) -> None:
    """Let programs of the guest allocate and free memory again and again, while another one swaps."""
    swap(vm)
    vm.order("churn")
    vm.order("churn")


def _plug_in(vm: qemu.Vm) -> None:
    with qemu.Monitor(vm.hands) as monitor:
        monitor.command("device_add", driver="virtio-balloon-pci", id="balloon0", bus="port0")


def _host(folder: Path) -> Host:
    host = Host("node-9", folder / "h9", ("--interval", "10s"), {"BAROGRAPH_LINES__ENABLED": "true"})
    host.folder.mkdir()
    return host


def _read(stack: ExitStack, host: Host, path: Path, minutes: float, steps: Sequence[Step]) -> None:
    """Read the metrics of the host's agent at each step of the clock. Write them even after an error."""
    stack.enter_context(host.stack)
    host.start()
    host.running.wait_for_log(" web ", 120)
    start_s = next_start_s()
    pages: list[str] = []
    todo = list(steps)
    try:
        while len(pages) * STEP_S < minutes * 60:
            time.sleep(max(0.0, start_s + len(pages) * STEP_S - time.time()))
            pages.append(_page(host.port))
            while todo and len(pages) * STEP_S > todo[0].minute * 60:
                todo.pop(0).act()
    finally:
        events = [{"minute": each.minute, "subject": each.subject, "what": each.words} for each in steps]
        path.write_text(as_document(events, from_pages(pages, LABELS, start_s, STEP_S), []))


def _page(port: int) -> str:
    """Return the agent's answer to a scrape, or an empty text if it does not answer."""
    try:
        with OPENER.open(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return answer.read().decode()
    except NO_ANSWER:
        return ""
