"""Troubles of agents, hosts and guests short of memory, for `tests.lab.record_series agents`."""

import os
import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from tests.contract.generate_rules import RULES
from tests.lab.agent import barograph
from tests.lab.embedded_kafka import embedded_kafka
from tests.lab.guest_troubles import fill, run_out, swap
from tests.lab.kafka import RealKafka, real_kafka
from tests.lab.played_troubles import STEP_S, Habit, Host, Recording, Step, guests, next_start_s, play
from tests.lab.prometheus import prometheus
from tests.lab.sim import simulated

MINUTES = 36
MORE = (
    "barograph_lag_seconds_bucket",
    "qemu_host_memory_available_bytes",
    "qemu_host_memory_limit_bytes",
)
"""The series that the rules about lags and hosts need."""

_SAMPLES, _STATES = "barograph.samples", "barograph.states"
_OWN_MEMINFO = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /proc/meminfo && exec "$@"')
_STOPPED_S, _CYCLE_S = 8, 12


def leaves_out(metric: Mapping[str, str]) -> bool:
    """Return whether a series shows no trouble: those of simulated VMs, and the lags of all but node-3."""
    if "qemu_vm_id" in metric or "qemu_vm_monitor_path" in metric:
        return metric.get("host_name") in ("node-2", "node-3")
    return "le" in metric and not f"{metric.get('instance')}".startswith(("node-3", "3333"))


def show_available(meminfo: Path, percent: int) -> None:
    """Write the /proc/meminfo of a host with this share of its memory available."""
    lines: list[str] = []
    total_kib = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            total_kib = int(line.split()[1])
        shown = f"MemAvailable: {total_kib * percent // 100:>14} kB"
        lines.append(shown if line.startswith("MemAvailable:") else line)
    text = ("\n".join(lines) + "\n").encode()
    if not meminfo.exists():
        meminfo.touch()
    with meminfo.open("r+b") as file:  # in place, because the file is mounted for the agent
        file.write(text)
        file.truncate()


def requeue(host: Host, kafka: RealKafka) -> None:
    """Follow the runbook: correct the topic, stop the agent, requeue the records, start the agent."""
    kafka.delete_topic(_SAMPLES)
    kafka.create_topic(_SAMPLES)
    host.running.stop()
    words = ("spool", "dead-letters", "requeue", "--all", "--state-directory", str(host.folder / "state"))
    done = barograph(*words)
    assert done.returncode == 0, done.stderr
    host.start()


def run_slowly(host: Host) -> None:
    """Let the agent run for 4 of every 12 seconds."""
    stopped = time.time() % _CYCLE_S < _STOPPED_S
    os.kill(host.running.process.pid, signal.SIGSTOP if stopped else signal.SIGCONT)


def record(folder: Path, into: Path, minutes: float) -> None:
    """Record three hosts: real guests short of memory, a spool that fills, an agent that lacks CPU time."""
    first, second, third = (folder / f"h{digit}" for digit in (1, 2, 3))
    for each in (first, second, third):
        each.mkdir()
    meminfo = folder / "meminfo"
    show_available(meminfo, 40)
    with ExitStack() as stack:
        vms = guests(stack, first, ["low", "thrash", "oom"])
        stack.enter_context(simulated(second, vms=30))
        stack.enter_context(simulated(third, vms=3))
        away = stack.enter_context(embedded_kafka(1))
        away.take_down()
        kafka = stack.enter_context(real_kafka(folder / "kafka"))
        kafka.create_topic(_SAMPLES, max_message_bytes="200")
        kafka.create_topic(_STATES)
        otlp = stack.enter_context(prometheus(folder / "o", rules=RULES, every_s=STEP_S))
        sent = ("--otlp", otlp.otlp, "--interval")
        small = {"BAROGRAPH_SPOOL__SIZE": "32MiB", "BAROGRAPH_MEMORY__INTERVAL": f"{STEP_S}s"}
        node_1 = Host("node-1", first, (*sent, "10s"), {"BAROGRAPH_LINES__ENABLED": "true"})
        node_2 = Host(
            *("node-2", second, (*sent, "1s", "--kafka", away.bootstrap), small),
            within=(*_OWN_MEMINFO, str(meminfo)),
        )
        node_3 = Host("node-3", third, (*sent, "10s", "--kafka", kafka.bootstrap), {})
        nodes = (node_1, node_2, node_3)
        for each in nodes:
            stack.enter_context(each.stack)
            each.start()
        hosts = {f"{each.name}:19464": f"127.0.0.1:{each.port}" for each in nodes}
        scraped = stack.enter_context(prometheus(folder / "s", hosts=hosts, rules=RULES, every_s=STEP_S))
        start_s = next_start_s()
        recordings = {
            into / f"agents_{kind}.yaml": Recording(server, start_s, folder, MORE, leaves_out)
            for kind, server in (("scraped", scraped), ("otlp", otlp))
        }
        steps = [
            Step(0, "node-2", "the Kafka brokers are down", lambda: None),
            Step(0, "node-3", "the topic of the samples accepts 200 bytes at most", lambda: None),
            Step(1, "low", "the guest fills its memory to 2 %", lambda: fill(vms["low"], 22)),
            Step(1, "node-2", "3 % of the host's memory is available", lambda: show_available(meminfo, 3)),
            Step(
                2,
                "thrash",
                "the guest works with more than its memory, and swaps",
                lambda: swap(vms["thrash"]),
            ),
            Step(3, "oom", "the guest's kernel kills a process", lambda: run_out(vms["oom"])),
            Step(
                12,
                "node-3",
                "the topic is corrected, and the records requeued",
                lambda: requeue(node_3, kafka),
            ),
            Step(13, "node-2", "40 % of the host's memory is available", lambda: show_available(meminfo, 40)),
            Step(13, "thrash", "the guest stops, and frees its memory", lambda: vms["thrash"].order("calm")),
            Step(14, "node-3", "the agent has the CPU for 4 of 12 seconds (SIGSTOP)", lambda: None),
            Step(18, "node-2", "the Kafka brokers are back", away.bring_up),
            Step(
                27,
                "node-3",
                "the agent has the CPU again (SIGCONT)",
                lambda: os.kill(node_3.running.process.pid, signal.SIGCONT),
            ),
        ]
        play(recordings, start_s, minutes, steps, [Habit(14, 27, lambda: run_slowly(node_3))])
