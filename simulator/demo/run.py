"""Run `barograph demo`: a simulated hypervisor and the agent as two processes.

The demo shows what the agent's records say, read as JSON lines, and compares the samples with the simulator's
log of updates.
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
from simulator.demo.scenarios import SCENARIOS, Action, Scenario, Vm, vms_of
from simulator.demo.screen import count_of, readings, render, summary
from simulator.demo.show import Step, show

INTERRUPTED = 130
PARENT_BYTES_MAX = 60
"""The longest path of the temporary folder's parent: a socket's path has at most 107 bytes (unix(7))."""

_NOT_REPORTING_MAX = 12
"""The summary names at most this many VMs that do not report."""

_START_TIMEOUT_S = 240
_SETTINGS = {"BAROGRAPH_LINES__ENABLED": "true", "BAROGRAPH_WEB__ENABLED": "false"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to show."""

    scenario: Scenario
    vms: int
    seconds: int
    interval: str  # as the agent's flag takes it
    interval_s: float
    kafka: str | None
    otlp: str | None

    def arguments(self, folder: Path) -> list[str]:
        """Return the arguments of `barograph run` for the simulated monitors in a folder."""
        # A unique host id keeps the simulated VMs apart from those of this host in a shared Kafka.
        host = ["--host-id", uuid.uuid4().hex, "--host-name", "simulated"]
        arguments = ["--monitor", f"{folder}/*.qmp", "--interval", self.interval, *host]
        arguments += ["--state-directory", f"{folder}/state"]
        arguments += [] if self.kafka is None else ["--kafka", self.kafka]
        return arguments + ([] if self.otlp is None else ["--otlp", self.otlp])

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """Return the agent's environment, with inherited settings only for the sinks that are used."""
        passed_on = ("BAROGRAPH_KAFKA__",) if self.kafka else ()
        passed_on += ("BAROGRAPH_OTLP__", "OTEL_EXPORTER_") if self.otlp else ()
        kept = {
            name: value
            for name, value in inherited.items()
            if name.startswith(passed_on) or not name.startswith(("BAROGRAPH_", "OTEL_"))
        }
        # The heartbeat carries the agent's counters, which the summary needs.
        heartbeat = {"BAROGRAPH_POLLING__HEARTBEAT": f"{max(self.seconds // 4, 2)}s"}
        return kept | _SETTINGS | heartbeat | dict(SCENARIOS[self.scenario].settings)


