"""Read the records that a running agent writes, while it writes them."""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tests.lab.agent import AgentProcess

Document = Mapping[str, Any]

STALL_DEADLINE_S = 6.0
"""The default at an interval of 1 s: max(3 x 1 s, 1 s + 5 s)."""

PROMPT_S = 5.0
"""How soon an event must show on a busy machine; without the event, a deadline of seconds passes."""

STARTS_WITHIN_S = 120.0
"""How long an agent may take until its first log line, before a wait for one of its records begins."""


def watch(folder: Path, *extra: str) -> list[str]:
    """Return the arguments for an agent that watches the monitors of a folder at an interval of 1 s."""
    return ["--monitor", f"{folder}/*.qmp", "--interval", "1s", *extra]


class Lines:
    """The records that an agent has written so far, one JSON document per line."""

    def __init__(self, process: AgentProcess) -> None:
        self._process = process
        self._records: list[Document] = []
        self._read_bytes = 0

    def all(self) -> list[Document]:
        """Return the record of every complete line. Each is parsed once, since waits ask often."""
        with self._process.stdout.open("rb") as file:
            file.seek(self._read_bytes)
            new = file.read()
        complete = new[: new.rfind(b"\n") + 1]
        self._read_bytes += len(complete)
        self._records += [json.loads(line) for line in complete.splitlines()]
        return list(self._records)

    def states(self, path: Path) -> list[Document]:
        """Return the state records of a monitor, in order."""
        return [
            each
            for each in self.all()
            if each["schema"].startswith("barograph.vm.state/") and each["vm"]["path"] == str(path)
        ]

    def words(self, path: Path) -> list[tuple[str, str]]:
        """Return the state and reason of each of them, without heartbeats."""
        return [(each["state"], each["reason"]) for each in self.states(path) if not each["heartbeat"]]

    def samples(self, name: str) -> list[Document]:
        """Return the samples of a VM, in order."""
        return [
            each
            for each in self.all()
            if each["schema"].startswith("barograph.vm.sample/") and each["vm"].get("name") == name
        ]

    def wait_for_samples(self, name: str, count: int) -> list[Document]:
        """Wait for `count` samples of a VM; return them."""
        self.wait(lambda: len(self.samples(name)) >= count, f"{count} samples of {name}")
        return self.samples(name)[:count]

    def wait_for_polls(self, name: str, *, after: int) -> list[Document]:
        """Wait for two polled samples of a VM beyond its first `after` ones; return all beyond these.

        On a busy machine several unsolicited ones come first: an answer may be late.
        """
        self.wait(
            lambda: [each["origin"] for each in self.samples(name)[after:]].count("poll") >= 2,
            f"two polled samples of {name}",
        )
        return self.samples(name)[after:]

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = 150.0) -> float:
        """Wait until `condition` holds; return how many seconds it took.

        They are counted from the agent's first log line: on a busy machine Python takes its time to start.
        """
        begun_s = time.monotonic()
        starts_by_s = begun_s + STARTS_WITHIN_S
        while not condition():
            if time.monotonic() < starts_by_s and not self._process.stderr.stat().st_size:
                begun_s = time.monotonic()
            if time.monotonic() - begun_s > timeout_s or self._process.process.poll() is not None:
                records = "\n".join(json.dumps(each) for each in self.all()[-5:])
                log = self._process.stderr.read_text()[-3000:]
                code = self._process.process.poll()
                ended = "" if code is None else f"; the agent ended with {code}"
                raise AssertionError(f"not seen within {timeout_s} s: {what}{ended}\n{log}\n{records}")
            time.sleep(0.02)
        return time.monotonic() - begun_s

    def wait_for_state(self, path: Path, state: str, timeout_s: float = 150.0) -> float:
        """Wait until the VM is in `state`; return how many seconds it took."""

        def is_in() -> bool:
            records = self.states(path)
            return bool(records) and records[-1]["state"] == state

        return self.wait(is_in, f"{path.name} {state}", timeout_s)


def steady(words: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the states and reasons without the moments in which QEMU got no CPU to answer."""
    return [word for word, _ in groupby(each for each in words if each != ("unreachable", "no_answer"))]


def conserved(process: AgentProcess) -> Mapping[str, int]:
    """Assert that an agent's totals, logged when it stopped, add up; return them.

    Every reading was a sample, a repeat or coalesced, and every queued record was delivered, still queued,
    dropped or set aside as a dead letter.
    """
    stopped = process.stderr.read_text().rpartition(" stopped ")[2].splitlines()[0]
    totals = {name: int(total) for name, total in re.findall(r"(\S+)=(\d+)", stopped)}

    def total(name: str) -> int:
        return sum(
            amount
            for key, amount in totals.items()
            if key == name or key.startswith((f"{name}.", f"{name}:"))
        )

    assert total("readings") == total("samples") + total("repeats") + total("coalesced"), totals
    for sink in {key.removeprefix("queued.") for key in totals if key.startswith("queued.")}:
        into = total(f"queued.{sink}") + total(f"carried.{sink}")
        ends = ("delivered", "waiting", "dropped", "dead_lettered")
        assert into == sum(total(f"{end}.{sink}") for end in ends), (sink, totals)
    assert total("queued.kafka.samples") in (0, total("samples")), totals
    return totals
