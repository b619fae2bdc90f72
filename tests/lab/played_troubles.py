"""Cause troubles at set times, and write the series and alerts of Prometheus servers meanwhile."""

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.lab import qemu, setup
from tests.lab.agent import AgentProcess, agent
from tests.lab.process import free_port, kill
from tests.lab.prometheus import Prometheus
from tests.lab.recorded_series import HELD, TIMED, Firing, as_document, held, notation, timed

STEP_S = 15
"""The interval of the scrapes, the OTLP exports and the rules."""

PORT = ("-device", "pcie-root-port,id=port0,chassis=1")
"""A port for plugging in a balloon."""

_WRITE_EVERY_S = 300.0
_SHOWN_FOLDER = "/run/vms"  # replaces the temporary folder in the texts


@dataclass
class Host:
    """One host: its VMs and its agent, which a step may stop and start again."""

    name: str
    folder: Path
    arguments: Sequence[str]
    env: Mapping[str, str]
    within: Sequence[str] = ()
    port: int = field(default_factory=free_port)
    stack: ExitStack = field(default_factory=ExitStack)
    process: AgentProcess | None = None

    def start(self) -> None:
        """Start the agent."""
        digit = self.name[-1]
        words = ["--monitor", f"{self.folder}/*.qmp", "--host-id", digit * 32, "--host-name", self.name]
        env = {
            "BAROGRAPH_WEB__ENABLED": "true",
            "BAROGRAPH_WEB__LISTEN": f"127.0.0.1:{self.port}",
            **self.env,
        }
        if "--otlp" in self.arguments:
            env["BAROGRAPH_OTLP__INTERVAL"] = f"{STEP_S}s"
        started = agent(self.folder, *words, *self.arguments, env=env, within=self.within)
        self.process = self.stack.enter_context(started)

    @property
    def running(self) -> AgentProcess:
        """Return the agent that was started last."""
        assert self.process is not None
        return self.process

    def kill(self) -> None:
        """Kill the agent, as when the host loses power."""
        kill(self.running.process)


@dataclass(frozen=True, slots=True)
class Step:
    """An action on a VM or an agent at a set time."""

    minute: float
    subject: str
    words: str
    act: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Habit:
    """An action that is repeated every few seconds."""

    from_minute: float
    until_minute: float
    act: Callable[[], object]


def guests(
    stack: ExitStack,
    folder: Path,
    names: Sequence[str],
    *extra: str,
    first: int = 1,
    driver: bool = True,
    balloon: bool = True,
) -> dict[str, qemu.Vm]:
    """Boot guests with Linux 6.12 on the newer QEMU, which report all statistics. Each has a swap disk.

    Args:
        stack: stops the guests when it closes.
        folder: of their host; its last character is part of their UUIDs.
        names: of the guests.
        extra: further arguments of QEMU.
        first: the number of the first guest, from 1. Numbers must be unique on a host.
        driver: whether they load virtio_balloon while they boot.
        balloon: whether they have the device.
    """
    vms: dict[str, qemu.Vm] = {}
    for number, name in enumerate(names, first):
        disk = folder / f"{name}.disk"
        with disk.open("wb") as file:
            file.truncate(256 << 20)
        vms[name] = stack.enter_context(
            qemu.guest(
                folder,
                name,
                *("-drive", f"file={disk},if=virtio,format=raw,cache=unsafe"),
                *extra,
                driver=driver,
                balloon=balloon,
                uuid=f"00000000-0000-4000-8000-{folder.name[-1]}{number:011d}",
                command=setup.newer_qemu(),
                image=setup.newer_guest(),
            )
        )
        print(f"{name} has booted", flush=True)
    return vms


class Recording:
    """The recording of one Prometheus, from a given time on."""

    def __init__(
        self,
        server: Prometheus,
        start_s: float,
        folder: Path,
        more: Sequence[str] = (),
        leaves_out: Callable[[Mapping[str, str]], bool] = lambda metric: False,
    ) -> None:
        """Create an empty recording.

        Args:
            server: the Prometheus.
            start_s: the time that is 0 in the recording.
            folder: its path is replaced in all texts.
            more: further metrics that have the time of the scrape.
            leaves_out: returns whether a series with these labels is left out.
        """
        self._server = server
        self._start_s = start_s
        self._folder = str(folder)
        self._names = (*HELD, *more, *TIMED)
        self._leaves_out = leaves_out
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
        for name in self._names:
            points = self._points(name, end_s) if name in TIMED else {}
            for each in self._server.query_range(name, self._start_s, end_s, STEP_S):
                if self._leaves_out(each["metric"]):
                    continue
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
        """Return the stored samples of each series, by second."""
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


def next_start_s() -> float:
    """Return the next time that is a multiple of `STEP_S`."""
    return float(int(time.time() / STEP_S + 1) * STEP_S)


def play(
    recordings: Mapping[Path, Recording],
    start_s: float,
    minutes: float,
    steps: Sequence[Step],
    habits: Sequence[Habit] = (),
) -> None:
    """Do each step at its minute, and write the recordings every 5 minutes and at the end.

    A failure is printed and the recording continues, since an hour of recording would be lost otherwise. The
    recordings are written even after an error or an interrupt.
    """
    todo = sorted(steps, key=lambda step: step.minute)
    done: list[Step] = []
    written_s = time.time()
    try:
        while (now_s := time.time()) < start_s + minutes * 60:
            while todo and now_s >= start_s + todo[0].minute * 60:
                step = todo.pop(0)
                print(f"{step.minute:4.0f} min  {step.subject}: {step.words}", flush=True)
                if _succeeds(step.act):
                    done.append(step)
            for habit in habits:
                if habit.from_minute * 60 < now_s - start_s < habit.until_minute * 60:
                    _succeeds(habit.act)
            for each in recordings.values():
                _succeeds(each.watch)
            if now_s - written_s > _WRITE_EVERY_S:
                written_s = now_s
                _write(recordings, done)
            time.sleep(3)
    finally:
        _write(recordings, done)


def _succeeds(act: Callable[[], object]) -> bool:
    """Run `act` and return whether it succeeded. Print an error."""
    try:
        act()
    except Exception:  # noqa: BLE001 - whatever fails, the recording continues
        traceback.print_exc()
        return False
    return True


def _write(recordings: Mapping[Path, Recording], done: Sequence[Step]) -> None:
    for path, each in recordings.items():
        _succeeds(partial(each.write, path, done))
