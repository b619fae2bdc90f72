"""`make demo`: three real guests, the agent, and what arrives in Kafka, live in the terminal for a minute.

Everything shown comes from the topics, as any reader would get it. What happens on the way: one guest's
balloon driver is unloaded, so that it goes `stalled`, and loaded again.
"""

import json
import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tests.lab import qemu, setup
from tests.lab.agent import agent
from tests.lab.kafka import EmbeddedKafka
from tests.lab.measure import Arrived, compare, quantile
from tests.lab.observer import Observer

SECONDS = 60
UNLOAD_AT_S, LOAD_AT_S = 15, 32
TOPICS = ["barograph.samples", "barograph.states"]
COLOURS = {"reporting": "green", "stalled": "red", "waiting": "yellow", "gone": "red", "unreachable": "red"}

Document = Mapping[str, Any]


class Reader:
    """What a consumer of the two topics knows. A thread fills it."""

    def __init__(self, bootstrap: str) -> None:
        self.samples: dict[str, list[Document]] = {}
        self.states: dict[str, Document] = {}
        self.agent: Document = {}
        self.story: deque[Text] = deque(maxlen=14)
        self._ending = threading.Event()
        self._began_s = time.monotonic()
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": uuid.uuid4().hex,
                "auto.offset.reset": "earliest",
                "allow.auto.create.topics": True,
                "topic.metadata.refresh.interval.ms": 500,
                "log_level": 0,
            }
        )
        self._consumer.subscribe(TOPICS)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def tell(self, words: str, style: str = "bold") -> None:
        """Add a line to the story."""
        self.story.append(Text(f"{time.monotonic() - self._began_s:5.1f} s  {words}", style=style))

    def close(self, wait_s: float) -> None:
        """End once the agent's last word has arrived, or after `wait_s`."""
        deadline = time.monotonic() + wait_s
        while self.agent.get("state") != "stopping" and time.monotonic() < deadline:
            time.sleep(0.05)
        self._ending.set()
        self._thread.join()
        self._consumer.close()

    def _read(self) -> None:
        while not self._ending.is_set():
            message = self._consumer.poll(0.1)
            if message is None or message.error() is not None:
                continue
            document: Document = json.loads(message.value() or b"{}")
            kind = document["schema"].split("/")[0]
            if kind == "barograph.vm.sample":
                self.samples.setdefault(document["vm"]["name"], []).append(document)
            elif kind == "barograph.vm.state":
                self._state(document)
            else:
                self.agent = document

    def _state(self, document: Document) -> None:
        name = document["vm"].get("name", Path(document["vm"]["path"]).stem)
        # States from before a VM is known have the host's key, so another partition: they may come late.
        if document["observed_at_ms"] >= self.states.get(name, document)["observed_at_ms"]:
            self.states[name] = document
        if not document["heartbeat"]:
            before = document.get("previous_state", "")
            words = f"{name}: {before} → {document['state']} ({document['reason']}): {document['detail']}"
            self.tell(words, COLOURS.get(document["state"], "white"))


def picture(reader: Reader, left_s: float) -> Group:
    """Draw what is known now."""
    table = Table(
        title=f"barograph: real guests under QEMU, as read from Kafka · {left_s:.0f} s left", expand=True
    )
    for column in ("VM", "state", "reason", "samples", "last update", "free", "available", "of", "faults"):
        table.add_column(column, justify="left" if column in ("VM", "state", "reason") else "right")
    for name in sorted(reader.states):
        state = reader.states[name]
        samples = reader.samples.get(name, [])
        newest = samples[-1] if samples else None
        values: Mapping[str, int] = {} if newest is None else newest["statistics"]
        age = "-" if newest is None else f"{max(time.time() - newest['last_update'], 0):.0f} s ago"
        table.add_row(
            name,
            Text(state["state"], style=COLOURS.get(state["state"], "white")),
            state["reason"],
            str(len(samples)),
            age,
            *(
                _mib(values.get(statistic))
                for statistic in ("free_memory", "available_memory", "total_memory")
            ),
            str(values.get("minor_faults", "-")),
        )
    return Group(table, *reader.story)


def _mib(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / 2**20:.1f} MiB"


