"""Read the two topics as any consumer would."""

import json
import threading
import time
from collections.abc import Sequence
from typing import cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from simulator.demo.records import Document, Records

TOPICS = ("barograph.samples", "barograph.states")
PARTITIONS = 4


class Reader(Records):
    """The records of the topics from their beginning, read in a thread."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__()
        self.newest_sample = ""  # the place of the newest sample, and its id
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

    def close(self, wait_s: float) -> None:
        """Stop once the agent's last record has arrived, or after `wait_s`."""
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
            self.add(document)
            if document["schema"].startswith("barograph.vm.sample/"):
                place = f"{message.topic()}, partition {message.partition()}, offset {message.offset()}"
                headers = cast(Sequence[tuple[str, bytes]], message.headers() or ())
                self.newest_sample = f"{place}: id {dict(headers).get('ce_id', b'').decode()}"
