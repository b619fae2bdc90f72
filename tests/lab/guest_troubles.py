"""Troubles of real guests and of the links to them, for `tests.lab.record_series guests`."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from tests.contract.generate_rules import RULES
from tests.lab import qemu
from tests.lab.embedded_kafka import EmbeddedKafka, embedded_kafka
from tests.lab.played_troubles import PORT, STEP_S, Habit, Host, Recording, Step, guests, next_start_s, play
from tests.lab.prometheus import prometheus

MINUTES = 50


def fill(vm: qemu.Vm, left_permille: int) -> None:
    """Fill the guest's memory until only this part is available."""
    with vm.monitor() as monitor:
        _, stats = monitor.guest_stats()
    left = stats["stat-available-memory"] - stats["stat-total-memory"] * left_permille // 1000
    vm.order("room 400")
    vm.order(f"dirty {left >> 20}")


def run_out(vm: qemu.Vm) -> None:
    """Let a program of the guest allocate more memory than is available."""
    with vm.monitor() as monitor:
        _, stats = monitor.guest_stats()
    mib = stats["stat-available-memory"] >> 20
    vm.order(f"dirty {mib // 2}")
    vm.order(f"hog {mib * 2 // 3}")


def swap(vm: qemu.Vm) -> None:
    """Let the guest use more memory than it has, and swap."""
    vm.order("swap")
    vm.order("room 400")
    vm.order("thrash 120")


def _command(vm: qemu.Vm, name: str) -> None:
    """Give QEMU a command, as an administrator does."""
    with qemu.Monitor(vm.hands) as monitor:
        monitor.command(name)


def _steps(
    vms: Mapping[str, qemu.Vm], holder: Callable[[], object], away: Host, kafka: EmbeddedKafka
) -> list[Step]:
    thrash = vms["thrash"]
    return [
        Step(1, "low", "the guest fills its memory to 2 %", lambda: fill(vms["low"], 22)),
        Step(2, "thrash", "the guest works with more than its memory, and swaps", lambda: swap(thrash)),
        Step(3, "oom", "the guest's kernel kills a process", lambda: run_out(vms["oom"])),
        Step(3, "driver", "the guest unloads its balloon driver", lambda: vms["driver"].order("unload")),
        Step(3, "frozen", "QEMU hangs (SIGSTOP)", vms["frozen"].freeze),
        Step(3, "paused", "QEMU's `stop`", lambda: _command(vms["paused"], "stop")),
        Step(5, "killed", "QEMU is killed", vms["killed"].kill),
        Step(9, "paused", "QEMU's `cont`", lambda: _command(vms["paused"], "cont")),
        Step(11, "driver", "the guest loads its balloon driver", lambda: vms["driver"].order("load")),
        Step(11, "frozen", "QEMU goes on (SIGCONT)", vms["frozen"].thaw),
        Step(13, "held", "the other client leaves the monitor", holder),
        Step(13, "thrash", "the guest stops, and frees its memory", lambda: thrash.order("calm")),
        Step(13, "node-8", "the Kafka brokers are back", kafka.bring_up),
        Step(24, "node-8", "the agent is killed", away.kill),
        Step(31, "node-8", "the agent is started again", away.start),
        Step(33, "low", "the guest frees its memory", lambda: vms["low"].order("clean")),
    ]


def record(folder: Path, into: Path, minutes: float) -> None:
    """Record two hosts with twelve VMs."""
    first, second = folder / "h7", folder / "h8"
    first.mkdir()
    second.mkdir()
    with ExitStack() as stack:
        vms = guests(stack, first, ["low", "thrash", "oom", "driver", "frozen", "paused", "killed", "steady"])
        held = stack.enter_context(qemu.idle(first, "held", "-uuid", "00000000-0000-4000-8000-700000000009"))
        vms |= guests(stack, second, ["contended"])
        vms |= guests(stack, second, ["driverless"], first=2, driver=False)
        vms |= guests(stack, second, ["bare"], *PORT, first=3, balloon=False)
        holder = qemu.Monitor(held.qmp)
        stack.callback(holder.close)
        kafka = stack.enter_context(embedded_kafka(1))
        kafka.take_down()
        otlp = stack.enter_context(prometheus(folder / "o", rules=RULES, every_s=STEP_S))
        sent = ("--interval", "10s", "--otlp", otlp.otlp)
        node_7 = Host("node-7", first, sent, {"BAROGRAPH_LINES__ENABLED": "true"})
        node_8 = Host("node-8", second, (*sent, "--kafka", kafka.bootstrap), {"BAROGRAPH_SPOOL__AGE": "8m"})
        hosts = {f"{each.name}:19464": f"127.0.0.1:{each.port}" for each in (node_7, node_8)}
        for each in (node_7, node_8):
            stack.enter_context(each.stack)
            each.start()
        scraped = stack.enter_context(prometheus(folder / "s", hosts=hosts, rules=RULES, every_s=STEP_S))
        start_s = next_start_s()
        recordings = {
            into / "scraped.yaml": Recording(scraped, start_s, folder),
            into / "otlp.yaml": Recording(otlp, start_s, folder),
        }
        rival = stack.enter_context(vms["contended"].monitor())
        habits = [Habit(1, 10, lambda: rival.set_interval(0))]
        play(recordings, start_s, minutes, _steps(vms, holder.close, node_8, kafka), habits)
