"""What a reader of the agent's records knows. A demo shows nothing else about the agent."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

Document = Mapping[str, Any]

MANY = 5
"""If this many VMs do the same within a second, the timeline shows one line for all of them."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the timeline."""

    at_ms: float  # when it happened, not when it was received; Unix milliseconds
    vm: str
    text: str
    state: str  # the VM's new state; empty: an action of the demo


def merged(timeline: Sequence[Entry]) -> Sequence[Entry]:
    """Return the timeline with one entry for what many VMs did within the same second."""
    alike: dict[tuple[int, str, str], list[Entry]] = {}
    for entry in timeline:
        alike.setdefault((int(entry.at_ms // 1000), entry.text, entry.state), []).append(entry)
    short: list[Entry] = []
    for group in alike.values():
        first = group[0]
        short += group if len(group) < MANY else [replace(first, vm=f"{len(group)} VMs")]
    return sorted(short, key=lambda entry: entry.at_ms)


class Records:
    """The records received so far. `samples` and `states` are by VM name."""

    def __init__(self) -> None:
        self.samples: dict[str, list[Document]] = {}
        self.states: dict[str, Document] = {}
        self.agent: list[Document] = []
        self.states_seen: set[str] = set()
        self._timeline: list[Entry] = []

    def add_action(self, vm: str, text: str) -> None:
        """Add an action of the demo to the timeline."""
        self._timeline.append(Entry(time.time() * 1000, vm, text, ""))

    def timeline(self) -> Sequence[Entry]:
        """Return the entries so far, ordered by time."""
        return sorted(self._timeline, key=lambda entry: entry.at_ms)

    def add(self, document: Document) -> None:
        """Add the value of a record: see `schemas/`."""
        kind = document["schema"].split("/")[0]
        if kind == "barograph.vm.sample":
            self.samples.setdefault(document["vm"]["name"], []).append(document)
        elif kind == "barograph.vm.state":
            self._add_state(document)
        elif kind == "barograph.agent.state":
            self.agent.append(document)

    def _add_state(self, document: Document) -> None:
        name = document["vm"].get("name", Path(document["vm"]["path"]).stem)
        # States from before a VM is identified have the host as key, so they are in another partition and may
        # arrive late.
        if document["observed_at_ms"] >= self.states.get(name, document)["observed_at_ms"]:
            self.states[name] = document
        self.states_seen.add(document["state"])
        if not document["heartbeat"]:
            before = f"{document['previous_state']} → " if "previous_state" in document else ""
            text = f"{before}{document['state']} ({document['reason']}): {document['detail']}"
            self._timeline.append(Entry(document["observed_at_ms"], name, text, document["state"]))
