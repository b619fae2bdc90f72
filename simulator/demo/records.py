"""What any reader of the agent's records knows: a demo shows nothing else of it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

Document = Mapping[str, Any]

MANY = 5
"""VMs; of so many that do the same the story has one line."""


@dataclass(frozen=True, slots=True)
class Told:
    """One line of the story, by the time of what it tells of, which is not that of its arrival."""

    at_ms: float  # Unix milliseconds
    vm: str  # whose; empty: of no one VM
    words: str
    state: str  # the one entered; empty: something done to a VM


def gathered(story: Sequence[Told]) -> Sequence[Told]:
    """Return it with one line for what many VMs did within a second."""
    alike: dict[tuple[int, str, str], list[Told]] = {}
    for told in story:
        alike.setdefault((int(told.at_ms // 1000), told.words, told.state), []).append(told)
    short: list[Told] = []
    for group in alike.values():
        first = group[0]
        short += group if len(group) < MANY else [replace(first, vm=f"{len(group)} VMs")]
    return sorted(short, key=lambda told: told.at_ms)


class Records:
    """Fills as records are taken; by VM, under its name."""

    def __init__(self) -> None:
        self.samples: dict[str, list[Document]] = {}
        self.states: dict[str, Document] = {}
        self.agent: list[Document] = []
        self.states_seen: set[str] = set()
        self._story: list[Told] = []

    def tell(self, vm: str, words: str) -> None:
        """Add something done to a VM to the story."""
        self._story.append(Told(time.time() * 1000, vm, words, ""))

    def story(self) -> Sequence[Told]:
        """Return what has happened so far, in order."""
        return sorted(self._story, key=lambda told: told.at_ms)

    def take(self, document: Document) -> None:
        """Add a record's value: `schemas/`."""
        kind = document["schema"].split("/")[0]
        if kind == "barograph.vm.sample":
            self.samples.setdefault(document["vm"]["name"], []).append(document)
        elif kind == "barograph.vm.state":
            self._state(document)
        else:
            self.agent.append(document)

    def _state(self, document: Document) -> None:
        name = document["vm"].get("name", Path(document["vm"]["path"]).stem)
        # States from before a VM is known have the host's key, so another partition: they may come late.
        if document["observed_at_ms"] >= self.states.get(name, document)["observed_at_ms"]:
            self.states[name] = document
        self.states_seen.add(document["state"])
        if not document["heartbeat"]:
            before = f"{document['previous_state']} → " if "previous_state" in document else ""
            words = f"{before}{document['state']} ({document['reason']}): {document['detail']}"
            self._story.append(Told(document["observed_at_ms"], name, words, document["state"]))
