"""Records real guests in trouble, as Prometheus stores them: `python -m tests.lab.record_series FOLDER`.

Two agents observe guests of QEMU for 50 minutes, while the guests swap, run out of memory, unload the driver,
hang, and end. One Prometheus scrapes both agents, another receives their OTLP; both evaluate the rules of
monitoring/. FOLDER gets `scraped.yaml` and `otlp.yaml`, written again every 5 minutes: the series in
promtool's notation, and the alerts that fired. Nothing is scaled: the times are those of the rules.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.contract.generate_rules import RULES
from tests.lab import qemu, setup
from tests.lab.agent import AgentProcess, agent
from tests.lab.embedded_kafka import EmbeddedKafka, embedded_kafka
from tests.lab.process import free_port, kill, no_child_left
from tests.lab.prometheus import Prometheus, prometheus
from tests.lab.recorded_series import HELD, TIMED, Firing, as_document, held, notation, timed

STEP_S = 15
"""The interval of scrapes, of OTLP and of the rules."""

MINUTES = 50
WRITE_EVERY_S = 300.0

_SHOWN_FOLDER = "/run/vms"  # instead of the temporary one


@dataclass
class Host:
    """One hypervisor: its guests and its agent, which a step may kill and start again."""

    name: str
    folder: Path
    digit: str
    arguments: Sequence[str]
    env: Mapping[str, str]
    port: int = field(default_factory=free_port)
    stack: ExitStack = field(default_factory=ExitStack)
    process: AgentProcess | None = None

    def start(self) -> None:
        """Start the agent."""
        words = ["--monitor", f"{self.folder}/*.qmp", "--host-id", self.digit * 32, "--host-name", self.name]
        env = {
            "BAROGRAPH_WEB__ENABLED": "true",
            "BAROGRAPH_WEB__LISTEN": f"127.0.0.1:{self.port}",
            "BAROGRAPH_OTLP__INTERVAL": f"{STEP_S}s",
            **self.env,
        }
        self.process = self.stack.enter_context(agent(self.folder, *words, *self.arguments, env=env))

    def kill(self) -> None:
        """End the agent as a host does that loses power."""
        assert self.process is not None
        kill(self.process.process)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens to a VM or an agent."""

    minute: float
    subject: str
    words: str
    act: Callable[[], object]


def guests(stack: ExitStack, folder: Path, names: Sequence[str]) -> dict[str, qemu.Vm]:
    """Boot guests of Linux 6.12 on the newer QEMU, which give all statistics. Each has a disk to swap to."""
    vms: dict[str, qemu.Vm] = {}
    for number, name in enumerate(names, 1):
        disk = folder / f"{name}.disk"
        with disk.open("wb") as file:
            file.truncate(256 << 20)
        vms[name] = stack.enter_context(
            qemu.guest(
                folder,
                name,
                *("-drive", f"file={disk},if=virtio,format=raw,cache=unsafe"),
                uuid=f"00000000-0000-4000-8000-{folder.name[-1]}{number:011d}",
                command=setup.newer_qemu(),
                image=setup.newer_guest(),
            )
        )
        print(f"{name} has booted", flush=True)
    return vms


def fill(vm: qemu.Vm) -> None:
    """Leave the guest a little more than 2 % of its memory."""
    with vm.monitor() as monitor:
        _, stats = monitor.guest_stats()
    left = stats["stat-available-memory"] - stats["stat-total-memory"] * 22 // 1000
    vm.order("room 400")
    vm.order(f"dirty {left >> 20}")


def run_out(vm: qemu.Vm) -> None:
    """Let a program allocate more memory than there is."""
    with vm.monitor() as monitor:
        _, stats = monitor.guest_stats()
    mib = stats["stat-available-memory"] >> 20
    vm.order(f"dirty {mib // 2}")
    vm.order(f"hog {mib * 2 // 3}")


def command(vm: qemu.Vm, name: str) -> None:
    """Give QEMU a command, as an administrator does."""
    with qemu.Monitor(vm.hands) as monitor:
        monitor.command(name)


def swap(vm: qemu.Vm) -> None:
    """Let the guest work with more than its memory."""
    vm.order("swap")
    vm.order("room 400")
    vm.order("thrash 120")


def steps(
    vms: Mapping[str, qemu.Vm], holder: Callable[[], object], away: Host, kafka: EmbeddedKafka
) -> list[Step]:
    """Return what happens, in order."""
    return sorted(
        [
            Step(1, "low", "the guest fills its memory to 2 %", lambda: fill(vms["low"])),
            Step(
                2,
                "thrash",
                "the guest works with more than its memory, and swaps",
                lambda: swap(vms["thrash"]),
            ),
            Step(3, "oom", "the guest's kernel kills a process", lambda: run_out(vms["oom"])),
            Step(3, "driver", "the guest unloads its balloon driver", lambda: vms["driver"].order("unload")),
            Step(3, "frozen", "QEMU hangs (SIGSTOP)", vms["frozen"].freeze),
            Step(3, "paused", "QEMU's `stop`", lambda: command(vms["paused"], "stop")),
            Step(5, "killed", "QEMU is killed", vms["killed"].kill),
            Step(9, "paused", "QEMU's `cont`", lambda: command(vms["paused"], "cont")),
            Step(11, "driver", "the guest loads its balloon driver", lambda: vms["driver"].order("load")),
            Step(11, "frozen", "QEMU goes on (SIGCONT)", vms["frozen"].thaw),
            Step(13, "held", "the other client leaves the monitor", holder),
            Step(13, "thrash", "the guest stops, and frees its memory", lambda: vms["thrash"].order("calm")),
            Step(13, "node-8", "the Kafka brokers are back", kafka.bring_up),
            Step(24, "node-8", "the agent is killed", away.kill),
            Step(31, "node-8", "the agent is started again", away.start),
            Step(33, "low", "the guest frees its memory", lambda: vms["low"].order("clean")),
        ],
        key=lambda step: step.minute,
    )


