"""Run `make demo-streams`: three stream jobs and their output for a small fleet, for two minutes.

The records are those of agents, built from values: first five days of each VM, then live records. A round of
samples takes a second, which stands for half a minute. One VM leaks memory, one comes under pressure and
recovers, and one host goes dark. The demo shows only what it reads from the topics of the jobs, on a real
Kafka.
"""

import json
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from barograph_streams.core import leak_job, pressure_job, quality_job
from barograph_streams.core.jobs import SAMPLES_TOPIC, STATES_TOPIC
from barograph_streams.core.records import DEAD_LETTER_TOPIC
from tests.contract.schema_files import examples, load
from tests.lab import flink, setup
from tests.lab.kafka import real_kafka
from tests.lab.process import no_child_left
from tests.unit.streams.making import AGENTS, make, vm_id

JOBS = ("pressure", "leak", "quality")
WRITTEN = (pressure_job.TOPIC, leak_job.TOPIC, quality_job.HOST_TOPIC)
VMS = ("web-1", "web-2", "web-3", "db-1", "db-2", "cache-1")
STARVED, LEAKING = VMS.index("web-3"), VMS.index("db-1")
HOSTS: Mapping[str, str] = {agent.host_name: agent.host_id for agent in AGENTS[:2]}
NAMES: Mapping[str, str] = {vm_id(number): name for number, name in enumerate(VMS)} | {
    host_id: name for name, host_id in HOSTS.items()
}
"""The names of VMs and hosts by the key of a record."""

DARK = 1
"""The host that stops. The VMs are assigned to the hosts in turn."""

TOTAL_BYTES = 8 << 30
LEAK_BYTES_PER_H = 24 << 20
HISTORY_H = 5 * 24
SPEED = 30
"""How many seconds of the VMs pass in a second."""

STARVES_AT, DARK_AT, RECOVERS_AT = 10, 15, 40
"""Numbers of rounds. A round takes a second, or longer on a busy machine."""

LIVE_S = 300
"""The limit. The demo ends as soon as it has shown everything, after about 80 rounds."""

START_S = 600
HEARTBEAT_MS = 10_000


class Fleet:
    """The agents of two hosts."""

    def __init__(self, bootstrap: str) -> None:
        self._producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
        self._state = load(examples("agent", "valid")[0])
        self._run = str(uuid.uuid4())
        self._sequence = 0
        self._faults = [0] * len(VMS)
        self._began_s = self._at_s = int(time.time()) - HISTORY_H * 3600

    def past(self) -> None:
        """Write the samples of five days, one each hour."""
        for _ in range(HISTORY_H):
            self.samples(3600, starves=False, dark=False)

    def samples(self, elapsed_s: int, *, starves: bool, dark: bool) -> None:
        """Write a sample of each VM."""
        self._at_s += elapsed_s
        self._sequence += 1
        for vm, _ in enumerate(VMS):
            if dark and vm % len(HOSTS) == DARK:
                continue
            short = starves and vm == STARVED
            self._faults[vm] += 20 * elapsed_s if short else 0
            leaked = LEAK_BYTES_PER_H * (self._at_s - self._began_s) // 3600 if vm == LEAKING else 0
            base = TOTAL_BYTES // 2 + 7_919 * (self._sequence * (vm + 1) % 1_000)
            available = TOTAL_BYTES // 100 if short else base - leaked
            statistics = {
                "available_memory": available,
                "total_memory": TOTAL_BYTES,
                "major_faults": self._faults[vm],
            }
            made = make(
                self._sequence,
                vm=vm,
                host=vm % len(HOSTS),
                last_update_s=self._at_s,
                statistics=statistics,
            )
            self._producer.produce(SAMPLES_TOPIC, made.value, made.key)
        self._producer.flush(30)

    def states(self, *, dark: bool) -> None:
        """Write a state of each agent that runs."""
        now_ms = time.time_ns() // 1_000_000
        for place, (name, host_id) in enumerate(HOSTS.items()):
            if dark and place == DARK:
                continue
            document = self._state | {
                "host": {"id": host_id, "name": name},
                "run": self._run,
                "sequence": now_ms,
                "since_ms": now_ms,
                "observed_at_ms": now_ms,
                "next_heartbeat_by_ms": now_ms + HEARTBEAT_MS,
            }
            self._producer.produce(STATES_TOPIC, json.dumps(document).encode(), host_id)
        self._producer.flush(30)