def run_demo(options: Options) -> int:
    """Run the demo and return the exit code.

    0: no fault; 1: a sample was lost, repeated or wrong, or the demo failed; 130: interrupted.
    """
    console = Console() if sys.stdout.isatty() else Console(width=120)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        temporary = tempfile.TemporaryDirectory(prefix="bd-", dir=short_parent(os.environ))
        with temporary as folder, ExitStack() as stack:
            code = _Demo(console, options, Path(folder), stack).run()
    except (RuntimeError, OSError) as error:
        console.print(f"the demo failed: {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    console.print("all processes of the demo have ended")
    return code


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def short_parent(environ: Mapping[str, str]) -> str:
    """Return a writable folder whose path is short enough for sockets below it.

    Raises:
        RuntimeError: there is none.
    """
    for parent in (tempfile.gettempdir(), environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/var/tmp"):
        if 0 < len(os.fsencode(parent)) <= PARENT_BYTES_MAX and os.access(parent, os.W_OK | os.X_OK):
            return parent
    raise RuntimeError(
        f"no writable temporary folder with a path of at most {PARENT_BYTES_MAX} bytes; set TMPDIR to one"
    )


class _Tail:
    """Reads the lines that are appended to a file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._partial = b""

    def lines(self) -> Sequence[str]:
        """Return the complete lines since the last call."""
        *lines, self._partial = (self._partial + self._file.read()).split(b"\n")
        return [line.decode() for line in lines]

    def close(self) -> None:
        self._file.close()


class _Demo:
    """One run. Everything that it starts is stopped when `stack` closes."""

    def __init__(self, console: Console, options: Options, folder: Path, stack: ExitStack) -> None:
        self._console = console
        self._options = options
        self._folder = folder
        self._stack = stack
        self._script = SCENARIOS[options.scenario]
        self._vms = vms_of(self._script, options.vms, uuid.uuid4().hex)
        self._records = Records()
        self._shown: dict[str, list[Shown]] = {}
        self._ends_ms: dict[str, list[float]] = {}  # by VM: the times of actions on it
        self._unreadable_from_ms: dict[str, float] = {}
        self._resident_bytes = 0

    def run(self) -> int:
        options = self._options
        self._console.print(f"{options.scenario}: {self._script.about}\n")
        self._console.print(f"{count_of(options.vms, 'simulated VM')} for {options.seconds} s, without QEMU")
        self._simulator = self._stack.enter_context(simulator(self._folder, "--vms", "0", "--no-truths"))
        self._hypervisor = Hypervisor(self._folder, self._simulator)
        self._stack.callback(self._hypervisor.close)
        self._updates = self._tail(self._hypervisor.updates_log)
        for vm in self._vms:
            if not vm.role.starts_at:
                self._add(vm)
        arguments = options.arguments(self._folder)
        self._console.print(f"barograph run {' '.join(arguments)}", soft_wrap=True)
        started_ms = time.time() * 1000
        self._agent = AgentProcess(self._folder, arguments, options.environment(os.environ))
        self._stack.callback(self._agent.kill)
        self._lines = self._tail(self._agent.stdout)
        self._wait_for_agent()
        interrupted = self._show(time.time() * 1000)
        cpu_s = self._agent.cpu_s()
        passed_s, until_ms = time.time() - started_ms / 1000, time.time() * 1000 - PROMISED_MS
        code = self._stop()
        faults = self._summarize(started_ms, until_ms)
        self._console.print(
            f"agent: {100 * cpu_s / passed_s:.1f} % of one core including its start ({cpu_s:.1f} s), "
            f"at most {self._resident_bytes / 1e6:.0f} MB of memory"
        )
        if faults:
            self._console.print(f"{count_of(faults, 'sample')} lost, repeated or wrong", style="bold red")
        if code:
            self._console.print(f"the agent ended with exit code {code}", style="bold red")
        return INTERRUPTED if interrupted else int(bool(faults or code))

    def _tail(self, path: Path) -> _Tail:
        tail = _Tail(path)
        self._stack.callback(tail.close)
        return tail

    def _add(self, vm: Vm) -> None:
        self._hypervisor.add_vm(vm.name, vm.spec)
        if vm.role.monitor_taken:
            other_tool = self._stack.enter_context(socket.socket(socket.AF_UNIX))
            other_tool.connect(str(self._folder / f"{vm.name}.qmp"))

    # ---- while it runs

    def _wait_for_agent(self) -> None:
        """Wait until the agent has discovered the monitors; the scenario begins then.

        Raises:
            RuntimeError: the agent has ended, or did not start within the timeout.
        """
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not any(record["state"] == "running" for record in self._records.agent):
            self._poll()
            if time.monotonic() > deadline:
                raise RuntimeError(f"the agent did not start within {_START_TIMEOUT_S} s")
            time.sleep(0.05)

    def _show(self, began_ms: float) -> bool:
        """Run the scenario; return whether it was interrupted."""
        options = self._options

        def draw(remaining: str) -> Group:
            title = f"{options.scenario}: simulated VMs, according to the agent's records{remaining}"
            return render(self._console, self._records, began_ms, title, lag_ms=self._lag_ms)

        try:
            show(
                self._console,
                self._records,
                [step for vm in self._vms for step in self._steps(vm)],
                began_ms=began_ms,
                seconds=options.seconds,
                poll=self._poll,
                draw=draw,
            )
        except KeyboardInterrupt:
            self._console.print("interrupted; stopping")
            return True
        return False

    def _steps(self, vm: Vm) -> list[Step]:
        seconds, name = self._options.seconds, vm.name
        steps = [
            Step(action.at * seconds, name, action.text, partial(self._perform, name, action))
            for action in vm.role.actions
        ]
        if vm.role.monitor_taken:
            steps.append(Step(0, name, "another tool is connected to the monitor", lambda: None))
        if vm.role.starts_at:
            text = "a clone with the UUID of another VM starts"
            steps.append(Step(vm.role.starts_at * seconds, name, text, partial(self._add, vm)))
        return steps

    def _perform(self, name: str, action: Action) -> None:
        now_ms = time.time() * 1000
        self._ends_ms.setdefault(name, []).append(now_ms)
        if action.makes_unreadable:
            self._unreadable_from_ms[name] = now_ms
        for order in action.orders:
            try:
                self._hypervisor.order(order, name)
            except RuntimeError as error:  # in a short run a VM may still be booting
                self._records.add_action(name, f"failed: {error}")

    def _poll(self) -> None:
        """Receive new records and updates.

        Raises:
            RuntimeError: the agent or the simulator has ended.
        """
        self._agent.must_be_running()
        if self._simulator.poll() is not None:
            raise RuntimeError(f"the simulator has ended:\n{self._hypervisor.log.read_text()[-4000:]}")
        self._resident_bytes = max(self._resident_bytes, self._agent.resident_bytes())
        self._receive()

    def _receive(self) -> None:
        for line in self._updates.lines():
            path, update = update_in(line)
            self._shown.setdefault(path.stem, []).append(update)
        for line in self._lines.lines():
            self._records.add(json.loads(line))

    def _lag_ms(self, name: str, sample: Document) -> float | None:
        """Return the time from a sample's update to its reading; `None`: the update is not in the log yet."""
        recent = reversed(self._shown.get(name, [])[-5:])
        seen_ms = [each.first_seen_ms for each in recent if each.last_update_s == sample["last_update"]]
        return sample["observed_at_ms"] - min(seen_ms) if seen_ms else None

    # ---- at the end

    def _stop(self) -> int:
        """Stop the agent and then the simulator; return the agent's exit code."""
        self._hypervisor.order("flush")
        try:
            code = self._agent.stop()
        except subprocess.TimeoutExpired:
            self._console.print("the agent did not stop in time and was killed", style="bold red")
            self._agent.kill()
            code = self._agent.process.returncode
        self._receive()
        kill(self._simulator)
        return code

    def _summarize(self, started_ms: float, until_ms: float) -> int:
        """Print the summary; return how many samples were lost, repeated or wrong."""
        console, records = self._console, self._records
        made = sum(len(of_vm) for of_vm in self._shown.values())
        samples = sum(len(of_vm) for of_vm in records.samples.values())
        console.print(
            f"\n{count_of(made, 'update')} made, {count_of(samples, 'sample')} received. "
            "Per VM, from its first sample on:"
        )
        impossible = [vm.name for vm in self._vms if vm.role.impossible]
        expected = {vm.name: self._shown.get(vm.name, []) for vm in self._vms if self._is_read(vm)}
        faults = summary(
            console,
            records,
            expected,
            until_ms,
            ends_ms=self._ends_ms,
            unreadable_from_ms=self._unreadable_from_ms,
            impossible=impossible,
        )
        self._print_not_reporting()
        if impossible:
            self._print_kept_out(impossible)
        console.print(f"states seen: {', '.join(sorted(records.states_seen))}")
        undisturbed = {vm.name for vm in self._vms if not (vm.role.actions or vm.role.starts_at)}
        firsts = [
            of_vm[0]["observed_at_ms"] for name, of_vm in records.samples.items() if name in undisturbed
        ]
        if firsts:
            half_s, last_s = ((at_ms - started_ms) / 1000 for at_ms in (quantile(firsts, 0.5), max(firsts)))
            console.print(
                "first samples after the start of the agent's process, of "
                f"{count_of(len(firsts), 'undisturbed VM')}: half within {half_s:.1f} s, the last within "
                f"{last_s:.1f} s"
            )
        steady_at_ms = started_ms + (STEADY_AFTER + 3) * self._options.interval_s * 1000
        console.print(readings(records, steady_at_ms))
        return faults

    def _is_read(self, vm: Vm) -> bool:
        """Return whether samples are expected: not of a clone or a taken monitor, nor before a connection."""
        connected = self._records.states.get(vm.name, {}).get("state", "connecting") != "connecting"
        return connected and not (vm.role.monitor_taken or vm.role.clone_of)

    def _print_not_reporting(self) -> None:
        states = self._records.states
        names = sorted(name for name, state in states.items() if state["state"] != "reporting")
        for name in names[:_NOT_REPORTING_MAX]:
            state = states[name]
            line = f"  {name}: {state['state']} ({state['reason']}): {state['detail']}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        if len(names) > _NOT_REPORTING_MAX:
            more = count_of(len(names) - _NOT_REPORTING_MAX, "more VM")
            self._console.print(f"  and {more} not reporting")

    def _print_kept_out(self, impossible: Sequence[str]) -> None:
        counters: Mapping[str, int] = self._records.agent[-1]["counters"] if self._records.agent else {}
        dropped = sum(count for name, count in counters.items() if name.startswith("statistics_refused"))
        kept_out = count_of(dropped, "impossible value")
        self._console.print(f"  {', '.join(impossible)}: {kept_out} left out of the samples")