class Recording:
    """What one Prometheus has, from the start of the first step."""

    def __init__(self, server: Prometheus, start_s: float, folder: Path) -> None:
        self._server = server
        self._start_s = start_s
        self._folder = str(folder)
        self._firings: dict[str, Firing] = {}

    def watch(self) -> None:
        """Note the alerts that fire now, with their texts."""
        now_s = time.time() - self._start_s
        for alert in self._server.alerts():
            if alert["state"] != "firing":
                continue
            labels = self._shown(alert["labels"])
            key = f"{sorted(labels.items())} {alert['activeAt']}"
            known = self._firings.get(key)
            first_s = now_s if known is None else known.first_s
            self._firings[key] = Firing(labels, self._shown(alert["annotations"]), first_s, now_s)

    def write(self, path: Path, done: Sequence[Step]) -> None:
        """Write the series and the alerts so far."""
        steps = int((time.time() - self._start_s) / STEP_S)
        end_s = self._start_s + steps * STEP_S
        series: dict[str, str] = {}
        for name in (*HELD, *TIMED):
            points = self._points(name, end_s) if name in TIMED else {}
            for each in self._server.query_range(name, self._start_s, end_s, STEP_S):
                key = self._key(name, each["metric"])
                values = {round((at - self._start_s) / STEP_S): value for at, value in each["values"]}
                seconds = (
                    timed(points.get(key, {}), values, STEP_S, steps)
                    if name in TIMED
                    else held(values, STEP_S, steps)
                )
                series[key] = notation(seconds, steps * STEP_S)
        events = [{"minute": each.minute, "subject": each.subject, "what": each.words} for each in done]
        path.write_text(as_document(events, series, list(self._firings.values())))

    def _points(self, name: str, end_s: float) -> dict[str, dict[int, str]]:
        """Return the samples of each series as they are stored, by second."""
        found = self._server.query(f"{name}[{round(end_s - self._start_s)}s]", end_s)
        return {
            self._key(name, each["metric"]): {
                round(at - self._start_s): value for at, value in each["values"] if at >= self._start_s
            }
            for each in found
        }

    def _key(self, name: str, metric: Mapping[str, Any]) -> str:
        labels = sorted((key, value) for key, value in self._shown(metric).items() if key != "__name__")
        inside = ",".join(f'{key}="{value}"' for key, value in labels)
        return f"{name}{{{inside}}}"

    def _shown(self, texts: Mapping[str, Any]) -> dict[str, str]:
        return {key: str(value).replace(self._folder, _SHOWN_FOLDER) for key, value in texts.items()}


def record(folder: Path, into: Path, minutes: float) -> None:
    """Run everything once."""
    first, second = folder / "h7", folder / "h8"
    first.mkdir()
    second.mkdir()
    with ExitStack() as stack:
        vms = guests(stack, first, ["low", "thrash", "oom", "driver", "frozen", "paused", "killed", "steady"])
        held = stack.enter_context(qemu.idle(first, "held", "-uuid", "00000000-0000-4000-8000-700000000009"))
        vms |= guests(stack, second, ["contended"])
        holder = qemu.Monitor(held.qmp)
        stack.callback(holder.close)
        kafka = stack.enter_context(embedded_kafka(1))
        kafka.take_down()
        otlp = stack.enter_context(prometheus(folder / "o", rules=RULES, every_s=STEP_S))
        sent = ("--interval", "10s", "--otlp", otlp.otlp)
        away_env = {"BAROGRAPH_SPOOL__AGE": "8m"}
        node_7 = Host("node-7", first, "7", sent, {"BAROGRAPH_LINES__ENABLED": "true"})
        node_8 = Host("node-8", second, "8", (*sent, "--kafka", kafka.bootstrap), away_env)
        hosts = {f"{each.name}:19464": f"127.0.0.1:{each.port}" for each in (node_7, node_8)}
        for each in (node_7, node_8):
            stack.enter_context(each.stack)
            each.start()
        scraped = stack.enter_context(prometheus(folder / "s", hosts=hosts, rules=RULES, every_s=STEP_S))
        start_s = float(int(time.time() / STEP_S + 1) * STEP_S)
        recordings = {
            "scraped": Recording(scraped, start_s, folder),
            "otlp": Recording(otlp, start_s, folder),
        }
        rival = stack.enter_context(vms["contended"].monitor())
        todo = steps(vms, holder.close, node_8, kafka)
        done: list[Step] = []
        written_s = time.time()
        while (now_s := time.time()) < start_s + minutes * 60:
            while todo and now_s >= start_s + todo[0].minute * 60:
                step = todo.pop(0)
                print(f"{step.minute:4.0f} min  {step.subject}: {step.words}", flush=True)
                step.act()
                done.append(step)
            if 60 < now_s - start_s < 600:
                rival.set_interval(0)
            for each in recordings.values():
                each.watch()
            if now_s - written_s > WRITE_EVERY_S:
                written_s = now_s
                for name, each in recordings.items():
                    each.write(into / f"{name}.yaml", done)
            time.sleep(3)
        for name, each in recordings.items():
            each.write(into / f"{name}.yaml", done)


def main(words: Sequence[str]) -> int:
    """Record for 50 minutes, or as many as the second argument says."""
    into = Path(words[0])
    into.mkdir(parents=True, exist_ok=True)
    minutes = float(words[1]) if len(words) > 1 else MINUTES
    with no_child_left(), tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp") as folder:
        record(Path(folder), into, minutes)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