class Shown:
    """The committed records of the jobs, as any consumer reads them."""

    def __init__(self, bootstrap: str) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "demo",
                "auto.offset.reset": "earliest",
                "log_level": 0,
            }
        )
        self._consumer.subscribe([*WRITTEN])
        self.newest: dict[tuple[str, str], dict[str, Any]] = {}  # by topic and key
        self.seen: dict[str, list[str]] = {}  # the levels of a VM and the conditions of a host, in order

    def poll(self, timeout_s: float) -> list[str]:
        """Read the records that have arrived, and return the changes as texts."""
        news: list[str] = []
        for message in self._consumer.consume(500, timeout_s):
            if message.error() is not None:
                continue
            document = json.loads(message.value() or b"{}")
            key = (message.key() or b"").decode() if isinstance(message.key(), bytes) else ""
            self.newest[message.topic() or "", key] = document
            what = document.get("level") or document.get("condition")
            if what and (not (known := self.seen.setdefault(key, [])) or known[-1] != what):
                known.append(what)
                news.append(f"{NAMES.get(key, key)}: {what}")
        return news

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()

    def has_begun(self) -> bool:
        """Return whether each job has written a record."""
        return {topic for topic, _ in self.newest} == set(WRITTEN)

    def is_complete(self) -> bool:
        """Return whether everything that the demo shows has been seen."""
        pressure = self.seen.get(vm_id(STARVED), [])
        leak = self.newest.get((leak_job.TOPIC, vm_id(LEAKING)), {})
        dark = [*HOSTS.values()][DARK]
        return (
            "pressure" in pressure
            and pressure[-1] == "none"
            and leak.get("leaking", False)
            and self.seen.get(dark, [])[-1:] == ["dark"]
        )

    def table(self, title: str) -> Table:
        """Return the table for the screen."""
        table = Table(title=title, title_justify="left")
        for column in ("", "pressure", "score", "leak", "hours left", "confidence"):
            table.add_column(column)
        for number, name in enumerate(VMS):
            pressure = self.newest.get((pressure_job.TOPIC, vm_id(number)), {})
            leak = self.newest.get((leak_job.TOPIC, vm_id(number)), {})
            slope = f"{leak['bytes_per_hour'] / 2**20:+.1f} MiB/h" if leak.get("leaking") else ""
            table.add_row(
                name,
                " > ".join(self.seen.get(vm_id(number), [])),
                f"{pressure['score']:.2f}" if "score" in pressure else "",
                slope,
                f"{leak['hours_left']:.0f}" if "hours_left" in leak else "",
                f"{leak['confidence']:.2f}" if slope else "",
            )
        for name, host_id in HOSTS.items():
            table.add_row(name, " > ".join(self.seen.get(host_id, [])))
        return table


def run(console: Console, folder: Path) -> int:
    """Run the demo; return the exit code: 0 if all of it has been seen."""
    with ExitStack() as stack:
        console.print("starting a real Kafka and three stream jobs on Apache Flink, about a minute…")
        kafka = stack.enter_context(real_kafka(folder / "kafka"))
        for topic in (SAMPLES_TOPIC, STATES_TOPIC, *WRITTEN, quality_job.VM_TOPIC, DEAD_LETTER_TOPIC):
            kafka.create_topic(topic, 1)
        jobs = [
            stack.enter_context(flink.job(folder / name, name, kafka.bootstrap, checkpoint_interval_ms=1_000))
            for name in JOBS
        ]
        for job in jobs:
            job.start()
        fleet, shown = Fleet(kafka.bootstrap), Shown(kafka.bootstrap)
        stack.callback(shown.close)
        fleet.past()
        begin(fleet, shown, jobs)
        follow(console, fleet, shown, jobs)
        is_complete = shown.is_complete()
        if not (console.is_terminal and not console.is_dumb_terminal):
            console.print(shown.table("records of the jobs"))
        console.print("all was seen" if is_complete else "not everything was seen in time")
        return 0 if is_complete else 1


def begin(fleet: Fleet, shown: Shown, jobs: Sequence[flink.Job]) -> None:
    """Wait until each job has written a record.

    Raises:
        RuntimeError: a job has ended, or it took too long.
    """
    deadline_s = time.monotonic() + START_S
    while not shown.has_begun():
        fleet.states(dark=False)
        shown.poll(1)
        for job in jobs:
            if not job.is_running() or time.monotonic() > deadline_s:
                raise RuntimeError(f"a job did not start: {job.log.read_text()[-2000:]}")


def follow(console: Console, fleet: Fleet, shown: Shown, jobs: Sequence[flink.Job]) -> None:
    """Show the live part until everything has been seen, or for `LIVE_S`."""
    is_live = console.is_terminal and not console.is_dumb_terminal
    began_s, round_ = time.monotonic(), 0
    with Live(console=console) if is_live else nullcontext() as screen:
        while (passed_s := time.monotonic() - began_s) < LIVE_S and not shown.is_complete():
            round_ += 1
            dark = round_ > DARK_AT
            fleet.samples(SPEED, starves=STARVES_AT < round_ < RECOVERS_AT, dark=dark)
            fleet.states(dark=dark)
            news = shown.poll(1)
            if screen is not None:
                screen.update(shown.table(f"records of the jobs · {passed_s:.0f} s"))
            else:
                for line in news:
                    console.print(f"{passed_s:4.0f} s  {line}", highlight=False)
            for job in jobs:
                if not job.is_running():
                    raise RuntimeError(f"a job has ended: {job.log.read_text()[-2000:]}")


def main() -> int:
    """Run the demo in a temporary folder."""
    console = Console() if sys.stdout.isatty() else Console(width=120)
    try:
        setup.kafka()
        flink.set_up()
        with no_child_left(), tempfile.TemporaryDirectory(prefix="bd-", dir="/tmp") as folder:
            code = run(console, Path(folder))
    except (RuntimeError, setup.CannotHave) as error:
        console.print(f"the demo failed: {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    console.print("all processes of the demo have ended")
    return code


if __name__ == "__main__":
    sys.exit(main())
