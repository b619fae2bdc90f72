"""What any reader of the two topics knows: the demo shows nothing else."""

import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

TOPICS = ("barograph.samples", "barograph.states")
PARTITIONS = 4

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Told:
    """One line of the story, by the time of what it tells of, which is not that of its arrival."""

    at_ms: float  # Unix milliseconds
    words: str
    state: str  # the one entered; empty: something done to a guest


class Reader:
    """Fills itself from the topics, in a thread, from their beginning on."""

    def __init__(self, bootstrap: str) -> None:
        self.samples: dict[str, list[Document]] = {}
        self.states: dict[str, Document] = {}
        self.agent: list[Document] = []
        self.newest_sample = ""  # where the newest sample stood, and its id
        self._story: list[Told] = []
        self._ending = threading.Event()
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "demo", "fetch.wait.max.ms": 100, "log_level": 0}
        )
        self._consumer.assign(
            [
                TopicPartition(topic, number, OFFSET_BEGINNING)
                for topic in TOPICS
                for number in range(PARTITIONS)
            ]
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def tell(self, words: str) -> None:
        """Add something done to a guest to the story."""
        self._story.append(Told(time.time() * 1000, words, ""))

    def story(self) -> Sequence[Told]:
        """Return what has happened so far, in order."""
        return sorted(self._story, key=lambda told: told.at_ms)

    def close(self, wait_s: float) -> None:
        """End once the agent's last word has arrived, or after `wait_s`."""
        deadline = time.monotonic() + wait_s
        while not (self.agent and self.agent[-1]["state"] == "stopping") and time.monotonic() < deadline:
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
                place = f"{message.topic()}, partition {message.partition()}, offset {message.offset()}"
                headers = cast(Sequence[tuple[str, bytes]], message.headers() or ())
                self.newest_sample = f"{place}: id {dict(headers).get('ce_id', b'').decode()}"
            elif kind == "barograph.vm.state":
                self._state(document)
            else:
                self.agent.append(document)

    def _state(self, document: Document) -> None:
        name = document["vm"].get("name", Path(document["vm"]["path"]).stem)
        # States from before a VM is known have the host's key, so another partition: they may come late.
        if document["observed_at_ms"] >= self.states.get(name, document)["observed_at_ms"]:
            self.states[name] = document
        if not document["heartbeat"]:
            before = f"{document['previous_state']} → " if "previous_state" in document else ""
            words = f"{name}: {before}{document['state']} ({document['reason']}): {document['detail']}"
            self._story.append(Told(document["observed_at_ms"], words, document["state"]))