def run(console: Console, folder: Path) -> int:
    """Show it; return the exit code."""
    with ExitStack() as stack:
        console.print("booting three guests (software emulation, some seconds)…")
        steady = stack.enter_context(qemu.guest(folder, "steady", booted=False))
        churning = stack.enter_context(qemu.guest(folder, "churning", booted=False))
        driverless = stack.enter_context(qemu.guest(folder, "driverless", driver=False, booted=False))
        vms = (steady, churning, driverless)
        for vm in vms:
            vm.wait_until_booted()
        churning.order("churn")
        kafka = EmbeddedKafka()
        stack.callback(kafka.close)
        observer = Observer([vm.truth for vm in vms], folder)
        reader = Reader(kafka.bootstrap)
        arguments = ["--monitor", f"{folder}/*.qmp", "--interval", "1s", "--kafka", kafka.bootstrap]
        console.print(f"barograph run {' '.join(arguments)}")
        process = stack.enter_context(agent(folder, *arguments))
        plan = {UNLOAD_AT_S: "unload", LOAD_AT_S: "load"}
        begun_s = time.monotonic()
        try:
            with Live(console=console, refresh_per_second=4, transient=not console.is_terminal) as live:
                while (passed_s := time.monotonic() - begun_s) < SECONDS:
                    if process.process.poll() is not None:
                        raise RuntimeError(f"the agent has ended:\n{process.stderr.read_text()[-4000:]}")
                    for at_s in [at_s for at_s in plan if at_s <= passed_s]:
                        order = plan.pop(at_s)
                        reader.tell(f"steady: the guest {order}s its balloon driver")
                        steady.order(order)
                    live.update(picture(reader, SECONDS - passed_s))
                    time.sleep(0.25)
        except KeyboardInterrupt:
            console.print("interrupted: ending")
        until_ms = time.time() * 1000 - 500
        code = process.stop()
        reader.close(5)
        shown = observer.stop()
        if not console.is_terminal:
            console.print(picture(reader, 0))
        return summary(console, reader, {vm.name: shown.get(vm.truth, []) for vm in vms}, until_ms) or code


def summary(console: Console, reader: Reader, shown: Mapping[str, Sequence[Any]], until_ms: float) -> int:
    """Print what the guests did against what was delivered; return 1 where they differ."""
    table = Table(title="what a second monitor saw, against what arrived")
    for column in ("VM", "updates", "samples", "lost", "twice", "wrong", "lag p50", "lag p99"):
        table.add_column(column, justify="left" if column == "VM" else "right")
    faults = 0
    for name, updates in shown.items():
        samples = [
            Arrived(each["last_update"], each["observed_at_ms"], each["sequence"], each["statistics"])
            for each in reader.samples.get(name, [])
        ]
        found = compare(updates, samples, until_ms=until_ms)
        faults += len(found.lost) + len(found.repeated) + len(found.wrong) + len(found.invented)
        lags = [f"{quantile(found.lags_ms, share):.0f} ms" if found.lags_ms else "-" for share in (0.5, 0.99)]
        numbers = (found.updates, found.samples, len(found.lost), len(found.repeated), len(found.wrong))
        table.add_row(name, *map(str, numbers), *lags)
    console.print(table)
    counters: Mapping[str, int] = reader.agent.get("counters", {})
    readings, taken = counters.get("readings", 0), counters.get("samples", 0)
    ratio = readings / max(taken, 1)
    console.print(
        f"readings {readings}, samples {taken}: {ratio:.2f} each, start, waiting and stall included"
    )
    set_, given = counters.get("intervals_set", 0), counters.get("intervals_given_back", 0)
    console.print(f"intervals set {set_}, given back {given}")
    return 1 if faults else 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run the demo in a folder that is gone afterwards."""
    console = Console() if sys.stdout.isatty() else Console(width=120)
    if shutil.which("qemu-system-x86_64") is None:
        console.print(
            "QEMU is not here: `make demo` installs it on Debian; elsewhere install qemu-system-x86_64"
        )
        return 1
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="bd-", dir="/tmp") as folder:
            return run(console, Path(folder))
    except (RuntimeError, setup.CannotHave) as error:
        console.print(f"the demo could not go on: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
