"""`barograph demo`: a simulated hypervisor and the agent, each a process of its own, and what it says.

Everything shown comes from the agent's records, as JSON lines, and from the simulator's log of updates: that
is the truth which the samples are held against.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console, Group

from simulator.demo.hypervisor import Hypervisor, simulator
from simulator.demo.measure import PROMISED_MS, STEADY_AFTER, Shown, quantile, update_in
from simulator.demo.process import AgentProcess, kill
from simulator.demo.records import Document, Records
from simulator.demo.scenarios import SCENARIOS, Act, Scenario, Vm, cast_of
from simulator.demo.screen import picture, readings, summary
from simulator.demo.show import Step, show

INTERRUPTED = 130
PLACE_BYTES_MAX = 60
"""A socket's path may have 107 bytes: unix(7)."""

_NAMED_MAX = 12
_STARTS_WITHIN_S = 60
_USUAL = {"BAROGRAPH_LINES__ENABLED": "true", "BAROGRAPH_WEB__ENABLED": "false"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is to be shown."""

    scenario: Scenario
    vms: int
    seconds: int
    interval: str  # as the agent takes it
    interval_s: float
    kafka: str | None
    otlp: str | None

    def arguments(self, folder: Path) -> list[str]:
        """Return the arguments of `barograph run`, over a folder of simulated monitors."""
        # A host of its own, so that nobody's Kafka takes these VMs for the machine's.
        host = ["--host-id", uuid.uuid4().hex, "--host-name", "simulated"]
        words = ["--monitor", f"{folder}/*.qmp", "--interval", self.interval, *host]
        words += ["--state-directory", f"{folder}/state"]
        words += [] if self.kafka is None else ["--kafka", self.kafka]
        return words + ([] if self.otlp is None else ["--otlp", self.otlp])

    def environment(self, ours: Mapping[str, str]) -> dict[str, str]:
        """Return the agent's environment: of what would configure it, only that of sinks asked for."""
        wanted = ("BAROGRAPH_KAFKA__",) if self.kafka else ()
        wanted += ("BAROGRAPH_OTLP__", "OTEL_EXPORTER_") if self.otlp else ()
        kept = {
            name: value
            for name, value in ours.items()
            if name.startswith(wanted) or not name.startswith(("BAROGRAPH_", "OTEL_"))
        }
        # The agent's own counts come with its heartbeat.
        often = {"BAROGRAPH_POLLING__HEARTBEAT": f"{max(self.seconds // 4, 2)}s"}
        return kept | _USUAL | often | dict(SCENARIOS[self.scenario].settings)


def demo(options: Options) -> int:
    """Show it; return the exit code: 0, or 1 where something was lost, repeated or wrong, or could not be."""
    console = Console() if sys.stdout.isatty() else Console(width=120)
    for end in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(end, _interrupt)
    try:
        place = tempfile.TemporaryDirectory(prefix="bd-", dir=short_place(os.environ))
        with place as folder, ExitStack() as stack:
            code = _Demo(console, options, Path(folder), stack).run()
    except (RuntimeError, OSError) as error:
        console.print(f"the demo could not go on: {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    console.print("nothing of it is left running")
    return code


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def short_place(environ: Mapping[str, str]) -> str:
    """Return where temporary folders may be made whose sockets' paths are not too long.

    Raises:
        RuntimeError: nowhere.
    """
    for place in (tempfile.gettempdir(), environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/var/tmp"):
        if 0 < len(os.fsencode(place)) <= PLACE_BYTES_MAX and os.access(place, os.W_OK | os.X_OK):
            return place
    raise RuntimeError("no folder with a short path may be written to, for the sockets: set TMPDIR")


class _Tail:
    """A file that grows by lines."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._begun = b""

    def lines(self) -> Sequence[str]:
        """Return what is new, by whole lines."""
        *lines, self._begun = (self._begun + self._file.read()).split(b"\n")
        return [line.decode() for line in lines]

    def close(self) -> None:
        self._file.close()


class _Demo:
    """One run: everything it starts ends with `stack`."""

    def __init__(self, console: Console, options: Options, folder: Path, stack: ExitStack) -> None:
        self._console = console
        self._options = options
        self._folder = folder
        self._stack = stack
        self._script = SCENARIOS[options.scenario]
        self._vms = cast_of(self._script, options.vms, uuid.uuid4().hex)
        self._records = Records()
        self._shown: dict[str, list[Shown]] = {}
        self._ends_ms: dict[str, list[float]] = {}  # when something was done to a VM
        self._unreadable_from_ms: dict[str, float] = {}
        self._resident_bytes = 0

    def run(self) -> int:
        options = self._options
        name, told = options.scenario, f"{options.vms} simulated VMs for {options.seconds} s"
        self._console.print(f"{name}: {self._script.about}\n\n{told}; no QEMU is needed, and none is used")
        self._simulator = self._stack.enter_context(simulator(self._folder, "--vms", "0", "--no-truths"))
        self._hypervisor = Hypervisor(self._folder, self._simulator)
        self._stack.callback(self._hypervisor.close)
        self._updates = self._tail(self._hypervisor.updates_log)
        for vm in self._vms:
            if not vm.role.comes_at:
                self._add(vm)
        arguments = options.arguments(self._folder)
        self._console.print(f"barograph run {' '.join(arguments)}", soft_wrap=True)
        started_ms = time.time() * 1000
        self._agent = AgentProcess(self._folder, arguments, options.environment(os.environ))
        self._stack.callback(self._agent.kill)
        self._lines = self._tail(self._agent.stdout)
        self._wait_for_the_agent()
        interrupted = self._show(time.time() * 1000)
        cpu_s = self._agent.cpu_s()
        passed_s, until_ms = time.time() - started_ms / 1000, time.time() * 1000 - PROMISED_MS
        code = self._stop()
        faults = self._sum_up(started_ms, until_ms)
        self._console.print(
            f"the agent: {100 * cpu_s / passed_s:.1f} % of one core, its start included ({cpu_s:.1f} s); "
            f"{self._resident_bytes / 1e6:.0f} MB of memory at most"
        )
        if faults:
            self._console.print(f"{faults} samples lost, repeated or wrong", style="bold red")
        if code:
            self._console.print(f"the agent's exit code is {code}", style="bold red")
        return INTERRUPTED if interrupted else int(bool(faults or code))

    def _tail(self, path: Path) -> _Tail:
        tail = _Tail(path)
        self._stack.callback(tail.close)
        return tail

    def _add(self, vm: Vm) -> None:
        self._hypervisor.add_vm(vm.name, vm.spec)
        if vm.role.held:
            tool = self._stack.enter_context(socket.socket(socket.AF_UNIX))
            tool.connect(str(self._folder / f"{vm.name}.qmp"))

    # ---- while it runs

    def _wait_for_the_agent(self) -> None:
        """Return once it has looked for monitors: the script's time begins then.

        Raises:
            RuntimeError: it has ended, or does not get so far.
        """
        deadline = time.monotonic() + _STARTS_WITHIN_S
        while not any(record["state"] == "running" for record in self._records.agent):
            self._look()
            if time.monotonic() > deadline:
                raise RuntimeError(f"the agent did not start within {_STARTS_WITHIN_S} s")
            time.sleep(0.05)

    def _show(self, began_ms: float) -> bool:
        """Follow the script; say whether it was interrupted."""
        options = self._options

        def draw(left: str) -> Group:
            title = f"{options.scenario}: simulated VMs, as the agent's records tell{left}"
            return picture(self._console, self._records, began_ms, title, lag_ms=self._lag_ms)

        try:
            show(
                self._console,
                self._records,
                [step for vm in self._vms for step in self._steps(vm)],
                began_ms=began_ms,
                seconds=options.seconds,
                look=self._look,
                draw=draw,
            )
        except KeyboardInterrupt:
            self._console.print("interrupted: ending")
            return True
        return False

    def _steps(self, vm: Vm) -> list[Step]:
        seconds, name = self._options.seconds, vm.name
        steps = [
            Step(act.at * seconds, name, act.words, partial(self._do, name, act)) for act in vm.role.acts
        ]
        if vm.role.held:
            steps.append(Step(0, name, "another tool has its monitor", lambda: None))
        if vm.role.comes_at:
            words = "it is started, a clone with the uuid of another VM"
            steps.append(Step(vm.role.comes_at * seconds, name, words, partial(self._add, vm)))
        return steps

    def _do(self, name: str, act: Act) -> None:
        now_ms = time.time() * 1000
        self._ends_ms.setdefault(name, []).append(now_ms)
        if act.for_good:
            self._unreadable_from_ms[name] = now_ms
        for words in act.orders:
            try:
                self._hypervisor.order(words, name)
            except RuntimeError as error:  # a run so short that it comes before its time
                self._records.tell(name, f"could not be: {error}")

    def _look(self) -> None:
        """See that both run, and take what has come.

        Raises:
            RuntimeError: one has ended.
        """
        self._agent.must_be_running()
        if self._simulator.poll() is not None:
            raise RuntimeError(f"the simulator has ended:\n{self._hypervisor.log.read_text()[-4000:]}")
        self._resident_bytes = max(self._resident_bytes, self._agent.resident_bytes())
        self._take()

    def _take(self) -> None:
        for line in self._updates.lines():
            path, update = update_in(line)
            self._shown.setdefault(path.stem, []).append(update)
        for line in self._lines.lines():
            self._records.take(json.loads(line))

    def _lag_ms(self, name: str, sample: Document) -> float | None:
        """Return how long an update stood before it was read, if the log has it yet."""
        recent = reversed(self._shown.get(name, [])[-5:])
        seen_ms = [each.first_seen_ms for each in recent if each.last_update_s == sample["last_update"]]
        return sample["observed_at_ms"] - min(seen_ms) if seen_ms else None

    # ---- at its end

    def _stop(self) -> int:
        """End the agent in order; return its exit code."""
        self._hypervisor.order("flush")
        try:
            code = self._agent.stop()
        except subprocess.TimeoutExpired:
            self._console.print("the agent does not end: it is killed", style="bold red")
            self._agent.kill()
            code = self._agent.process.returncode
        self._take()
        kill(self._simulator)
        return code

    def _sum_up(self, started_ms: float, until_ms: float) -> int:
        """Print the figures; return how many samples were lost, repeated or wrong."""
        console, records = self._console, self._records
        made = sum(len(of_vm) for of_vm in self._shown.values())
        samples = sum(len(of_vm) for of_vm in records.samples.values())
        console.print(
            f"\n{made} updates were made, {samples} samples came. Of each VM, from its first sample on:"
        )
        liars = [vm.name for vm in self._vms if vm.role.lies]
        owed = {vm.name: self._shown.get(vm.name, []) for vm in self._vms if self._can_be_read(vm)}
        faults = summary(
            console,
            records,
            owed,
            until_ms,
            ends_ms=self._ends_ms,
            unreadable_from_ms=self._unreadable_from_ms,
            liars=liars,
        )
        self._name(liars)
        console.print(f"states seen: {', '.join(sorted(records.states_seen))}")
        undisturbed = {vm.name for vm in self._vms if not (vm.role.acts or vm.role.comes_at)}
        firsts = [
            of_vm[0]["observed_at_ms"] for name, of_vm in records.samples.items() if name in undisturbed
        ]
        if firsts:
            half_s, last_s = ((at_ms - started_ms) / 1000 for at_ms in (quantile(firsts, 0.5), max(firsts)))
            console.print(
                f"first samples, from the start of the agent's process: half of {len(firsts)} VMs within "
                f"{half_s:.1f} s, the last within {last_s:.1f} s"
            )
        steady_at_ms = started_ms + (STEADY_AFTER + 3) * self._options.interval_s * 1000
        console.print(readings(records, steady_at_ms))
        return faults

    def _can_be_read(self, vm: Vm) -> bool:
        """Say whether the agent owes samples: not of another tool's VM, a clone, or one it never got to."""
        got_to = self._records.states.get(vm.name, {}).get("state", "connecting") != "connecting"
        return got_to and not (vm.role.held or vm.role.clone_of)

    def _name(self, liars: Sequence[str]) -> None:
        """Say who does not report at the end, and why; and what was kept out of whose samples."""
        states = self._records.states
        away = sorted(name for name, state in states.items() if state["state"] != "reporting")
        for name in away[:_NAMED_MAX]:
            state = states[name]
            words = f"  {name}: {state['state']} ({state['reason']}): {state['detail']}"
            self._console.print(words, markup=False, highlight=False, soft_wrap=True)
        if len(away) > _NAMED_MAX:
            self._console.print(f"  and {len(away) - _NAMED_MAX} more that do not report")
        counters: Mapping[str, int] = self._records.agent[-1]["counters"] if self._records.agent else {}
        kept_out = sum(count for name, count in counters.items() if name.startswith("statistics_refused"))
        if liars:
            self._console.print(f"  {', '.join(liars)}: {kept_out} impossible values kept out of its samples")
